"""Expressions that are true of exactly their targets, and the attributes of objects.

Every statement about an object is one of three values: yes, no, or unclear. An expression is used only if it
is a clear yes for each target and a clear no for every other object of the scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steerseg.demo import catalogue as words
from steerseg.demo import phrases
from steerseg.demo.colours import COLOURS, NEAR, TINTS
from steerseg.demo.observe import Observation, observe
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import Catalogue, load_catalogue

Kind = Literal["explicit", "attribute", "spatial", "motion", "comparative", "implicit", "plural"]
Phrasing = Literal["train", "heldout"]

KINDS: dict[str, float] = {
    "explicit": 0.20,
    "attribute": 0.16,
    "spatial": 0.20,
    "motion": 0.22,
    "comparative": 0.09,
    "implicit": 0.16,
    "plural": 0.03,
}
"""Kind → how often :func:`sample_referral` tries it first."""

TARGET_SHARE = 0.35  # an object seen in fewer frames is nobody's target
LARGER = 1.4  # ratio from which one object is clearly larger (or faster: FASTER) than another
FASTER = 1.7

Verdicts = NDArray[np.int8]
YES, NO, UNCLEAR = 1, 0, -1


@dataclass(frozen=True)
class Referral:
    """An expression and what it refers to.

    Attributes:
        expression: Lower-case text without punctuation at its end.
        targets: Indices of the scene's objects, ascending; one unless ``kind`` is "plural".
        kind: What one must know or see to find them.
        attributes: Ground-truth attributes of the first target: its name, colour, size if it tells objects
            apart, position, motion; 2 to 5 of them.
        name: The first target's name.
    """

    expression: str
    targets: tuple[int, ...]
    kind: Kind
    attributes: tuple[str, ...]
    name: str


def _both(*verdicts: Verdicts) -> Verdicts:
    """Logical and: no wins over unclear, unclear over yes."""
    stacked = np.stack(verdicts)
    return np.where((stacked == NO).any(0), NO, np.where((stacked == UNCLEAR).any(0), UNCLEAR, YES)).astype(
        np.int8
    )


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """As ``np.quantile``, several times faster on the few dozen values of one object."""
    ordered = np.sort(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))


def _split(text: str) -> set[str]:
    return {item.strip() for item in text.split(",") if item.strip()}


@lru_cache(maxsize=4)
def _noun_table(names: tuple[str, ...], groups: tuple[str, ...]) -> dict[str, Verdicts]:
    """Noun → verdict for every object of the catalogue."""
    table: dict[str, Verdicts] = {}
    for i, name in enumerate(names):
        for noun in (name, *words.SYNONYMS.get(name, ())):
            table.setdefault(noun, np.zeros(len(names), dtype=np.int8))[i] = YES
    for i, name in enumerate(names):
        for noun in words.KIND_OF.get(name, ()):
            for same in (noun, *words.SYNONYMS.get(noun, ())):
                if same in table and table[same][i] == NO:
                    table[same][i] = UNCLEAR
    for i, group in enumerate(groups):
        for noun in words.GROUP_NOUNS.get(group, ()):
            column = table.setdefault(noun, np.zeros(len(names), dtype=np.int8))
            column[i] = YES
    for noun, arguable in words.ARGUABLE.items():
        if noun in table:
            for name in _split(arguable):
                if name in names:
                    table[noun][names.index(name)] = UNCLEAR
    for noun in phrases.GENERIC_NOUNS:
        table[noun] = np.ones(len(names), dtype=np.int8)
    return table


@lru_cache(maxsize=4)
def _trait_table(names: tuple[str, ...], groups: tuple[str, ...]) -> dict[str, Verdicts]:
    """Trait → verdict for every object of the catalogue. A name outweighs its group."""
    table = {}
    for trait, what in words.TRAITS.items():
        yes, maybe = _split(what.yes), _split(what.maybe)
        table[trait] = np.array(
            [
                YES
                if name in yes
                else UNCLEAR
                if name in maybe
                else YES
                if group in yes
                else UNCLEAR
                if group in maybe
                else NO
                for name, group in zip(names, groups, strict=True)
            ],
            dtype=np.int8,
        )
    return table


@lru_cache(maxsize=1)
def trait_wordings() -> dict[str, phrases.Wordings]:
    """Trait → training and held-out phrases: the last one is held out where training uses all its words."""
    every = [set(p.split()) for trait in words.TRAITS.values() for p in trait.phrases]
    wordings: dict[str, phrases.Wordings] = {}
    for name, trait in words.TRAITS.items():
        last = trait.phrases[-1]
        others = [w for w in every if w != set(last.split())]
        known = set().union(*others)
        held = len(trait.phrases) >= 3 and set(last.split()) <= known
        wordings[name] = (trait.phrases[:-1], (last,)) if held else (trait.phrases, ())
    return wordings


class _View:
    """A scene with everything that statements about it need."""

    def __init__(
        self,
        scene: Scene,
        catalogue: Catalogue,
        rng: np.random.Generator,
        phrasing: Phrasing,
        nouns: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.scene = scene
        self.catalogue = catalogue
        self.rng = rng
        self.heldout = phrasing == "heldout"
        self.seen: Observation = observe(scene, catalogue)
        self.names = [catalogue.names[i] for i in scene.sprite]
        self.groups = [catalogue.groups[i] for i in scene.sprite]
        self.count = len(self.names)
        self.exists = (self.seen.share > 0.04).astype(np.int8)
        self.eligible = [i for i in range(self.count) if self.seen.share[i] >= TARGET_SHARE]
        own = nouns or {}
        self._nouns = _noun_table(catalogue.names, catalogue.groups) | {
            noun: np.array([YES if name in called else NO for name in catalogue.names], dtype=np.int8)
            for noun, called in own.items()
        }
        self._called = {name: noun for noun, called in own.items() for name in called}
        self._traits = _trait_table(catalogue.names, catalogue.groups)
        self._places: dict[str, Verdicts] = {}
        self._sides: dict[tuple[int, str], int] = {}
        self._order: dict[tuple[int, int, str], bool] = {}

    # --- chance -----------------------------------------------------------------------------------------

    def pick(self, items: Sequence[str]) -> str:
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def word(self, wordings: phrases.Wordings) -> str:
        """One of the training wordings, or of the held-out ones if this view uses those and there are any."""
        return self.pick(wordings[1] if self.heldout and wordings[1] else wordings[0])

    # --- statements -------------------------------------------------------------------------------------

    def noun(self, noun: str) -> Verdicts:
        return self._nouns[noun][self.scene.sprite] * self.exists

    def trait(self, trait: str) -> Verdicts:
        return self._traits[trait][self.scene.sprite] * self.exists

    def colour_of(self, i: int) -> str:
        """The colour word of an object, "" where it has none."""
        tint = int(self.scene.tint[i])
        return TINTS[tint] or self.catalogue.colours[self.scene.style[i]][self.scene.sprite[i]]

    def colour(self, colour: str) -> Verdicts:
        verdicts = np.zeros(self.count, dtype=np.int8)
        for i in range(self.count):
            own, tint = self.colour_of(i), int(self.scene.tint[i])
            if own == colour:
                verdicts[i] = YES
            elif own and own in NEAR[colour]:
                verdicts[i] = UNCLEAR
            elif not tint:
                shares = self.catalogue.palettes[self.scene.style[i]][self.scene.sprite[i]]
                verdicts[i] = UNCLEAR if shares.get(colour, 0.0) >= 0.2 else NO
        return verdicts

    def motion(self, motion: str) -> Verdicts:
        verdicts = np.zeros(self.count, dtype=np.int8)
        for i in range(self.count):
            verdicts[i] = self._motion(i, motion)
        return verdicts

    def _motion(self, i: int, motion: str) -> int:
        seen = self.seen
        kind, phase, presence = seen.motion[i], seen.phase[i], seen.presence[i]
        if motion in ("growing", "shrinking"):
            return YES if seen.growth[i] == motion else UNCLEAR if seen.growth[i] == "unclear" else NO
        if motion == "spinning":
            return int(seen.spinning[i])
        if motion in ("leaves", "enters", "returns"):
            if presence == motion:
                return YES
            whole = bool(seen.seen[i].mean() > 0.9)
            return UNCLEAR if presence or not whole else NO
        if motion in ("starts", "stops"):
            return YES if phase == motion else UNCLEAR if kind == "unclear" or presence else NO
        if kind == "unclear":
            return NO if motion == "still" and presence else UNCLEAR
        if motion == "still":
            return UNCLEAR if phase else YES if kind == "still" else NO
        if motion == "moving":
            return NO if kind == "still" else UNCLEAR if phase else YES
        if motion in phrases.PLACES or motion in ("up", "down"):
            if kind == motion:
                return UNCLEAR if phase else YES
            return UNCLEAR if kind in ("bouncing", "back and forth") else NO
        if kind == motion:
            return YES
        return UNCLEAR if {kind, motion} == {"bouncing", "back and forth"} else NO

    def along(self, axis: str, i: int) -> NDArray[np.float32]:
        """Where an object is seen along x or y, as fractions of the picture."""
        values = self.seen.x[i] if axis == "x" else self.seen.y[i]
        return values[self.seen.seen[i]]

    def _side(self, i: int, place: str) -> int:
        """Verdict on "on the left", "at the top" and so on, remembered."""
        key = (i, place)
        if key not in self._sides:
            self._sides[key] = self._judge_side(i, place)
        return self._sides[key]

    def _judge_side(self, i: int, place: str) -> int:
        """Verdict on "on the left", "at the top" and so on: nearly always well inside that third or half."""
        values = self.along("x" if place in ("left", "right") else "y", i)
        if len(values) == 0:
            return NO
        if place in ("right", "bottom"):
            values = 1 - values
        if _quantile(values, 0.9) < 0.40:
            return YES
        return NO if _quantile(values, 0.25) > 0.5 else UNCLEAR

    def place(self, place: str) -> Verdicts:
        """Verdicts on a place, remembered."""
        if place not in self._places:
            self._places[place] = self._judge_place(place)
        return self._places[place]

    def _judge_place(self, place: str) -> Verdicts:
        verdicts = np.zeros(self.count, dtype=np.int8)
        for i in range(self.count):
            if place == "middle":
                x, y = self.along("x", i), self.along("y", i)
                if len(x) == 0:
                    continue
                off = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))
                verdicts[i] = (
                    YES if _quantile(off, 0.9) < 0.16 else NO if _quantile(off, 0.1) > 0.24 else UNCLEAR
                )
            else:
                verdicts[i] = _both(
                    *(np.array([self._side(i, part)], dtype=np.int8) for part in place.split())
                )[0]
        return verdicts

    def ahead(self, i: int, j: int, way: str) -> bool:
        """Whether i is clearly further left (right, higher, lower) than j whenever both are seen."""
        key = (i, j, way)
        if key not in self._order:
            self._order[key] = self._judge_order(i, j, way)
        return self._order[key]

    def _judge_order(self, i: int, j: int, way: str) -> bool:
        both = self.seen.seen[i] & self.seen.seen[j]
        if both.sum() < max(2, 0.3 * both.size):
            return False
        values = self.seen.x if way in ("left", "right") else self.seen.y
        gap = (values[j] - values[i])[both]
        if way in ("right", "bottom"):
            gap = -gap
        return bool(_quantile(gap, 0.08) > 0.06)

    def best(self, among: Verdicts, better: Callable[[int, int], bool]) -> Verdicts | None:
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
        return bool(self.seen.size[i] > LARGER * self.seen.size[j])

    def faster(self, i: int, j: int) -> bool:
        return bool(self.seen.speed[i] > FASTER * self.seen.speed[j] and self.seen.speed[i] > 0.15)

    def nearer(self, to: int) -> Callable[[int, int], bool]:
        """Whether i stays clearly nearer to an object than j does, and near it, nearly all the time."""

        def distance(i: int) -> NDArray[np.float32]:
            offset = self.seen.travelled[i] - self.seen.travelled[to]
            return np.hypot(offset[:, 0], offset[:, 1]).astype(np.float32)

        def is_nearer(i: int, j: int) -> bool:
            seen = self.seen.seen
            here = seen[i] & seen[to]
            if here.sum() < 0.6 * here.size:
                return False
            mine, theirs = distance(i), distance(j)
            wins = (mine < 0.75 * theirs) | ~seen[j]
            return bool((wins & (mine < 0.6))[here].mean() > 0.85)

        return is_nearer

    def overtakes(self, i: int, j: int) -> bool:
        """Whether i starts behind j in their common direction and ends ahead of it."""
        way = self.seen.motion[i]
        if way not in ("left", "right", "up", "down") or self.seen.motion[j] != way:
            return False
        axis, sign = (0 if way in ("left", "right") else 1), (1 if way in ("right", "down") else -1)
        both = np.flatnonzero(self.seen.seen[i] & self.seen.seen[j])
        if len(both) < 6:
            return False
        lead = sign * (self.seen.travelled[i, both, axis] - self.seen.travelled[j, both, axis])
        return bool(lead[0] < -0.06 and lead[-1] > 0.06)

    # --- words ------------------------------------------------------------------------------------------

    def is_plural(self, noun: str, i: int) -> bool:
        """Whether a noun for object i takes a plural verb."""
        return self.names[i] in words.PLURAL and noun in (
            self.names[i],
            *words.SYNONYMS.get(self.names[i], ()),
        )

    def own_nouns(self, i: int) -> list[str]:
        """The object's name (often), its synonyms, and what group it is of; only clear ones.

        A noun that this view was given comes in place of all of them.
        """
        name = self.names[i]
        if name in self._called:
            return [self._called[name]]
        nouns = [name, name, *words.SYNONYMS.get(name, ()), *words.GROUP_NOUNS.get(self.groups[i], ())]
        return [noun for noun in nouns if self.noun(noun)[i] == YES]

    def some_noun(self, i: int, generic: float) -> str:
        """A noun for object i; with probability ``generic`` just "one" or "object"."""
        if self.chance(generic):
            return self.pick(("one", "one", *phrases.GENERIC_NOUNS))
        return self.pick(self.own_nouns(i))

    def definite(self, i: int) -> str | None:
        """ "the dog": a noun phrase that names object i alone, to relate others to it."""
        noun = self.usual_noun(i)
        return f"the {noun}" if self.only(self.noun(noun), (i,)) else None

    def usual_noun(self, i: int) -> str:
        """The object's name, or the noun that this view was given for it."""
        return self._called.get(self.names[i], self.names[i])

    def only(self, verdicts: Verdicts | None, targets: tuple[int, ...]) -> bool:
        """Whether the verdicts are a clear yes for the targets and a clear no for the rest."""
        if verdicts is None:
            return False
        return all((verdicts[i] == YES) if i in targets else (verdicts[i] == NO) for i in range(self.count))

    def inflect(self, text: str, plural: bool) -> str:
        forms = {
            "{s}": "" if plural else "s",
            "{es}": "" if plural else "es",
            "{is}": "are" if plural else "is",
        }
        forms["{does}"] = "do" if plural else "does"
        for mark, form in forms.items():
            text = text.replace(mark, form)
        return text.replace(" it is", " they are") if plural else text

    def phrase(self, noun: str, plural: bool, before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
        """A noun phrase with an article: the, often; none or a, sometimes."""
        core = self.inflect(" ".join([*before, noun, *after]), plural)
        draw = self.rng.random()
        if noun in phrases.GENERIC_NOUNS or draw < 0.74:
            return f"the {core}"
        if draw < 0.90 or plural or noun in phrases.UNCOUNTED:
            return core
        return ("an " if core[0] in "aeiou" else "a ") + core

    def motion_words(self, motion: str, plural: bool) -> str:
        """ "moving left", "that moves left" or "which is moving left"."""
        draw = self.rng.random()
        if motion in phrases.PARTICIPLES and (draw < 0.55 or motion not in phrases.CLAUSES):
            text = self.word(phrases.PARTICIPLES[motion])
            if draw < 0.28:
                text = ("that {is} " if draw < 0.2 else "which {is} ") + text
        else:
            text = ("that " if self.chance(0.75) else "which ") + self.word(phrases.CLAUSES[motion])
        return self.inflect(text, plural)


Found = tuple[str, tuple[int, ...], str] | None
"""Noun phrase, targets, the noun's number as "plural" or ""."""


def _number(plural: bool) -> str:
    return "plural" if plural else ""


def _explicit(view: _View, i: int) -> Found:
    noun = view.pick(view.own_nouns(i) or [view.names[i]])
    if not view.only(view.noun(noun), (i,)):
        return None
    plural = view.is_plural(noun, i)
    return view.phrase(noun, plural), (i,), _number(plural)


def _attribute(view: _View, i: int) -> Found:
    noun = view.some_noun(i, generic=0.25)
    verdicts, plural = view.noun(noun), view.is_plural(noun, i)
    before: list[str] = []
    after: list[str] = []
    colour = view.colour_of(i)
    if colour and view.chance(0.8):
        verdicts = _both(verdicts, view.colour(colour))
        if view.chance(0.75):
            before = [colour]
        else:
            after = [("that " if view.chance(0.7) else "which ") + "{is} " + colour]
    if not (before or after) or view.chance(0.15):
        for size, better in (("big", view.larger), ("small", lambda a, b: view.larger(b, a))):
            best = view.best(verdicts, better)
            if best is not None and best[i] == YES:
                verdicts, before = best, [view.pick(phrases.SIZE_WORDS[size]), *before]
                break
        else:
            if not (before or after):
                return None
    if not view.only(verdicts, (i,)):
        return None
    return view.phrase(noun, plural, before, after), (i,), _number(plural)


def _coloured(view: _View, i: int, verdicts: Verdicts, share: float) -> tuple[Verdicts, list[str]]:
    """Sometimes put the object's colour before its noun."""
    colour = view.colour_of(i)
    if colour and view.chance(share):
        return _both(verdicts, view.colour(colour)), [colour]
    return verdicts, []


def _spatial(view: _View, i: int) -> Found:
    noun = view.some_noun(i, generic=0.15)
    plural = view.is_plural(noun, i)
    verdicts, before = _coloured(view, i, view.noun(noun), 0.2)
    draw = view.rng.random()
    if draw < 0.45:
        places = [p for p in phrases.PLACES if view.place(p)[i] == YES]
        if not places:
            return None
        place = view.pick(places)
        if not view.only(_both(verdicts, view.place(place)), (i,)):
            return None
        text = view.word(phrases.PLACES[place])
        if view.chance(0.2):
            text = "that {is} " + text
        return view.phrase(noun, plural, before, [text]), (i,), _number(plural)
    if draw < 0.7:
        for way in view.rng.permutation(["left", "right", "top", "bottom"]).tolist():
            best = view.best(verdicts, lambda a, b, w=way: view.ahead(a, b, w))  # type: ignore[misc]
            if view.only(best, (i,)):
                text = view.word(phrases.FURTHEST[way]).replace("{n}", " ".join([*before, noun]))
                return "the " + view.inflect(text, plural), (i,), _number(plural)
        return None
    others = [j for j in view.eligible if j != i and view.definite(j)]
    if not others:
        return None
    j = int(view.pick([str(o) for o in others]))
    relation = view.pick(("left", "right", "above", "below", "near"))
    if relation == "near":
        candidates = verdicts.copy()
        candidates[j] = NO
        best = view.best(candidates, view.nearer(j))  # of several: one alone needs no relation
        if best is None:
            return None
        related = best
    else:
        way = {"above": "top", "below": "bottom"}.get(relation, relation)
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[way]
        related = np.array(
            [
                NO
                if k == j
                else YES
                if view.ahead(k, j, way)
                else NO
                if view.ahead(k, j, opposite)
                else UNCLEAR
                for k in range(view.count)
            ],
            dtype=np.int8,
        )
    if not view.only(_both(verdicts, related), (i,)):
        return None
    text = view.word(phrases.RELATIONS[relation]).replace("{m}", view.definite(j) or "")
    return view.phrase(noun, plural, before, [text]), (i,), _number(plural)


MOTIONS = (
    *(
        "left",
        "right",
        "up",
        "down",
        "still",
        "moving",
        "circling",
        "back and forth",
        "bouncing",
        "starts",
        "stops",
    ),
    *("leaves", "enters", "returns", "growing", "shrinking", "spinning"),
)
"""Motions that expressions speak of; "overtakes" comes besides."""


def _motion(view: _View, i: int) -> Found:
    noun = view.some_noun(i, generic=0.3)
    plural = view.is_plural(noun, i)
    verdicts, before = _coloured(view, i, view.noun(noun), 0.15)
    passed = [j for j in range(view.count) if j != i and view.overtakes(i, j)]
    if passed and view.chance(0.7):
        rivals = [
            k
            for k in range(view.count)
            if k != i and any(view.overtakes(k, j) for j in range(view.count) if j != k)
        ]
        if not rivals and verdicts[i] == YES:
            text = view.word(phrases.CLAUSES["overtakes"])
            name = view.usual_noun(passed[0])
            if "others" in text and len(passed) < max(2, view.count - 1):
                text = "overtake{s} the {m}"
            if "{m}" in text and not view.definite(passed[0]):
                text = "overtake{s} the other {m}"
            after = "that " + text.replace("{m}", name)
            return view.phrase(noun, plural, before, [after]), (i,), _number(plural)
    motions = [m for m in MOTIONS if view._motion(i, m) == YES]
    if len(motions) > 1 and "moving" in motions and not view.chance(0.15):
        motions.remove("moving")
    if not motions:
        return None
    motion = view.pick(motions)
    if not view.only(_both(verdicts, view.motion(motion)), (i,)):
        return None
    if motion in phrases.ADJECTIVES and view.chance(0.15):
        return (
            view.phrase(noun, plural, [view.pick(phrases.ADJECTIVES[motion]), *before]),
            (i,),
            _number(plural),
        )
    return view.phrase(noun, plural, before, [view.motion_words(motion, plural)]), (i,), _number(plural)


def _comparative(view: _View, i: int) -> Found:
    noun = view.some_noun(i, generic=0.3)
    plural = view.is_plural(noun, i)
    verdicts = view.noun(noun)
    slower: Callable[[int, int], bool] = lambda a, b: view.faster(b, a) and view.seen.speed[a] > 0.05  # noqa: E731
    orders: dict[str, Callable[[int, int], bool]] = {
        "big": view.larger,
        "small": lambda a, b: view.larger(b, a),
        "fast": view.faster,
        "slow": slower,
    }
    for quality in view.rng.permutation(list(orders)).tolist():
        better = orders[quality]
        if view.chance(0.3) and quality in phrases.THAN:
            others = [j for j in view.eligible if j != i and view.definite(j) and better(i, j)]
            if others:
                j = int(view.pick([str(o) for o in others]))
                than = np.array(
                    [
                        NO if k == j or better(j, k) else YES if better(k, j) else UNCLEAR
                        for k in range(view.count)
                    ],
                    dtype=np.int8,
                )
                if view.only(_both(verdicts, than), (i,)):
                    text = view.word(phrases.THAN[quality]).replace("{m}", view.definite(j) or "")
                    return view.phrase(noun, plural, (), ["that {is} " + text]), (i,), _number(plural)
        best = view.best(verdicts, better)
        if not view.only(best, (i,)):
            continue
        two = int((verdicts != NO).sum()) == 2
        wordings = phrases.COMPARATIVES if two and view.chance(0.6) else phrases.SUPERLATIVES
        text = view.word(wordings[quality]).replace("{ns}", phrases.plural(noun, plural)).replace("{n}", noun)
        return "the " + view.inflect(text, plural), (i,), _number(plural)
    return None


def _implicit(view: _View, i: int) -> Found:
    traits = [t for t in words.TRAITS if view.trait(t)[i] == YES]
    if not traits:
        return None
    trait = view.pick(traits)
    verdicts = view.trait(trait)
    text = view.word(trait_wordings()[trait])
    if view.only(verdicts, (i,)):
        return text, (i,), ""
    draw = view.rng.random()
    if draw < 0.4:
        motions = [
            m for m in ("left", "right", "up", "down", "still", "circling") if view._motion(i, m) == YES
        ]
        if motions:
            motion = view.pick(motions)
            if view.only(_both(verdicts, view.motion(motion)), (i,)):
                part = view.word(phrases.PARTICIPLES[motion])
                return f"{text} that is {part}", (i,), ""
    elif draw < 0.75:
        places = [p for p in phrases.PLACE_ATTRIBUTES if view.place(p)[i] == YES]
        if places:
            place = view.pick(places)
            if view.only(_both(verdicts, view.place(place)), (i,)):
                return f"{text} {view.word(phrases.PLACES[place])}", (i,), ""
    else:
        colour = view.colour_of(i)
        if colour and view.only(_both(verdicts, view.colour(colour)), (i,)):
            return f"{text} that is {colour}", (i,), ""
    return None


def _plural(view: _View, i: int) -> Found:
    noun = view.pick(view.own_nouns(i) or [view.names[i]])
    if view.is_plural(noun, i):
        return None
    verdicts = view.noun(noun)
    before: list[str] = []
    colour = view.colour_of(i)
    if colour and view.chance(0.3):
        verdicts, before = _both(verdicts, view.colour(colour)), [colour]
    targets = tuple(int(k) for k in np.flatnonzero(verdicts == YES))
    if len(targets) < 2 or not view.only(verdicts, targets) or not set(targets) <= set(view.eligible):
        return None
    wording = view.word(phrases.PLURALS)
    if len(targets) != 2 and ("both" in wording or "two" in wording):
        wording = "all the {ns}"
    adjectives = "".join(f"{word} " for word in before)
    many = adjectives + phrases.plural(noun, False)
    return wording.replace("{ns}", many).replace("{n}", adjectives + noun), targets, "plural"


_MAKERS: dict[str, Callable[[_View, int], Found]] = {
    "explicit": _explicit,
    "attribute": _attribute,
    "spatial": _spatial,
    "motion": _motion,
    "comparative": _comparative,
    "implicit": _implicit,
    "plural": _plural,
}


def _place_attribute(view: _View, i: int) -> str | None:
    x, y = view.along("x", i), view.along("y", i)
    if len(x) == 0 or np.ptp(x) > 0.45 or np.ptp(y) > 0.6:
        return None
    dx, dy = float(x.mean()) - 0.5, float(y.mean()) - 0.5
    if max(abs(dx), abs(dy)) < 0.14:
        return "in the middle"
    # Across the picture there is more room, so left and right are said first.
    if abs(dx) >= 0.14 and abs(dx) >= 0.6 * abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def _attributes(view: _View, i: int) -> tuple[str, ...]:
    """Name, colour, size beside others of its kind, position, motion."""
    found = [view.names[i]]
    colour = view.colour_of(i)
    if colour:
        found.append(colour)
    same = [j for j in range(view.count) if j != i and view.names[j] == view.names[i] and view.exists[j]]
    if same and all(view.larger(i, j) for j in same):
        found.append("big")
    elif same and all(view.larger(j, i) for j in same):
        found.append("small")
    place = _place_attribute(view, i)
    if place:
        found.append(place)
    seen = view.seen
    events = (
        "spinning" if seen.spinning[i] == 1 else "",
        seen.growth[i] if seen.growth[i] in ("growing", "shrinking") else "",
    )
    event = (
        seen.presence[i]
        or seen.phase[i]
        or (next(filter(None, events), "") if seen.motion[i] == "still" else "")
    )
    found.append(phrases.EVENT_ATTRIBUTES[event] if event else phrases.MOTION_ATTRIBUTES[seen.motion[i]])
    return tuple(found[:5])


def attributes(scene: Scene, i: int, catalogue: Catalogue | None = None) -> tuple[str, ...]:
    """Ground-truth attributes of an object, name first; 2 to 5 short phrases."""
    catalogue = catalogue or load_catalogue(scene.styles)
    return _attributes(_View(scene, catalogue, np.random.default_rng(0), "train"), i)


def _finish(view: _View, found: tuple[str, tuple[int, ...], str], kind: str) -> Referral:
    text, targets, number = found
    if view.chance(0.3):
        wrapper = view.inflect(view.word(phrases.WRAPPERS), number == "plural")
        if wrapper.endswith(("is {np}", "are {np}")) and text.split()[0] not in (
            "the",
            "a",
            "an",
            "all",
            "both",
        ):
            wrapper = "find {np}"
        text = wrapper.replace("{np}", text)
    first = targets[0]
    return Referral(text, targets, kind, _attributes(view, first), view.names[first])  # type: ignore[arg-type]


def referrals(
    scene: Scene,
    rng: np.random.Generator,
    *,
    phrasing: Phrasing = "train",
    kinds: Sequence[str] = tuple(KINDS),
    catalogue: Catalogue | None = None,
    tries: int = 3,
    nouns: Mapping[str, Collection[str]] | None = None,
) -> list[Referral]:
    """At most one referral for each object and kind, in random order; may be empty.

    Args:
        scene: What is referred to.
        rng: Source of chance for the wording.
        phrasing: Which wordings to use; "heldout" ones never occur in training.
        kinds: Which kinds to try.
        catalogue: The objects; the shipped ones if left out.
        tries: How many drafts are made of each kind and object before giving up.
        nouns: Further nouns → the objects that are called so, and never by their usual names.
    """
    view = _View(scene, catalogue or load_catalogue(scene.styles), rng, phrasing, nouns)
    found: list[Referral] = []
    for kind in kinds:
        expressions = set()
        for i in view.eligible:
            for _ in range(tries):
                made = _MAKERS[kind](view, i)
                if made is not None:
                    if made[0] not in expressions:
                        expressions.add(made[0])
                        found.append(_finish(view, made, kind))
                    break
    return [found[k] for k in rng.permutation(len(found))]


def sample_referral(
    scene: Scene,
    rng: np.random.Generator,
    *,
    phrasing: Phrasing = "train",
    weights: dict[str, float] = KINDS,
    catalogue: Catalogue | None = None,
) -> Referral | None:
    """One referral, its kind drawn by ``weights``, its target evenly; ``None`` if nothing true was found.

    Cheaper than :func:`referrals`: for training.
    """
    view = _View(scene, catalogue or load_catalogue(scene.styles), rng, phrasing)
    if not view.eligible:
        return None
    kinds = list(weights)
    shares = np.array([weights[k] for k in kinds], dtype=np.float64)
    for _ in range(24):
        kind = kinds[int(np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random()))]
        made = _MAKERS[kind](view, view.eligible[int(rng.integers(len(view.eligible)))])
        if made is not None:
            return _finish(view, made, kind)
    return None


def normalise(expression: str) -> str:
    """The form in which the demo model reads an expression: lower case, single spaces, no end punctuation."""
    return re.sub(r"\s+", " ", expression.lower()).strip().rstrip(".?!").strip()


def vocabulary(catalogue: Catalogue | None = None) -> list[str]:
    """Every word that expressions and attributes may use, sorted: for a word-level tokenizer."""
    catalogue = catalogue or load_catalogue()
    texts: list[str] = [*COLOURS, *phrases.EXTRA_WORDS, *phrases.GENERIC_NOUNS]
    table = _noun_table(catalogue.names, catalogue.groups)
    texts += [*table, *(phrases.plural(noun, noun in words.PLURAL) for noun in table)]
    texts += [text for trait in words.TRAITS.values() for text in trait.phrases]
    tables: list[dict[str, phrases.Wordings]] = [
        {"": phrases.WRAPPERS},
        {"": phrases.PLURALS},
        phrases.PARTICIPLES,
        phrases.CLAUSES,
        phrases.PLACES,
        phrases.FURTHEST,
        phrases.RELATIONS,
        phrases.SUPERLATIVES,
        phrases.COMPARATIVES,
        phrases.THAN,
    ]
    for wordings in (w for one in tables for w in one.values()):
        for text in (*wordings[0], *wordings[1]):
            for marks in (("s", "es", "is", "does"), ("", "", "are", "do")):
                form = text
                for mark, value in zip(("{s}", "{es}", "{is}", "{does}"), marks, strict=True):
                    form = form.replace(mark, value)
                texts.append(re.sub(r"\{\w+\}", " ", form))
    for adjectives in (*phrases.ADJECTIVES.values(), *phrases.SIZE_WORDS.values()):
        texts += adjectives
    for fixed in (phrases.MOTION_ATTRIBUTES, phrases.PLACE_ATTRIBUTES, phrases.EVENT_ATTRIBUTES):
        texts += fixed.values()
    texts += ["the a an that which they are it is big small other others"]
    return sorted({word for text in texts for word in text.split()})
