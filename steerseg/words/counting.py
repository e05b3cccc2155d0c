"""How many objects an expression means, and which tracklets of a proposal they are (our choice)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steerseg.masks import RLE, mask_area, rle_iou
from steerseg.verification import Opinion
from steerseg.words.glossary import singular_of
from steerseg.words.learning import NUMBERS
from steerseg.words.wording import plain_wording

MOST_INSTANCES = 8
"""An expression without a number, such as "all dogs", means at most so many instances."""

MAX_OVERLAP = 0.5
"""Candidates that share more of the smaller one's visible area than this are one object."""

MIN_RELATIVE_SCORE = 0.5
"""Of an expression without a number, candidates below this fraction of the best score do not count."""

_COUNT = re.compile(
    r"^(?:all\s+|both\s+)?(?:of\s+)?(?:the\s+|these\s+|those\s+)?"
    rf"(?P<count>{'|'.join(NUMBERS)}|[2-8])\s+(?!of\b)\w",
    re.IGNORECASE,
)
_ALL = re.compile(r"^(?P<word>all|both|every|each)\b(?!\s+over\b)", re.IGNORECASE)
_SEVERAL = re.compile(
    r"^(?:(?:all|both|every|each)\b\s*)?(?:of\s+)?(?:(?:the|these|those|some)\s+)?"
    rf"(?:(?:{'|'.join(NUMBERS)}|[2-8])\s+(?!of\b))?",
    re.IGNORECASE,
)
_HEAD = re.compile(
    r"^(?:the\s+|some\s+)?(?P<head>[^\W\d_][\w' -]*?)(?=\s+(?:that|which|who|whose|with|without|on|in|at|of"
    r"|to|from|by|for|near|next|beside|behind|above|below|under|over|around|between|closest|nearest|furthest|\w+ing)\b|[,.;:]|$)",
    re.IGNORECASE,
)
_RELATIVE_PRONOUNS = frozenset({"that", "which", "who", "whose"})
_PRONOUNS = frozenset({"them", "us", "these", "those", "what", "something", "anything", *_RELATIVE_PRONOUNS})
_NO_HEADS = frozenset(
    {"what", "something", "anything", "a", "an", "one", "this", "that", "where", "who", "which"}
)
# Nouns of one object that look like plurals, or may be one object.
# fmt: off
_ONE_OBJECT = frozenset({
    *("atlas", "berries", "binoculars", "blueberries", "bowling pins", "canvas", "cherries", "chopsticks"),
    *("christmas", "clothes", "cymbals", "dice", "earphones", "fries", "gas", "glasses", "gloves"),
    *("goggles", "grapes", "headphones", "jeans", "leggings", "lens", "maracas", "news", "noodles"),
    *("pajamas", "pancakes", "pants", "peanuts", "pins", "pliers", "pyjamas", "raspberries", "scales"),
    *("scissors", "series", "shorts", "skis", "socks", "spaghetti", "species", "spectacles", "stairs"),
    *("strawberries", "sunglasses", "surroundings", "tights", "tongs", "trousers", "tweezers", "weights"),
})
# fmt: on
_NO_PLURAL_ENDING = re.compile(r"(?:ss|us|is|as)$")


class RankedMasks(Protocol):
    """A tracklet, as far as it counts here."""

    @property
    def rles(self) -> tuple[RLE, ...]:
        """One encoded (H, W) mask a frame."""

    @property
    def score(self) -> float:
        """Rank score in [-1, 1]."""

    @property
    def opinion(self) -> Opinion | None:
        """What the LVLM thinks of it; ``None`` where it was not asked, or said nothing."""


@dataclass(frozen=True)
class InstanceCount:
    """How many instances an expression means.

    Attributes:
        most: At most this many.
        exact: Whether exactly this many are meant, rather than all that match.
    """

    most: int
    exact: bool


def instances_meant(expression: str) -> InstanceCount | None:
    """How many instances an expression means; ``None`` for one.

    It means several where it begins with a number or with "all", "both", "every" or "each", or where its noun is a
    plain plural. Some plurals are one object, such as "the glasses"; and "the larger of the two dogs" is one.

    Example:
        >>> instances_meant("pls track the two dogs")
        InstanceCount(most=2, exact=True)
        >>> instances_meant("the backpacks on the left")
        InstanceCount(most=8, exact=False)
    """
    text = plain_wording(" ".join(expression.split()))
    counted = _COUNT.match(text)
    if counted:
        word = counted.group("count").casefold()
        return InstanceCount(NUMBERS[word] if word in NUMBERS else int(word), exact=True)
    every = _ALL.match(text)
    if every:
        both = every.group("word").casefold() == "both"
        return InstanceCount(2, exact=True) if both else InstanceCount(MOST_INSTANCES, exact=False)
    return InstanceCount(MOST_INSTANCES, exact=False) if _is_plural(text) else None


def singular_expression(expression: str) -> str:
    """One of the objects that an expression of several means, as an expression of one.

    Args:
        expression: As the models read it, of several objects; see :func:`instances_meant`.

    Example:
        >>> singular_expression("all of the red cars on the left")
        'the red car on the left'
        >>> singular_expression("both daggers")
        'the dagger'
    """
    text = _SEVERAL.sub("", plain_wording(" ".join(expression.split())), count=1)
    head = _HEAD.match(text)
    if head is None:
        return f"the {text}"
    first = head.group("head").split()[0].casefold()
    if first in _PRONOUNS:
        return f"the one {text}" if first in _RELATIVE_PRONOUNS else expression
    words = head.group("head").split()
    return f"the {' '.join([*words[:-1], _singular(words)])}{text[head.end() :]}"


def _is_plural(text: str) -> bool:
    """Whether the noun of an expression is a plural that means several objects."""
    head = _HEAD.match(text)
    words = head.group("head").casefold().split() if head else []
    if not words or words[0] in _NO_HEADS:
        return False
    return len(words[-1]) >= 4 and _singular(words) != words[-1]


def _singular(words: Sequence[str]) -> str:
    """The singular of a noun, the last of ``words``; itself where it is one object, such as "glasses"."""
    noun = words[-1]
    one_object = {noun.casefold(), " ".join(words[-2:]).casefold()} & _ONE_OBJECT
    return noun if one_object or _NO_PLURAL_ENDING.search(noun) else singular_of(noun)


def alternatives_for(expression: str, alternatives: int) -> int:
    """How many candidates a proposal has to hold, so that all instances can be chosen from them."""
    several = instances_meant(expression)
    return alternatives if several is None else max(alternatives, several.most)


def choose_candidates(tracklets: Sequence[RankedMasks], several: InstanceCount | None) -> list[int]:
    """Ranks of the candidates that an expression means, best first; the best candidate is always chosen.

    Of several instances, those that the LVLM rejects are none. Those that it accepts are, whatever their score.

    Args:
        tracklets: The candidates, best first.
        several: How many instances are meant; ``None`` for one.
    """
    chosen: list[int] = []
    best = tracklets[0].score if tracklets else 0.0
    for rank, tracklet in enumerate(tracklets):
        if len(chosen) >= (1 if several is None else several.most):
            break
        if chosen and several is not None and not _is_instance(tracklet, best, several):
            continue
        if all(_are_distinct(tracklet, tracklets[other]) for other in chosen):
            chosen.append(rank)
    return chosen


def _is_instance(tracklet: RankedMasks, best: float, several: InstanceCount) -> bool:
    """Whether a candidate beside the best one is another instance: by the LVLM's opinion, or else by its score."""
    stance = None if tracklet.opinion is None else tracklet.opinion.stance
    if stance in ("accepted", "rejected"):
        return stance == "accepted"
    return several.exact or tracklet.score >= MIN_RELATIVE_SCORE * best


def _are_distinct(a: RankedMasks, b: RankedMasks) -> bool:
    """Whether two candidates are different objects: where both are visible, neither lies mostly on the other."""
    shared, least = 0, 0
    for one, other in zip(a.rles, b.rles, strict=True):
        areas = mask_area(one), mask_area(other)
        if min(areas) > 0:
            overlap = rle_iou(one, other)
            shared += round(overlap / (1 + overlap) * sum(areas))
            least += min(areas)
    return least == 0 or shared / least <= MAX_OVERLAP
