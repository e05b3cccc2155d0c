"""Expressions: a task's own, and those that annotators type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.label_studio.task import task_value
from ml_backend.language.commands import is_command, numbered_titles
from ml_backend.settings import Settings
from steerseg.errors import ExpressionError
from steerseg.reasoning import check_expression
from steerseg.words.counting import MOST_INSTANCES

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
