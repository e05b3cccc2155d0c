"""Which words a task is about, where its annotator has not typed any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.label_studio.task import task_value
from ml_backend.proposals import StoredProposal, StoredTracklet
from ml_backend.settings import Settings
from steerseg.errors import ExpressionError
from steerseg.masks import decode_rle, iou, mask_area
from steerseg.reasoning import check_expression

MOST_OBJECTS = 8
OVERLAP = 0.5
FAINT = 0.5
_NUMBERS = {word: n for n, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight"), 2)}
_LEAD = r"(?:(?:please|find|show me|track|segment|select|follow|i want|where are)\s+)*"
_COUNT = re.compile(
    rf"^{_LEAD}(?:all\s+|both\s+)?(?:of\s+)?(?:the\s+|these\s+|those\s+)?"
    rf"(?P<count>{'|'.join(_NUMBERS)}|[2-8])\s+(?!of\b)\w",
    re.IGNORECASE,
)
_ALL = re.compile(rf"^{_LEAD}(?P<word>all|both|every|each)\b(?!\s+over\b)", re.IGNORECASE)
_PICK = re.compile(r"^#\s*(\d{1,2})$")


def task_expression(data: Mapping[str, Any], extra_params: Mapping[str, Any], settings: Settings) -> str:
    """What to track in a task: its own expression, else the project's, else the settings'.

    Args:
        data: The task's data.
        extra_params: The parameters of the project's model connection.
        settings: The settings in force.

    Raises:
        ExpressionError: There is none, or it is unusable.
    """
    key = extra_params.get("expression_key", settings.expression_key)
    value = task_value(data, str(key))
    if value is None:
        value = extra_params.get("expression", settings.default_expression)
    if value is None:
        raise ExpressionError(
            f"the task's data has no {str(key)!r} and the project no default expression; add "
            f'"{key}" to the data, or {{"expression": "..."}} to the extra parameters of the model'
        )
    return check_expression(value)


@dataclass(frozen=True)
class Words:
    """A typed text, read.

    Attributes:
        expression: What to track; empty where only a candidate was picked.
        label: The object it is about, by its label, where the text says so: ``object 2: the cat``.
        pick: The number of a candidate, from 1, where one was picked: ``#2``.
    """

    expression: str = ""
    label: str | None = None
    pick: int | None = None


@dataclass(frozen=True)
class Wanted:
    """How many objects an expression means.

    Attributes:
        most: Not more than this.
        exact: Whether just as many are meant, and not all that match.
    """

    most: int
    exact: bool


def read_words(text: str, labels: Sequence[str]) -> Words:
    """Read a typed text.

    Args:
        text: As typed.
        labels: Of the objects, in their order.
    """
    text = " ".join(text.split())
    label = None
    head, colon, rest = text.partition(":")
    named = {name.casefold(): name for name in labels}
    if colon and head.strip().casefold() in named:
        label, text = named[head.strip().casefold()], rest.strip()
    picked = _PICK.match(text)
    if picked:
        return Words(label=label, pick=int(picked.group(1)))
    return Words(expression=text, label=label)


def typed_expressions(texts: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """What was typed to be tracked, the last first; texts that only pick a candidate are none."""
    words = (read_words(text, labels) for text in reversed(texts))
    return (one.expression for one in words if one.expression)


def wanted(expression: str) -> Wanted | None:
    """How many objects an expression means; ``None`` for one.

    Only what begins with a number or with "all", "both", "every" or "each" means several: plurals like "the
    glasses" may be one object, and "the larger of the two dogs" is.
    """
    text = " ".join(expression.split())
    counted = _COUNT.match(text)
    if counted:
        word = counted.group("count").casefold()
        return Wanted(_NUMBERS[word] if word in _NUMBERS else int(word), exact=True)
    every = _ALL.match(text)
    if every:
        return (
            Wanted(2, exact=True) if every.group("word").casefold() == "both" else Wanted(MOST_OBJECTS, False)
        )
    return None


def alternatives_for(expression: str, alternatives: int) -> int:
    """How many candidates a proposal has to hold, so that several objects can be chosen from them."""
    several = wanted(expression)
    return alternatives if several is None else max(alternatives, several.most)


def choose_objects(proposal: StoredProposal, several: Wanted | None) -> list[int]:
    """Ranks of the candidates that the expression means, best first.

    Args:
        proposal: The proposal; its best candidate is always chosen.
        several: How many objects are meant; ``None`` for one.
    """
    chosen: list[int] = []
    best = proposal.tracklets[0].score if proposal.tracklets else 0.0
    for rank, tracklet in enumerate(proposal.tracklets):
        if len(chosen) >= (1 if several is None else several.most):
            break
        if chosen and several is not None and not several.exact and tracklet.score < FAINT * best:
            continue
        if all(_apart(tracklet, proposal.tracklets[other]) for other in chosen):
            chosen.append(rank)
    return chosen


def _apart(a: StoredTracklet, b: StoredTracklet) -> bool:
    """Whether two candidates are different objects: where both are seen, neither mostly lies on the other."""
    shared, least = 0, 0
    for one, other in zip(a.rles, b.rles, strict=True):
        areas = mask_area(one), mask_area(other)
        if min(areas) > 0:
            overlap = iou(decode_rle(one), decode_rle(other))
            shared += round(overlap / (1 + overlap) * sum(areas))
            least += min(areas)
    return least == 0 or shared / least <= OVERLAP
