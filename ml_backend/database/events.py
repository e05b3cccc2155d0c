"""Webhook events as they came, before anything follows from them."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import func, select

from ml_backend.database.database import Database
from ml_backend.database.tables import EventRow


class EventStore:
    """Keeps webhook events.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, action: str, project_id: int | None, payload: dict[str, Any]) -> int:
        """Commit one event and return its number. It is on disk when this returns."""
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        with self._database.writing() as session:
            row = EventRow(action=action, project_id=project_id, payload=text)
            session.add(row)
            session.flush()
            return row.id

    def count(self) -> int:
        """How many webhook events are kept."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(EventRow)) or 0
