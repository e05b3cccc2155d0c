"""Drafts of expressions, a function for each kind: each is true of exactly its targets, or not made at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steerseg.demo import phrases
from steerseg.demo.catalogue import TRAITS
from steerseg.demo.speech import Speech, inflect
from steerseg.demo.statements import Better
from steerseg.demo.verdicts import NO, UNCLEAR, YES, Verdicts, as_verdicts, both

MOTIONS = (
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
    "leaves",
    "enters",
    "returns",
    "growing",
    "shrinking",
    "spinning",
)
"""Motions that expressions speak of; "overtakes" comes besides."""


@dataclass(frozen=True)
class Draft:
    """A noun phrase and what it refers to.

    Attributes:
        text: The noun phrase.
        targets: Indices of the objects, ascending.
        plural: Whether it takes a plural verb.
    """

    text: str
    targets: tuple[int, ...]
    plural: bool = False


def _explicit(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    noun = speech.pick(speech.own_nouns(i) or [facts.names[i]])
    if not facts.only(facts.noun(noun), (i,)):
        return None
    plural = speech.is_plural(noun, i)
    return Draft(speech.phrase(noun, plural), (i,), plural)


def _attribute(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    noun = speech.some_noun(i, generic=0.25)
    verdicts, plural = facts.noun(noun), speech.is_plural(noun, i)
    before: list[str] = []
    after: list[str] = []
    colour = facts.colour_of(i)
    if colour and speech.chance(0.8):
        verdicts = both(verdicts, facts.colour(colour))
        if speech.chance(0.75):
            before = [colour]
        else:
            after = [("that " if speech.chance(0.7) else "which ") + "{is} " + colour]
    if not (before or after) or speech.chance(0.15):
        sized = _sized(speech, i, verdicts)
        if sized is not None:
            verdicts, before = sized[0], [sized[1], *before]
        elif not (before or after):
            return None
    if not facts.only(verdicts, (i,)):
        return None
    return Draft(speech.phrase(noun, plural, before, after), (i,), plural)


def _sized(speech: Speech, i: int, among: Verdicts) -> tuple[Verdicts, str] | None:
    """A word for the size of object i where it is the largest or the smallest of ``among``."""
    facts = speech.statements
    orders: dict[str, Better] = {"big": facts.larger, "small": lambda a, b: facts.larger(b, a)}
    for size, better in orders.items():
        best = facts.best(among, better)
        if best is not None and best[i] == YES:
            return best, speech.pick(phrases.SIZE_WORDS[size])
    return None


def _coloured(speech: Speech, i: int, verdicts: Verdicts, share: float) -> tuple[Verdicts, list[str]]:
    """Sometimes put the object's colour before its noun."""
    facts = speech.statements
    colour = facts.colour_of(i)
    if colour and speech.chance(share):
        return both(verdicts, facts.colour(colour)), [colour]
    return verdicts, []


@dataclass(frozen=True)
class _Head:
    """The noun of an expression with the adjectives before it, and the verdicts on both."""

    noun: str
    plural: bool
    before: list[str]
    verdicts: Verdicts


def _spatial(speech: Speech, i: int) -> Draft | None:
    noun = speech.some_noun(i, generic=0.15)
    plural = speech.is_plural(noun, i)
    verdicts, before = _coloured(speech, i, speech.statements.noun(noun), 0.2)
    head = _Head(noun, plural, before, verdicts)
    draw = speech.rng.random()
    if draw < 0.45:
        return _at_position(speech, i, head)
    if draw < 0.7:
        return _furthest(speech, i, head)
    return _related(speech, i, head)


def _at_position(speech: Speech, i: int, head: _Head) -> Draft | None:
    """Such as “the dog on the left”."""
    facts = speech.statements
    positions = [p for p in phrases.POSITIONS if facts.position(p)[i] == YES]
    if not positions:
        return None
    position = speech.pick(positions)
    if not facts.only(both(head.verdicts, facts.position(position)), (i,)):
        return None
    text = speech.wording(phrases.POSITIONS[position])
    if speech.chance(0.2):
        text = "that {is} " + text
    return Draft(speech.phrase(head.noun, head.plural, head.before, [text]), (i,), head.plural)


def _furthest(speech: Speech, i: int, head: _Head) -> Draft | None:
    """Such as “the leftmost dog”."""
    facts = speech.statements
    for way in speech.rng.permutation(["left", "right", "top", "bottom"]).tolist():

        def ahead(a: int, b: int, way: str = way) -> bool:
            return facts.ahead(a, b, way)

        if facts.only(facts.best(head.verdicts, ahead), (i,)):
            named = " ".join([*head.before, head.noun])
            text = speech.wording(phrases.FURTHEST[way]).replace("{n}", named)
            return Draft("the " + inflect(text, head.plural), (i,), head.plural)
    return None


def _related(speech: Speech, i: int, head: _Head) -> Draft | None:
    """Such as “the dog left of the cat”."""
    facts = speech.statements
    others = [j for j in facts.eligible if j != i and speech.definite(j)]
    if not others:
        return None
    j = speech.pick_index(others)
    relation = speech.pick(("left", "right", "above", "below", "near"))
    if relation == "near":
        candidates = head.verdicts.copy()
        candidates[j] = NO
        related = facts.best(candidates, facts.nearer(j))  # of several: one alone needs no relation
    else:
        related = _on_side_of(speech, j, {"above": "top", "below": "bottom"}.get(relation, relation))
    if related is None or not facts.only(both(head.verdicts, related), (i,)):
        return None
    text = speech.wording(phrases.RELATIONS[relation]).replace("{m}", speech.definite(j) or "")
    return Draft(speech.phrase(head.noun, head.plural, head.before, [text]), (i,), head.plural)


def _on_side_of(speech: Speech, j: int, way: str) -> Verdicts:
    """Verdicts on being further left (right, higher, lower) than object j."""
    facts = speech.statements
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[way]

    def verdict(k: int) -> int:
        if k == j:
            return NO
        if facts.ahead(k, j, way):
            return YES
        return NO if facts.ahead(k, j, opposite) else UNCLEAR

    return as_verdicts(verdict(k) for k in range(facts.count))


def _motion(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    noun = speech.some_noun(i, generic=0.3)
    plural = speech.is_plural(noun, i)
    verdicts, before = _coloured(speech, i, facts.noun(noun), 0.15)
    head = _Head(noun, plural, before, verdicts)
    passed = [j for j in range(facts.count) if j != i and facts.overtakes(i, j)]
    if passed and speech.chance(0.7):
        draft = _overtaking(speech, i, head, passed)
        if draft is not None:
            return draft
    motions = [m for m in MOTIONS if facts.motion_of(i, m) == YES]
    if len(motions) > 1 and "moving" in motions and not speech.chance(0.15):
        motions.remove("moving")
    if not motions:
        return None
    motion = speech.pick(motions)
    if not facts.only(both(verdicts, facts.motion(motion)), (i,)):
        return None
    if motion in phrases.ADJECTIVES and speech.chance(0.15):
        adjectives = [speech.pick(phrases.ADJECTIVES[motion]), *before]
        return Draft(speech.phrase(noun, plural, adjectives), (i,), plural)
    return Draft(speech.phrase(noun, plural, before, [speech.motion(motion, plural)]), (i,), plural)


def _overtaking(speech: Speech, i: int, head: _Head, passed: list[int]) -> Draft | None:
    """Such as “the train that overtakes the others”, where no other object overtakes any."""
    facts = speech.statements
    indices = range(facts.count)
    rivals = [k for k in indices if k != i and any(facts.overtakes(k, j) for j in indices if j != k)]
    if rivals or head.verdicts[i] != YES:
        return None
    text = speech.wording(phrases.CLAUSES["overtakes"])
    name = speech.usual_noun(passed[0])
    if "others" in text and len(passed) < max(2, facts.count - 1):
        text = "overtake{s} the {m}"
    if "{m}" in text and not speech.definite(passed[0]):
        text = "overtake{s} the other {m}"
    after = "that " + text.replace("{m}", name)
    return Draft(speech.phrase(head.noun, head.plural, head.before, [after]), (i,), head.plural)


def _comparative(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    noun = speech.some_noun(i, generic=0.3)
    head = _Head(noun, speech.is_plural(noun, i), [], facts.noun(noun))
    orders: dict[str, Better] = {
        "big": facts.larger,
        "small": lambda a, b: facts.larger(b, a),
        "fast": facts.faster,
        "slow": facts.slower,
    }
    for quality in speech.rng.permutation(list(orders)).tolist():
        better = orders[quality]
        if speech.chance(0.3) and quality in phrases.THAN:
            draft = _compared(speech, i, head, quality, better)
            if draft is not None:
                return draft
        if not facts.only(facts.best(head.verdicts, better), (i,)):
            continue
        two = int((head.verdicts != NO).sum()) == 2
        wordings = phrases.COMPARATIVES if two and speech.chance(0.6) else phrases.SUPERLATIVES
        several = phrases.plural(noun, head.plural)
        text = speech.wording(wordings[quality]).replace("{ns}", several).replace("{n}", noun)
        return Draft("the " + inflect(text, head.plural), (i,), head.plural)
    return None


def _compared(speech: Speech, i: int, head: _Head, quality: str, better: Better) -> Draft | None:
    """Such as “the dog that is larger than the cat”."""
    facts = speech.statements
    others = [j for j in facts.eligible if j != i and speech.definite(j) and better(i, j)]
    if not others:
        return None
    j = speech.pick_index(others)
    than = as_verdicts(
        NO if k == j or better(j, k) else YES if better(k, j) else UNCLEAR for k in range(facts.count)
    )
    if not facts.only(both(head.verdicts, than), (i,)):
        return None
    text = speech.wording(phrases.THAN[quality]).replace("{m}", speech.definite(j) or "")
    return Draft(speech.phrase(head.noun, head.plural, (), ["that {is} " + text]), (i,), head.plural)


def _implicit(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    traits = [t for t in TRAITS if facts.trait(t)[i] == YES]
    if not traits:
        return None
    trait = speech.pick(traits)
    verdicts = facts.trait(trait)
    text = speech.wording(phrases.trait_wordings()[trait])
    if facts.only(verdicts, (i,)):
        return Draft(text, (i,))
    draw = speech.rng.random()
    if draw < 0.4:
        return _trait_in_motion(speech, i, verdicts, text)
    if draw < 0.75:
        return _trait_at_position(speech, i, verdicts, text)
    colour = facts.colour_of(i)
    if colour and facts.only(both(verdicts, facts.colour(colour)), (i,)):
        return Draft(f"{text} that is {colour}", (i,))
    return None


def _trait_in_motion(speech: Speech, i: int, verdicts: Verdicts, text: str) -> Draft | None:
    facts = speech.statements
    motions = [
        m for m in ("left", "right", "up", "down", "still", "circling") if facts.motion_of(i, m) == YES
    ]
    if not motions:
        return None
    motion = speech.pick(motions)
    if not facts.only(both(verdicts, facts.motion(motion)), (i,)):
        return None
    return Draft(f"{text} that is {speech.wording(phrases.PARTICIPLES[motion])}", (i,))


def _trait_at_position(speech: Speech, i: int, verdicts: Verdicts, text: str) -> Draft | None:
    facts = speech.statements
    positions = [p for p in phrases.POSITION_ATTRIBUTES if facts.position(p)[i] == YES]
    if not positions:
        return None
    position = speech.pick(positions)
    if not facts.only(both(verdicts, facts.position(position)), (i,)):
        return None
    return Draft(f"{text} {speech.wording(phrases.POSITIONS[position])}", (i,))


def _plural(speech: Speech, i: int) -> Draft | None:
    facts = speech.statements
    noun = speech.pick(speech.own_nouns(i) or [facts.names[i]])
    if speech.is_plural(noun, i):
        return None
    verdicts = facts.noun(noun)
    before: list[str] = []
    colour = facts.colour_of(i)
    if colour and speech.chance(0.3):
        verdicts, before = both(verdicts, facts.colour(colour)), [colour]
    targets = tuple(int(k) for k in np.flatnonzero(verdicts == YES))
    if len(targets) < 2 or not facts.only(verdicts, targets) or not set(targets) <= set(facts.eligible):
        return None
    wording = speech.wording(phrases.PLURALS)
    if len(targets) != 2 and ("both" in wording or "two" in wording):
        wording = "all the {ns}"
    adjectives = "".join(f"{word} " for word in before)
    many = adjectives + phrases.plural(noun, False)
    return Draft(wording.replace("{ns}", many).replace("{n}", adjectives + noun), targets, plural=True)


DRAFTS: dict[str, Callable[[Speech, int], Draft | None]] = {
    "explicit": _explicit,
    "attribute": _attribute,
    "spatial": _spatial,
    "motion": _motion,
    "comparative": _comparative,
    "implicit": _implicit,
    "plural": _plural,
}
"""Kind of expression → what drafts one about an object, or nothing."""
