"""A task and an annotator's draft, as Label Studio sends them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ORDER_KEY = "steerseg_next"
"""Key of a task's data under which the backend writes its place in the labelling order, where a project wants that."""


REVIEW_KEY = "steerseg_review"
"""Key of a task's data under which the backend writes why a reviewer returned an annotation of it."""

_WRITTEN = frozenset({ORDER_KEY, REVIEW_KEY})


def own_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """A task's data without what the backend writes into it."""
    return {key: value for key, value in data.items() if key not in _WRITTEN}


@dataclass(frozen=True)
class Draft:
    """An unsaved annotation of the person who calls.

    Attributes:
        annotator: Label Studio's number of that person; ``None`` where it is unknown.
        results: Its results.
    """

    annotator: int | None
    results: tuple[Mapping[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class Task:
    """A task as Label Studio sends it.

    Attributes:
        id: Its id in Label Studio.
        data: Its data: addresses of media, expression, fps, ...
        drafts: The results of its unsaved drafts; sent with interactive calls only.
        draft: The draft that was saved last; sent with interactive calls only.
        predictions: The results of each prediction that is stored for it, the newest last.
    """

    id: int
    data: Mapping[str, Any]
    drafts: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    draft: Draft | None = None
    predictions: tuple[tuple[Mapping[str, Any], ...], ...] = field(default=(), repr=False)


def task_value(data: Mapping[str, Any], key: str) -> Any:
    """Look ``key`` up in a task's data; ``a.b`` reaches into nested objects. ``None`` where it is missing."""
    if key in data:
        return data[key]
    value: Any = data
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
