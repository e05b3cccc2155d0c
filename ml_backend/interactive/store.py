"""The states of tasks in the database: one row per task, side and annotator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.tables import SteeringRow, SubmittedRow
from ml_backend.interactive.state import TaskState, from_json, to_json

log = logging.getLogger(__name__)

UNKNOWN = 0
"""The annotator of a task that has no draft yet: Label Studio names a person in drafts only."""


@dataclass(frozen=True)
class TaskStateKey:
    """One side of a task in the hands of one annotator.

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


class TaskStateStore:
    """Stores a :class:`~ml_backend.interactive.state.TaskState` per key; safe to share between threads.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: TaskStateKey) -> TaskState:
        """The state of a task; a new one where none is stored.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            return _read(_find(session, key))

    def change(self, key: TaskStateKey, change: Callable[[TaskState], TaskState]) -> TaskState:
        """Change the state of a task in one transaction, and return the new state.

        The state of an annotator who is not named yet passes to the first one who is.

        Raises:
            StoreError: The database cannot be used; nothing was changed then.
        """
        with self._database.writing() as session:
            row = _find(session, key)
            before = _read(row)
            changed = change(before)
            if row is not None and row.annotator == key.annotator:
                if changed != before:
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

    def note_unanswered(self, key: TaskStateKey, expression: str) -> None:
        """Note the expression that an annotator waits for without a call; writes nothing where it is noted.

        Args:
            key: The side of the task, and who waits.
            expression: The expression; empty where nobody waits any more.

        Raises:
            StoreError: The database cannot be used.
        """
        if self.get(key).unanswered != expression:
            self.change(key, lambda task: replace(task, unanswered=expression))

    def unanswered(self, project_id: int, task_id: int, annotator: int) -> tuple[str, ...]:
        """The expressions of a task that an annotator waits for without a call, on all its sides.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.scalars(_of_annotator(project_id, task_id, annotator))
            return tuple(task.unanswered for task in map(_read, rows) if task.unanswered)

    def submit(self, annotation_id: int, project_id: int, task_id: int, annotator: int) -> int:
        """End the state of a task that an annotator submits; the next request begins a new one.

        :meth:`submitted` and :meth:`submitted_last` give the ended state as long as there is the annotation: it tells
        answers from what the annotator drew, and an editor that stays open may submit again.

        Returns:
            How many rows there were.

        Raises:
            StoreError: The database cannot be used.
        """
        now = datetime.now(UTC)
        with self._database.writing() as session:
            rows = list(session.scalars(_of_annotator(project_id, task_id, annotator)))
            for row in rows:
                before = session.get(SubmittedRow, (annotation_id, row.side))
                session.merge(
                    SubmittedRow(
                        annotation_id=annotation_id,
                        side=row.side,
                        project_id=project_id,
                        task_id=task_id,
                        annotator=annotator,
                        state=row.state if before is None else to_json(_after(_read(before), _read(row))),
                        submitted_at=now,
                    )
                )
                session.delete(row)
            return len(rows)

    def submitted(self, annotation_id: int, side: str) -> TaskState | None:
        """The state in which an annotation was submitted; ``None`` where it is not known.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            row = session.get(SubmittedRow, (annotation_id, side))
            return None if row is None else _read(row)

    def submitted_last(self, key: TaskStateKey) -> TaskState | None:
        """The state in which an annotator last submitted the task; ``None`` where it is not known.

        Raises:
            StoreError: The database cannot be read.
        """
        wanted = (
            select(SubmittedRow)
            .where(
                SubmittedRow.project_id == key.project_id,
                SubmittedRow.task_id == key.task_id,
                SubmittedRow.annotator == key.annotator,
                SubmittedRow.side == key.side,
            )
            .order_by(SubmittedRow.submitted_at.desc())
            .limit(1)
        )
        with self._database.reading() as session:
            row = session.scalars(wanted).first()
            return None if row is None else _read(row)

    def forget(self, project_id: int, task_id: int) -> int:
        """Delete the states of a task for all annotators; return how many rows there were.

        Raises:
            StoreError: The database cannot be used.
        """
        count = 0
        with self._database.writing() as session:
            for table in (SteeringRow, SubmittedRow):
                gone = delete(table).where(table.project_id == project_id, table.task_id == task_id)
                count += int(session.execute(gone).rowcount)  # type: ignore[attr-defined]
        return count


def _of_annotator(project_id: int, task_id: int, annotator: int) -> Select[SteeringRow]:
    """The states of a task's sides that pass to an annotator who submits it."""
    return select(SteeringRow).where(
        SteeringRow.project_id == project_id,
        SteeringRow.task_id == task_id,
        SteeringRow.annotator.in_((annotator, UNKNOWN)),
    )


def _find(session: Session, key: TaskStateKey) -> SteeringRow | None:
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


def _after(before: TaskState, now: TaskState) -> TaskState:
    """The state now, with the digests of all answers of an earlier submission as well."""
    instances = dict(before.instances)
    for index, instance in now.instances.items():
        earlier: Mapping[int, tuple[str, ...]] = instances[index].answered if index in instances else {}
        answered = {
            page: tuple(dict.fromkeys((*earlier.get(page, ()), *instance.answered.get(page, ()))))
            for page in (*earlier, *instance.answered)
        }
        instances[index] = replace(instance, answered=answered)
    return replace(now, instances=instances)


def _read(row: SteeringRow | SubmittedRow | None) -> TaskState:
    if row is None:
        return TaskState()
    try:
        return from_json(row.state)
    except ValueError as error:
        # It may be another release's. The annotator clicks again, which is better than an error for ever.
        log.warning("the state of task %d cannot be read (%s)", row.task_id, type(error).__name__)
        return TaskState()
