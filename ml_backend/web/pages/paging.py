"""Long lists, a page at a time, and what of them is asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import request

ROWS = 50
"""Rows of a list on a page."""
_LONGEST = 200
_ASKED = frozenset({"q", "found", "version", "newest", "standing", "annotator", "review", "from"})


@dataclass(frozen=True)
class Pager:
    """Which rows of a list a page shows, and where the neighbouring pages begin.

    Attributes:
        first: Number of the first row shown, from 1.
        last: Number of the last row shown.
        total: How many rows there are.
        newer: Where the page of newer rows begins, from 0; ``None`` where there is none.
        older: Where the page of older rows begins, from 0; ``None`` where there is none.
    """

    first: int
    last: int
    total: int
    newer: int | None
    older: int | None

    @classmethod
    def at(cls, offset: int, total: int) -> Pager:
        """The page that begins at an offset.

        Args:
            offset: Rows before the page.
            total: How many rows there are.
        """
        return cls(
            first=offset + 1,
            last=min(offset + ROWS, total),
            total=total,
            newer=max(0, offset - ROWS) if offset else None,
            older=offset + ROWS if offset + ROWS < total else None,
        )


def requested_offset() -> int:
    """Where in the list the requested page begins; 0 for anything but a plain number."""
    given = request.args.get("from", "0")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0


def page_arguments(number: int, offset: int) -> dict[str, Any]:
    """The arguments of a neighbouring page of a project's list: what is asked for stays.

    Args:
        number: The project.
        offset: Where the page begins, from 0.
    """
    return asked_for() | {"number": number, "from": offset}


def asked_for() -> dict[str, Any]:
    """What the requested list was asked for, for links to it; nothing else of the query."""
    return {name: value for name, value in request.args.items() if name in _ASKED}


def requested_text(name: str) -> str:
    """A text of the query without the spaces around it; at most :data:`_LONGEST` characters of it."""
    return request.args.get(name, "").strip()[:_LONGEST]


def requested_number(name: str) -> int | None:
    """A plain number of the query; ``None`` for anything else."""
    given = request.args.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None


_Choice = TypeVar("_Choice", bound=enum.StrEnum)


def requested_choice(name: str, choices: type[_Choice]) -> _Choice | None:
    """One of some choices in the query; ``None`` for anything else."""
    given = request.args.get(name, "")
    return next((choice for choice in choices if choice.value == given), None)
