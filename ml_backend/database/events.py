"""Webhook events as they came, and how far each was followed.

An event is committed before anything follows from it. It is then *dispatched*: handlers write what it says beside its
annotations, in the transaction that notes it. After that it is *processed*: its annotations are read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.tables import EventRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredEvent:
    """A committed webhook event."""

    id: int
    action: str
    project_id: int | None
    payload: Mapping[str, Any]


EventHandler = Callable[[StoredEvent], None]
"""Writes what an event says, within the transaction that notes the event as dispatched."""


class EventStore:
    """Keeps webhook events. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, action: str, project_id: int | None, payload: Mapping[str, Any]) -> int:
        """Commit one event and return its number. It is on disk when this returns.

        Raises:
            StoreError: It could not be committed.
        """
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

    def unprocessed(self, limit: int = 100) -> list[StoredEvent]:
        """The oldest dispatched events whose annotations are not yet read."""
        return self._oldest(limit, EventRow.processed_at.is_(None), EventRow.dispatched_at.is_not(None))

    def dispatch(self, handlers: Iterable[EventHandler]) -> int:
        """Give every event that was not dispatched to all handlers, in the order in which events came.

        An event is dispatched exactly once, also by several threads or processes and after a crash.

        Returns:
            How many events this call dispatched.

        Raises:
            StoreError: The database cannot be used; the event stays, and so do all after it.
        """
        number = 0
        while events := self._oldest(1, EventRow.dispatched_at.is_(None)):
            number += self._dispatch(events[0], handlers)
        return number

    def _dispatch(self, event: StoredEvent, handlers: Iterable[EventHandler]) -> bool:
        with self._database.writing() as session:
            claimed = session.execute(
                update(EventRow)
                .where(EventRow.id == event.id, EventRow.dispatched_at.is_(None))
                .values(dispatched_at=datetime.now(UTC))
                .returning(EventRow.id)
            ).first()
            if claimed is None:
                return False
            for handler in handlers:
                try:
                    with session.begin_nested():
                        handler(event)
                except StoreError:
                    raise  # it waits
                except Exception:
                    # One event that nobody foresaw must not keep all later ones from being dispatched.
                    log.exception("webhook event %d (%s): unexpected error", event.id, event.action)
        return True

    def _oldest(self, limit: int, *conditions: ColumnElement[bool]) -> list[StoredEvent]:
        query = select(EventRow).where(*conditions).order_by(EventRow.id).limit(limit)
        with self._database.reading() as session:
            return [
                StoredEvent(row.id, row.action, row.project_id, json.loads(row.payload))
                for row in session.scalars(query)
            ]
