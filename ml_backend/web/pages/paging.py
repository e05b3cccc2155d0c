"""Long lists, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from flask import request

ROWS = 50
"""Rows of a list on a page."""


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
