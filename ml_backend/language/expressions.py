"""Expressions: a task's own, those that annotators type, and the candidates that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.label_studio.task import task_value
from ml_backend.language.commands import is_command, numbered_titles
from ml_backend.proposals import StoredProposal, StoredTracklet
from ml_backend.settings import Settings
from steerseg.errors import ExpressionError
from steerseg.masks import decode_rle, iou, mask_area
from steerseg.reasoning import check_expression

MOST_INSTANCES = 8
"""An expression without a number, such as "all dogs", means at most so many instances."""

MAX_OVERLAP = 0.5
"""Candidates that share more of the smaller one's visible area than this are one object."""

MIN_RELATIVE_SCORE = 0.5
"""Of an expression without a number, candidates below this fraction of the best score do not count."""

NUMBERS = {word: n for n, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight"), 2)}
"""Words at the beginning of an expression that say how many objects are meant."""
_LEAD = r"(?:(?:please|find|show me|track|segment|select|follow|i want|where are)\s+)*"
_COUNT = re.compile(
    rf"^{_LEAD}(?:all\s+|both\s+)?(?:of\s+)?(?:the\s+|these\s+|those\s+)?"
    rf"(?P<count>{'|'.join(NUMBERS)}|[2-8])\s+(?!of\b)\w",
    re.IGNORECASE,
)
_ALL = re.compile(rf"^{_LEAD}(?P<word>all|both|every|each)\b(?!\s+over\b)", re.IGNORECASE)
_PICK = re.compile(r"^#\s*(\d{1,2})$")


def task_expression(data: Mapping[str, Any], extra_params: Mapping[str, Any], settings: Settings) -> str:
    """The expression of a task: its own, else the project's, else that of the settings.

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
class TypedText:
    """The parts of a typed text.

    Attributes:
        expression: The expression; empty where only a candidate was picked.
        label: The label of the instance, where the text begins with one: ``object 2: the cat``.
        pick: The number of a candidate, from 1, where one was picked: ``#2``.
    """

    expression: str = ""
    label: str | None = None
    pick: int | None = None


@dataclass(frozen=True)
class InstanceCount:
    """How many instances an expression means.

    Attributes:
        most: At most this many.
        exact: Whether exactly this many are meant, rather than all that match.
    """

    most: int
    exact: bool


def read_typed_text(text: str, labels: Sequence[str]) -> TypedText:
    """Read a typed text.

    Args:
        text: The text as typed.
        labels: The labels of the instances, in their order.
    """
    text = " ".join(text.split())
    label = None
    head, colon, rest = text.partition(":")
    named = {name.casefold(): name for name in labels}
    if colon and head.strip().casefold() in named:
        label, text = named[head.strip().casefold()], rest.strip()
    picked = _PICK.match(text)
    if picked:
        return TypedText(label=label, pick=int(picked.group(1)))
    return TypedText(expression=text, label=label)


def typed_expressions(texts: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """The expressions among typed texts, the last first; commands and picked candidates are none."""
    names = (*labels, *numbered_titles(MOST_INSTANCES))
    read = (read_typed_text(text, names) for text in reversed(texts) if not is_command(text, names))
    return (typed.expression for typed in read if typed.expression)


def instances_meant(expression: str) -> InstanceCount | None:
    """How many instances an expression means; ``None`` for one.

    Only an expression that begins with a number or with "all", "both", "every" or "each" means several: a plural such
    as "the glasses" may be one object, and "the larger of the two dogs" is one.
    """
    text = " ".join(expression.split())
    counted = _COUNT.match(text)
    if counted:
        word = counted.group("count").casefold()
        return InstanceCount(NUMBERS[word] if word in NUMBERS else int(word), exact=True)
    every = _ALL.match(text)
    if every:
        return (
            InstanceCount(2, exact=True)
            if every.group("word").casefold() == "both"
            else InstanceCount(MOST_INSTANCES, False)
        )
    return None


def alternatives_for(expression: str, alternatives: int) -> int:
    """How many candidates a proposal has to hold, so that all instances can be chosen from them."""
    several = instances_meant(expression)
    return alternatives if several is None else max(alternatives, several.most)


def choose_candidates(proposal: StoredProposal, several: InstanceCount | None) -> list[int]:
    """Ranks of the candidates that the expression means, best first.

    Args:
        proposal: The proposal; its best candidate is always chosen.
        several: How many instances are meant; ``None`` for one.
    """
    chosen: list[int] = []
    best = proposal.tracklets[0].score if proposal.tracklets else 0.0
    for rank, tracklet in enumerate(proposal.tracklets):
        if len(chosen) >= (1 if several is None else several.most):
            break
        all_that_match = several is not None and not several.exact
        if chosen and all_that_match and tracklet.score < MIN_RELATIVE_SCORE * best:
            continue
        if all(_are_distinct(tracklet, proposal.tracklets[other]) for other in chosen):
            chosen.append(rank)
    return chosen


def _are_distinct(a: StoredTracklet, b: StoredTracklet) -> bool:
    """Whether two candidates are different objects: where both are visible, neither lies mostly on the other."""
    shared, least = 0, 0
    for one, other in zip(a.rles, b.rles, strict=True):
        areas = mask_area(one), mask_area(other)
        if min(areas) > 0:
            overlap = iou(decode_rle(one), decode_rle(other))
            shared += round(overlap / (1 + overlap) * sum(areas))
            least += min(areas)
    return least == 0 or shared / least <= MAX_OVERLAP
