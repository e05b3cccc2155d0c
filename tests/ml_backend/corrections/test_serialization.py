"""What the database keeps of decisions and completions is written as it always was, and read as it was written."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.corrections.serialization import CompletionDocument, DecisionDocument
from ml_backend.database.errors import StoreError

LAYOUT_5 = Path(__file__).parents[2] / "fixtures" / "store-layout-5.sql"


@pytest.fixture
def rows() -> Iterator[list[Any]]:
    """The corrections that the release of layout 5 wrote."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(LAYOUT_5.read_text())
        connection.row_factory = sqlite3.Row
        yield connection.execute("SELECT * FROM corrections").fetchall()


def test_bytes_and_revisions_are_those_of_earlier_releases(rows: list[Any]) -> None:
    assert len(rows) == 6
    for row in rows:
        document = DecisionDocument.unpack(row["decided"])
        decision = document.decision(
            instance=row["object"], expression=row["expression"], verdict=row["verdict"]
        )
        again = DecisionDocument.of(decision)
        assert again == document
        assert again.pack() == row["decided"]
        assert again.revision(decision) == row["revision"]
    completed = [row["completed"] for row in rows if row["completed"] is not None]
    assert len(completed) == 3
    for packed in completed:
        assert CompletionDocument.of(CompletionDocument.unpack(packed).completion()).pack() == packed


@pytest.mark.parametrize(
    "packed", [b"", b"not packed", zlib.compress(b"{"), zlib.compress(b'{"side": "frames"}')]
)
def test_what_is_damaged_says_so(packed: bytes) -> None:
    with pytest.raises(StoreError, match="DecisionDocument that cannot be read"):
        DecisionDocument.unpack(packed)
