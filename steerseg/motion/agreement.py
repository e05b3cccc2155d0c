"""How far candidates move as an expression says, by where they are on the keyframes.

The method has no such step (our choice). Attention over a few frames hardly tells a dog that runs to the left from one
that runs to the right; their tracks do. Motions count as in the scene: what the camera's motion adds is taken out.
Limits and scales are our choice, found on rendered scenes that nothing is reported on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.motion.reading import Motion
from steerseg.presence.localisation import box_centres

Array = NDArray[np.float64]

WITHOUT_WAY = frozenset(
    {
        *(Motion.SPINNING, Motion.GROWING, Motion.SHRINKING),
        *(Motion.ENTERS, Motion.LEAVES, Motion.RETURNS),
    }
)
"""The motions that no way in the scene tells, so that it is the same how the camera moves."""

_STILL = 0.06  # of the frame's shorter side: so far a thing that rests may seem to move
_STRAIGHT = 0.15  # of the shorter side: a way that counts in full
_OTHER_KIND = 0.8  # what agreement counts of a candidate of another kind
_GROWTH = math.log(1.8)  # of the area, from the first keyframe to the last, that counts in full
_EARLY, _LATE = 0.45, 0.55  # parts of the time in which a thing that starts rests, and one that stops
_AT_BORDER = 0.3  # agreement with leaving or entering of what ends or begins at the border


def motion_agreement(
    motions: Sequence[Motion],
    masks: torch.Tensor,
    alike: Sequence[bool],
    shifts: Array | None,
    size: tuple[int, int],
    times: Array,
    spins: Array | None = None,
) -> torch.Tensor:
    """How far candidates move as stated.

    Args:
        motions: At least one.
        masks: (N, K, h, w) masks of N candidates on K keyframes, in [0, 1].
        alike: Which of them are of the kind that the expression names, as far as that is known.
        shifts: (K, 2) how far the background has moved since the first keyframe; see
            :func:`steerseg.motion.camera.background_shifts`. ``None`` where it rests, or all motions are
            :data:`WITHOUT_WAY`.
        size: Height and width of a frame in pixels; the masks may have other sides.
        times: (K,) of the keyframes, from 0 for the first to 1 for the last.
        spins: (N,) how evidently each spins, in [0, 1]; see :func:`steerseg.motion.spin.spin_evidence`. None does
            where it is left out.

    Returns:
        (N,) float32 in [0, 1]: the mean over the motions, and less for another kind.
    """
    shown = masks > 0.5
    places = zip(shown.cpu().numpy(), box_centres(shown).cpu().numpy(), strict=True)
    shifts = np.zeros((masks.shape[1], 2)) if shifts is None else shifts
    paths = [_Path.of(candidate, centres, shifts, size, times) for candidate, centres in places]
    timed = [(path, kind) for path, kind in zip(paths, alike, strict=True) if len(path.centres) > 1]
    rivals = [path for path, kind in timed if kind] or [path for path, _ in timed]

    def grades(motion: Motion) -> Sequence[float]:
        if motion is Motion.SPINNING:
            return [0.0] * len(paths) if spins is None else spins.tolist()
        if motion is Motion.OVERTAKES:
            return [_overtakes(path, paths) for path in paths]
        if motion in _SPEEDS:
            return [_SPEEDS[motion](path, rivals) if len(path.centres) > 1 else 0.0 for path in paths]
        return [_MEASURES[motion](path) for path in paths]

    kinds = torch.tensor([1.0 if kind else _OTHER_KIND for kind in alike])
    return torch.tensor([grades(motion) for motion in motions], dtype=torch.float32).mean(dim=0) * kinds


@dataclass(frozen=True)
class _Path:
    """Where a candidate is on the keyframes that show it.

    Attributes:
        seen: (K,) bool, the keyframes that show it; the other arrays have a row for each of these.
        at_border: (K,) bool, whether it touches the frame's border.
        times: Of the keyframes, in [0, 1].
        centres: (x, y) of its box in the scene, in shorter sides of the frame.
        areas: Parts of the frame that it covers.
    """

    seen: NDArray[np.bool_]
    at_border: NDArray[np.bool_]
    times: Array
    centres: Array
    areas: Array

    @classmethod
    def of(
        cls,
        masks: NDArray[np.bool_],
        centres: NDArray[np.float32],
        shifts: Array,
        size: tuple[int, int],
        times: Array,
    ) -> _Path:
        """The path of bool masks (K, h, w), with the (K, 2) centres of their boxes in [0, 1], at times in [0, 1]."""
        columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)
        seen = np.any(columns, axis=1)
        at_border = columns[:, 0] | columns[:, -1] | rows[:, 0] | rows[:, -1]
        in_shorter_sides = np.array([size[1], size[0]]) / min(size)
        in_scene = (centres - shifts) * in_shorter_sides
        areas: Array = np.mean(masks, axis=(1, 2), dtype=np.float64).reshape(-1)
        return cls(seen, at_border, times[seen], in_scene[seen], areas[seen])

    @property
    def speed(self) -> float:
        """Length of its way in the time from its first sight to its last, which are two."""
        time = float(self.times[-1] - self.times[0])
        return float(self.steps.sum()) / time if time > 0 else 0.0

    @property
    def steps(self) -> Array:
        """Lengths of the ways from one keyframe to the next."""
        return np.asarray(np.linalg.norm(np.diff(self.centres, axis=0), axis=1))

    @property
    def way(self) -> Array:
        """(2,) from the first centre to the last."""
        return np.asarray(self.centres[-1] - self.centres[0])

    @property
    def around_middle(self) -> Array:
        """Centres as seen from their mean."""
        return np.asarray(self.centres - self.centres.mean(axis=0))

    @property
    def detour(self) -> float:
        """Part of its way that brings it no farther from where it began, in [0, 1]."""
        length = float(self.steps.sum())
        return 1.0 - float(np.linalg.norm(self.way)) / length if length > 0 else 0.0

    @property
    def roundness(self) -> float:
        """Its spread across the direction in which it spreads most, as a part of that, in [0, 1]."""
        least, most = np.linalg.eigvalsh(np.cov(self.around_middle.T, bias=True))
        return float(np.sqrt(max(least, 0.0) / most)) if most > 0 else 0.0


def _still(path: _Path) -> float:
    if len(path.centres) < 2:
        return 0.0
    farthest = np.linalg.norm(path.around_middle, axis=1).max()
    return float(np.exp(-((farthest / _STILL) ** 2)))


def _moving(path: _Path) -> float:
    return 1.0 - _still(path) if len(path.centres) > 1 else 0.0


def _towards(x: float, y: float) -> Callable[[_Path], float]:
    """Agreement with a way in a direction, the less the more it leads elsewhere or back."""

    def measure(path: _Path) -> float:
        if len(path.centres) < 2:
            return 0.0
        along, across = float(path.way @ (x, y)), float(abs(path.way @ (y, x)))
        back = float(path.steps.sum() - np.linalg.norm(path.way))
        return _share((along - 0.7 * (across + 0.5 * back)) / _STRAIGHT)

    return measure


def _growing(path: _Path) -> float:
    """What the border hides does not count, where enough is left."""
    whole = ~path.at_border[path.seen]
    if whole.sum() < 2:
        whole = np.ones_like(whole)
    if whole.sum() < 2:
        return 0.5
    slope = np.polyfit(path.times[whole], np.log(path.areas[whole]), 1)[0]
    return _share(slope / _GROWTH)


def _starts(path: _Path) -> float:
    middles = (path.times[1:] + path.times[:-1]) / 2
    early, late = path.steps[middles < _EARLY].sum(), path.steps[middles > _LATE].sum()
    return _moving(path) * _share(float((late - early) / max(late + early, 1e-6)))


def _stops(path: _Path) -> float:
    return _moving(path) - _starts(path)


def _circling(path: _Path) -> float:
    if len(path.centres) < 3:
        return 0.0
    x, y = path.around_middle.T
    turned = np.diff(np.unwrap(np.arctan2(y, x))).sum() / (2 * np.pi)
    return _moving(path) * min(1.0, abs(float(turned))) * math.sqrt(path.roundness)


def _back_and_forth(path: _Path) -> float:
    if len(path.centres) < 3:
        return 0.0
    return _moving(path) * min(1.0, 1.3 * path.detour) * (1.0 - path.roundness)


def _bouncing(path: _Path) -> float:
    return _moving(path) * path.detour if len(path.centres) > 2 else 0.0


def _leaves(path: _Path) -> float:
    return _gone(path.seen, path.at_border)


def _enters(path: _Path) -> float:
    return _gone(path.seen[::-1], path.at_border[::-1])


def _gone(seen: NDArray[np.bool_], at_border: NDArray[np.bool_]) -> float:
    """Whether it is there at first and not in the end; a little where it is at the border in the end."""
    first, last = float(seen[:2].mean()), float(seen[-2:].mean())
    return first * (1.0 - last) + _AT_BORDER * first * last * float(at_border[-1])


def _returns(path: _Path) -> float:
    at = np.flatnonzero(path.seen)
    return float(len(at) > 1 and not path.seen[at[0] : at[-1]].all())


def _faster(path: _Path, rivals: Sequence[_Path]) -> float:
    return min(1.0, (path.speed + _STILL) / (max(rival.speed for rival in rivals) + _STILL)) ** 2


def _slower(path: _Path, rivals: Sequence[_Path]) -> float:
    return min(1.0, (min(rival.speed for rival in rivals) + _STILL) / (path.speed + _STILL)) ** 2


def _overtakes(path: _Path, others: Sequence[_Path]) -> float:
    """By how much it is behind another at first and before it in the end, where both move in one direction."""
    length = float(np.linalg.norm(path.way)) if len(path.centres) > 1 else 0.0
    if length == 0:
        return 0.0
    direction = path.way / length
    found = 0.0
    for rival in others:
        both = path.seen & rival.seen
        if both.sum() > 1:
            own, other = (one.centres[both[one.seen]] @ direction for one in (path, rival))
            behind, before = other[0] - own[0], own[-1] - other[-1]
            found = max(found, float(min(behind, before, other[-1] - other[0])))
    return min(1.0, found / _STRAIGHT)


def _share(value: float) -> float:
    """From -1, against it, to 1, for it, as a number in [0, 1]."""
    return min(max(0.5 + 0.5 * float(value), 0.0), 1.0)


_MEASURES: dict[Motion, Callable[[_Path], float]] = {
    Motion.LEFT: _towards(-1, 0),
    Motion.RIGHT: _towards(1, 0),
    Motion.UP: _towards(0, -1),
    Motion.DOWN: _towards(0, 1),
    Motion.STILL: _still,
    Motion.MOVING: _moving,
    Motion.CIRCLING: _circling,
    Motion.BACK_AND_FORTH: _back_and_forth,
    Motion.BOUNCING: _bouncing,
    Motion.STARTS: _starts,
    Motion.STOPS: _stops,
    Motion.ENTERS: _enters,
    Motion.LEAVES: _leaves,
    Motion.RETURNS: _returns,
    Motion.GROWING: _growing,
    Motion.SHRINKING: lambda path: 1.0 - _growing(path),
}

_SPEEDS: dict[Motion, Callable[[_Path, Sequence[_Path]], float]] = {
    Motion.FASTER: _faster,
    Motion.SLOWER: _slower,
}
"""Of a candidate beside those of the kind that the expression names; all are seen on two keyframes or more."""
