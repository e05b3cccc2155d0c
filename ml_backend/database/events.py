"""Webhook events as they came, and how far each was followed.

An event is committed before anything follows from it. It is then *dispatched*: handlers write what it says beside its
annotations, in the transaction that notes it. After that it is *processed*: its annotations are read. An event that
cannot be followed is *set aside* with its error, and the next one is taken; it is processed then, as far as it will be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.errors import describe_error, is_of_value
from ml_backend.database.set_aside import release, set_aside
from ml_backend.database.tables import EventRow, SetAsideKind, SetAsideRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredEvent:
    """A committed webhook event."""

    id: int
    action: str
    project_id: int | None
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Dispatched:
    """What dispatching did.

    Attributes:
        number: How many events were dispatched.
        set_aside: Projects of events that were set aside.
    """

    number: int
    set_aside: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Row:
    """A stored event, not parsed."""

    id: int
    action: str
    project_id: int | None
    payload: str


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
        """The oldest dispatched events whose annotations are not yet read; what cannot be parsed is set aside."""
        waiting = (EventRow.processed_at.is_(None), EventRow.dispatched_at.is_not(None))
        while rows := self._oldest(limit, *waiting):
            if events := list(self._parsed(rows)):
                return events
        return []

    def dispatch(self, handlers: Iterable[EventHandler]) -> Dispatched:
        """Give every event that was not dispatched to all handlers, in the order in which events came.

        An event is dispatched exactly once, also by several threads or processes and after a crash. Where a handler
        fails, nothing that the event says is written, and the event is set aside.

        Raises:
            StoreError: The database cannot be used; the event stays, and so do all after it.
        """
        number = 0
        projects: set[int] = set()
        while rows := self._oldest(1, EventRow.dispatched_at.is_(None), EventRow.processed_at.is_(None)):
            done = self._dispatch(rows[0].id, handlers)
            number += done is True
            if done is False and rows[0].project_id is not None:
                projects.add(rows[0].project_id)
        return Dispatched(number, frozenset(projects))

    def set_aside(self, event_id: int, error: Exception) -> None:
        """Set an event aside that could not be processed, unless it was processed meanwhile.

        Raises:
            StoreError: The database cannot be used.
        """
        with self._database.writing() as session:
            row = session.get(EventRow, event_id)
            if row is not None and row.processed_at is None:
                _set_aside(session, row, error)

    def take_again(self, project_id: int) -> int:
        """Have the events of a project, and of no project, followed that were set aside; return how many.

        Raises:
            StoreError: The database cannot be used.
        """
        of_project = (SetAsideRow.project_id == project_id) | SetAsideRow.project_id.is_(None)
        with self._database.writing() as session:
            sources = session.scalars(
                select(SetAsideRow.source).where(SetAsideRow.kind == SetAsideKind.EVENT, of_project)
            ).all()
            for source in sources:
                session.execute(
                    update(EventRow).where(EventRow.id == int(source)).values(processed_at=None, error=None)
                )
            release(session, SetAsideKind.EVENT, *sources)
        return len(sources)

    def _dispatch(self, event_id: int, handlers: Iterable[EventHandler]) -> bool | None:
        """Whether an event was dispatched or set aside; ``None`` where another did it."""
        with self._database.writing() as session:
            row = session.get(EventRow, event_id, with_for_update=True)
            if row is None or row.dispatched_at is not None or row.processed_at is not None:
                return None
            try:
                event = _parse(row)
                with session.begin_nested():
                    for handler in handlers:
                        handler(event)
            except Exception as error:
                if not is_of_value(error):
                    raise  # it waits
                _set_aside(session, row, error)
                return False
            row.dispatched_at = datetime.now(UTC)
            return True

    def _parsed(self, rows: Iterable[_Row]) -> Iterator[StoredEvent]:
        for row in rows:
            try:
                event = _parse(row)
            except Exception as error:
                self.set_aside(row.id, error)
            else:
                yield event

    def _oldest(self, limit: int, *conditions: ColumnElement[bool]) -> list[_Row]:
        columns = (EventRow.id, EventRow.action, EventRow.project_id, EventRow.payload)
        query = select(*columns).where(*conditions).order_by(EventRow.id).limit(limit)
        with self._database.reading() as session:
            return [_Row(*row) for row in session.execute(query)]


def _parse(row: _Row | EventRow) -> StoredEvent:
    return StoredEvent(row.id, row.action, row.project_id, json.loads(row.payload))


def _set_aside(session: Session, row: EventRow, error: Exception) -> None:
    """Note that an event is followed no further."""
    # One event that nobody foresaw must not keep all later ones from being followed.
    log.error("webhook event %d (%s) is set aside", row.id, row.action, exc_info=error)
    row.error = describe_error(error)
    row.processed_at = datetime.now(UTC)
    set_aside(session, SetAsideKind.EVENT, {str(row.id): row.error}, row.project_id)
