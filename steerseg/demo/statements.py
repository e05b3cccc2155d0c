"""Statements about the objects of a scene: which of them are red, move left, are on the left of others.

Every statement is one of three values: yes, no, or unclear. Positions and motions are judged over all the frames in
which an object is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from steerseg.demo import phrases
from steerseg.demo.colours import NEAR, TINTS
from steerseg.demo.observe import Observation, observe
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import Catalogue
from steerseg.demo.verdicts import NO, UNCLEAR, YES, Verdicts, as_verdicts, both, noun_table, trait_table

TARGET_SHARE = 0.35  # an object seen in fewer frames is nobody's target
LARGER = 1.4  # ratio from which one object is clearly larger (or faster: FASTER) than another
FASTER = 1.7

Better = Callable[[int, int], bool]
"""Whether object i is clearly better in some respect than object j."""


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """As ``np.quantile``, several times faster on the few dozen values of one object."""
    ordered = np.sort(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))


class Statements:
    """Verdicts on the N objects of a scene.

    Args:
        scene: The scene.
        catalogue: The objects of its styles.
        nouns: Further nouns → the objects that are called so.

    Attributes:
        observation: Positions, sizes and motions of the objects.
        names: The objects' names.
        groups: The objects' groups.
        count: N.
        exists: (N,) whether an object is seen at all, as a verdict.
        eligible: Indices of the objects that can be targets.
    """

    def __init__(
        self, scene: Scene, catalogue: Catalogue, nouns: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self._scene = scene
        self._catalogue = catalogue
        self.observation: Observation = observe(scene, catalogue)
        self.names: list[str] = [catalogue.names[i] for i in scene.sprite]
        self.groups: list[str] = [catalogue.groups[i] for i in scene.sprite]
        self.count = len(self.names)
        self.exists = (self.observation.share > 0.04).astype(np.int8)
        self.eligible = [i for i in range(self.count) if self.observation.share[i] >= TARGET_SHARE]
        self._nouns = noun_table(catalogue.names, catalogue.groups) | {
            noun: as_verdicts(YES if name in called else NO for name in catalogue.names)
            for noun, called in (nouns or {}).items()
        }
        self._traits = trait_table(catalogue.names, catalogue.groups)
        self._positions: dict[str, Verdicts] = {}
        self._sides: dict[tuple[int, str], int] = {}
        self._order: dict[tuple[int, int, str], bool] = {}

    def only(self, verdicts: Verdicts | None, targets: tuple[int, ...]) -> bool:
        """Whether the verdicts are a clear yes for the targets and a clear no for the rest."""
        if verdicts is None:
            return False
        return all((verdicts[i] == YES) if i in targets else (verdicts[i] == NO) for i in range(self.count))

    # --- what an object is ------------------------------------------------------------------------------

    def noun(self, noun: str) -> Verdicts:
        """Verdicts on "is a …"."""
        return self._nouns[noun][self._scene.sprite] * self.exists

    def trait(self, trait: str) -> Verdicts:
        """Verdicts on a trait of :data:`steerseg.demo.catalogue.TRAITS`."""
        return self._traits[trait][self._scene.sprite] * self.exists

    def colour_of(self, i: int) -> str:
        """The colour word of an object, "" where it has none."""
        tint = int(self._scene.tint[i])
        return TINTS[tint] or self._catalogue.colours[self._scene.style[i]][self._scene.sprite[i]]

    def colour(self, colour: str) -> Verdicts:
        """Verdicts on a colour."""
        verdicts = np.zeros(self.count, dtype=np.int8)
        for i in range(self.count):
            own, tint = self.colour_of(i), int(self._scene.tint[i])
            if own == colour:
                verdicts[i] = YES
            elif own and own in NEAR[colour]:
                verdicts[i] = UNCLEAR
            elif not tint:
                shares = self._catalogue.palettes[self._scene.style[i]][self._scene.sprite[i]]
                verdicts[i] = UNCLEAR if shares.get(colour, 0.0) >= 0.2 else NO
        return verdicts

    # --- how it moves -----------------------------------------------------------------------------------

    def motion(self, motion: str) -> Verdicts:
        """Verdicts on a motion."""
        return as_verdicts(self.motion_of(i, motion) for i in range(self.count))

    def motion_of(self, i: int, motion: str) -> int:
        """The verdict on the motion of one object."""
        seen = self.observation
        if motion in ("growing", "shrinking"):
            return YES if seen.growth[i] == motion else UNCLEAR if seen.growth[i] == "unclear" else NO
        if motion == "spinning":
            return int(seen.spinning[i])
        if motion in ("leaves", "enters", "returns"):
            if seen.presence[i] == motion:
                return YES
            whole = bool(seen.seen[i].mean() > 0.9)
            return UNCLEAR if seen.presence[i] or not whole else NO
        if motion in ("starts", "stops"):
            if seen.phase[i] == motion:
                return YES
            return UNCLEAR if seen.motion[i] == "unclear" or seen.presence[i] else NO
        return self._path_motion(i, motion)

    def _path_motion(self, i: int, motion: str) -> int:
        """The verdict on a motion that is a kind of path: still, moving, left, circling, ..."""
        seen = self.observation
        kind, phase = seen.motion[i], seen.phase[i]
        if kind == "unclear":
            return NO if motion == "still" and seen.presence[i] else UNCLEAR
        if motion == "still":
            return UNCLEAR if phase else YES if kind == "still" else NO
        if motion == "moving":
            return NO if kind == "still" else UNCLEAR if phase else YES
        if motion in phrases.POSITIONS or motion in ("up", "down"):
            if kind == motion:
                return UNCLEAR if phase else YES
            return UNCLEAR if kind in ("bouncing", "back and forth") else NO
        if kind == motion:
            return YES
        return UNCLEAR if {kind, motion} == {"bouncing", "back and forth"} else NO

    def overtakes(self, i: int, j: int) -> bool:
        """Whether i starts behind j in their common direction and ends ahead of it."""
        seen = self.observation
        way = seen.motion[i]
        if way not in ("left", "right", "up", "down") or seen.motion[j] != way:
            return False
        axis, sign = (0 if way in ("left", "right") else 1), (1 if way in ("right", "down") else -1)
        shared = np.flatnonzero(seen.seen[i] & seen.seen[j])
        if len(shared) < 6:
            return False
        lead = sign * (seen.travelled[i, shared, axis] - seen.travelled[j, shared, axis])
        return bool(lead[0] < -0.06 and lead[-1] > 0.06)

    # --- where it is ------------------------------------------------------------------------------------

    def along(self, axis: str, i: int) -> NDArray[np.float32]:
        """Positions of an object along x or y in the frames that show it, as fractions of the picture."""
        values = self.observation.x[i] if axis == "x" else self.observation.y[i]
        within: NDArray[np.float32] = values[self.observation.seen[i]]
        return within

    def position(self, position: str) -> Verdicts:
        """Verdicts on "on the left", "in the middle", "at the top left" and so on."""
        if position not in self._positions:
            judge = self._middle if position == "middle" else lambda i: self._parts(i, position)
            self._positions[position] = as_verdicts(judge(i) for i in range(self.count))
        return self._positions[position]

    def _middle(self, i: int) -> int:
        x, y = self.along("x", i), self.along("y", i)
        if len(x) == 0:
            return NO
        off = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))
        return YES if _quantile(off, 0.9) < 0.16 else NO if _quantile(off, 0.1) > 0.24 else UNCLEAR

    def _parts(self, i: int, position: str) -> int:
        """The verdict on a position of one word, or of two: "top left"."""
        return int(both(*(as_verdicts([self._side(i, part)]) for part in position.split()))[0])

    def _side(self, i: int, side: str) -> int:
        """The verdict on a side: nearly always well inside that third or half."""
        key = (i, side)
        if key not in self._sides:
            self._sides[key] = self._judge_side(i, side)
        return self._sides[key]

    def _judge_side(self, i: int, side: str) -> int:
        values = self.along("x" if side in ("left", "right") else "y", i)
        if len(values) == 0:
            return NO
        if side in ("right", "bottom"):
            values = 1 - values
        if _quantile(values, 0.9) < 0.40:
            return YES
        return NO if _quantile(values, 0.25) > 0.5 else UNCLEAR

    # --- how it compares --------------------------------------------------------------------------------

    def best(self, among: Verdicts, better: Better) -> Verdicts | None:
        """Yes for the one of ``among`` that is better than every other; ``None`` if there is none."""
        members = [i for i in range(self.count) if among[i] != NO]
        if len(members) < 2:
            return None
        for i in members:
            if among[i] == YES and all(better(i, j) for j in members if j != i):
                verdicts = np.zeros(self.count, dtype=np.int8)
                verdicts[i] = YES
                return verdicts
        return None

    def larger(self, i: int, j: int) -> bool:
        """Whether i is clearly larger than j."""
        return bool(self.observation.size[i] > LARGER * self.observation.size[j])

    def faster(self, i: int, j: int) -> bool:
        """Whether i moves, and clearly faster than j."""
        speed = self.observation.speed
        return bool(speed[i] > FASTER * speed[j] and speed[i] > 0.15)

    def slower(self, i: int, j: int) -> bool:
        """Whether i moves, and clearly slower than j."""
        return self.faster(j, i) and bool(self.observation.speed[i] > 0.05)

    def ahead(self, i: int, j: int, way: str) -> bool:
        """Whether i is clearly further left (right, higher, lower) than j whenever both are seen."""
        key = (i, j, way)
        if key not in self._order:
            self._order[key] = self._judge_order(i, j, way)
        return self._order[key]

    def _judge_order(self, i: int, j: int, way: str) -> bool:
        seen = self.observation
        shared = seen.seen[i] & seen.seen[j]
        if shared.sum() < max(2, 0.3 * shared.size):
            return False
        values = seen.x if way in ("left", "right") else seen.y
        gap = (values[j] - values[i])[shared]
        if way in ("right", "bottom"):
            gap = -gap
        return bool(_quantile(gap, 0.08) > 0.06)

    def nearer(self, to: int) -> Better:
        """Whether i stays clearly nearer to an object than j does, and near it, nearly all the time."""
        seen, travelled = self.observation.seen, self.observation.travelled

        def distance(i: int) -> NDArray[np.float32]:
            offset = travelled[i] - travelled[to]
            lengths: NDArray[np.float32] = np.hypot(offset[:, 0], offset[:, 1]).astype(np.float32)
            return lengths

        def is_nearer(i: int, j: int) -> bool:
            here = seen[i] & seen[to]
            if here.sum() < 0.6 * here.size:
                return False
            mine, theirs = distance(i), distance(j)
            wins = (mine < 0.75 * theirs) | ~seen[j]
            return bool((wins & (mine < 0.6))[here].mean() > 0.85)

        return is_nearer
