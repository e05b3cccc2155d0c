"""The content of a backend's database, as plain values that two runs have in common."""

from __future__ import annotations

import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.contract.normal import NUMBER, digest, normalised

_COUNTED = {"jobs": ("id",), "proposals": ("id",)}
"""Columns whose numbers depend on which of several tasks of a batch was quicker."""
_LATER = ("observations",)
"""Tables that a loop fills in its own time."""


def dump(database: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table by column, normalised, in an order that their content gives."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        return {name: _rows(connection, name) for (name,) in names.fetchall() if name not in _LATER}


def _rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    found = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]
    for row in found:
        row.update({column: _readable(value) for column, value in row.items()})
        row.update(dict.fromkeys(_COUNTED.get(table, ()), NUMBER))
        if table == "events":
            row["payload"] = digest(row["payload"])
        if table == "annotations":  # Label Studio's own clock, no time of ours
            row["updated_by_label_studio"] = row["updated_at"]
    return sorted((normalised(row) for row in found), key=lambda row: json.dumps(row, sort_keys=True))


def _readable(value: Any) -> Any:
    """What a column holds: packed JSON unpacked, JSON parsed."""
    if isinstance(value, bytes):
        return json.loads(zlib.decompress(value))
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value
