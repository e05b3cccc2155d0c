"""Where the memory of interactive calls lies: one row per task, side and annotator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, delete, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from ml_backend.steered import SteeredTask, from_json, to_json
from ml_backend.store import Base, Store, UtcDateTime

log = logging.getLogger(__name__)

UNKNOWN = 0
"""The annotator of a task that has no draft yet: Label Studio names a person in drafts only."""


class SteeringRow(Base):
    """What one annotator told of one side of a task, and what was answered."""

    __tablename__ = "steering"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    annotator: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    side: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class SteeringKey:
    """Whose hands which side of a task is in.

    Attributes:
        project_id: The project.
        task_id: The task.
        annotator: Label Studio's number of the person; :data:`UNKNOWN` before the first draft.
        side: Name of the object that is labelled.
    """

    project_id: int
    task_id: int
    annotator: int
    side: str


class SteeringStore:
    """Keeps :class:`~ml_backend.steered.SteeredTask`; safe to share between threads.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: SteeringKey) -> SteeredTask:
        """What is known; an empty memory where nothing is.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._store.reading() as session:
            return _read(_find(session, key))

    def change(self, key: SteeringKey, change: Callable[[SteeredTask], SteeredTask]) -> SteeredTask:
        """Change what is known in one transaction, and return it.

        The memory of an annotator who had no name yet goes over to the first who has one.

        Raises:
            StoreError: The database cannot be used; nothing was changed then.
        """
        with self._store.writing() as session:
            row = _find(session, key)
            found = _read(row)
            changed = change(found)
            if row is not None and row.annotator == key.annotator:
                if changed != found:
                    row.state = to_json(changed)
                    row.changed_at = datetime.now(UTC)
                return changed
            if row is not None:
                session.delete(row)
            session.add(
                SteeringRow(
                    project_id=key.project_id,
                    task_id=key.task_id,
                    annotator=key.annotator,
                    side=key.side,
                    state=to_json(changed),
                )
            )
            return changed

    def forget(self, project_id: int, task_id: int, annotator: int | None = None) -> int:
        """Forget a task in one annotator's hands, or in everybody's; return how many rows were there.

        Raises:
            StoreError: The database cannot be used.
        """
        statement = delete(SteeringRow).where(
            SteeringRow.project_id == project_id, SteeringRow.task_id == task_id
        )
        if annotator is not None:
            statement = statement.where(
                or_(SteeringRow.annotator == annotator, SteeringRow.annotator == UNKNOWN)
            )
        with self._store.writing() as session:
            return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def _find(session: Session, key: SteeringKey) -> SteeringRow | None:
    rows = {
        row.annotator: row
        for row in session.scalars(
            select(SteeringRow).where(
                SteeringRow.project_id == key.project_id,
                SteeringRow.task_id == key.task_id,
                SteeringRow.side == key.side,
                SteeringRow.annotator.in_((key.annotator, UNKNOWN)),
            )
        )
    }
    return rows.get(key.annotator, rows.get(UNKNOWN))


def _read(row: SteeringRow | None) -> SteeredTask:
    if row is None:
        return SteeredTask()
    try:
        return from_json(row.state)
    except (KeyError, TypeError, ValueError) as error:
        # Of another release, perhaps: the annotator clicks again, which is better than an error for ever.
        log.warning("what was told of task %d cannot be read (%s)", row.task_id, type(error).__name__)
        return SteeredTask()
