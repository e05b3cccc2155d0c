"""Annotations in the database: each once, in its newest state, with the decisions that follow from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ml_backend.corrections.efforts import UNKNOWN_EFFORT, Effort, note_name
from ml_backend.corrections.records import Decision, Problem
from ml_backend.corrections.reviews import free_if_changed
from ml_backend.corrections.serialization import DecisionDocument
from ml_backend.database.database import Database
from ml_backend.database.errors import describe_error, is_of_value
from ml_backend.database.set_aside import release, release_annotations, set_aside
from ml_backend.database.tables import (
    AnnotationRow,
    CorrectionRow,
    CorrectionState,
    DeletedTaskRow,
    EventRow,
    ReviewRow,
    SetAsideKind,
    SubmittedRow,
)

log = logging.getLogger(__name__)

_CHUNK = 50  # annotations in one transaction
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class AnnotationState:
    """One state of an annotation, with the decisions in it.

    Attributes:
        id: Number of the annotation in Label Studio.
        digest: Hash of its content, which orders states of the same time.
        cancelled: Whether its annotator skipped the task: then nothing in it counts.
        ground_truth: Whether it carries Label Studio's star.
        content: Hash of its results, whoever made them; empty where it was skipped.
        effort: Who made it, and how long it took.
        former_digest: The digest that earlier releases gave it; empty where there were none.
    """

    id: int
    project_id: int
    task_id: int
    updated_at: datetime | None
    digest: str
    cancelled: bool
    decisions: tuple[Decision, ...]
    ground_truth: bool = False
    content: str = ""
    effort: Effort = UNKNOWN_EFFORT
    former_digest: str = ""


@dataclass(frozen=True)
class ListedAnnotation:
    """An annotation that a project has, whether it can be used or not.

    Attributes:
        id: Number of the annotation in Label Studio.
        cancelled: Whether its annotator skipped the task.
        ground_truth: Whether it carries Label Studio's star.
        content: Hash of what it shows, whoever made it: the same for a copy; empty where that is not known.
        effort: Who made it, and how long it took.
    """

    id: int
    task_id: int
    updated_at: datetime | None
    cancelled: bool
    ground_truth: bool
    content: str
    effort: Effort = UNKNOWN_EFFORT


@dataclass(frozen=True)
class Changes:
    """What an event says.

    Attributes:
        states: New states of annotations.
        deleted_annotations: Numbers of annotations that are gone.
        deleted_tasks: Numbers of tasks that are gone.
        unreadable: Why an annotation cannot be read, by its number as text.
    """

    states: tuple[AnnotationState, ...] = ()
    deleted_annotations: tuple[int, ...] = ()
    deleted_tasks: tuple[int, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconciled:
    """What became of a reading of a project.

    Attributes:
        changed: How many annotations were changed or deleted.
        refused: Why an annotation could not be written, by its number as text.
    """

    changed: int
    refused: Mapping[str, str]


class AnnotationStore:
    """The annotations that this backend has heard of. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def process(self, event_id: int, changes: Changes, error: str | None = None) -> bool:
        """Write what follows from an event, and that it was processed, as one transaction.

        Args:
            event_id: The event.
            changes: What it says.
            error: Why nothing, or not all, could be made of it.

        Returns:
            Whether this call did it; ``False`` where it was done already.
        """
        taken = _Taken(dict(changes.unreadable))
        prepared = taken.prepared(changes.states)
        with self._database.writing() as session:
            event = session.get(EventRow, event_id)
            if event is None or event.processed_at is not None:
                return False
            project = event.project_id
            for task in changes.deleted_tasks:
                taken.take(session, f"of task {task}", partial(_delete_task, session, task))
            for number in changes.deleted_annotations:
                taken.take(session, str(number), partial(_delete_annotation, session, number, project))
            for state, rows in prepared:
                taken.take(session, str(state.id), partial(_apply, session, state, rows))
            taken.note(session, project)
            event.processed_at = datetime.now(UTC)
            event.error = error
            return True

    def known(self, project_id: int) -> dict[int, tuple[datetime | None, str]]:
        """Time and digest of every annotation of a project that is not deleted."""
        with self._database.reading() as session:
            rows = session.execute(
                select(AnnotationRow.id, AnnotationRow.updated_at, AnnotationRow.digest).where(
                    AnnotationRow.project_id == project_id, AnnotationRow.deleted.is_(False)
                )
            )
            return {number: (updated_at, digest) for number, updated_at, digest in rows}

    def listed(self, project_id: int) -> list[ListedAnnotation]:
        """Every annotation of a project that this backend has heard of and that is not deleted."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(AnnotationRow)
                .where(
                    AnnotationRow.project_id == project_id,
                    AnnotationRow.deleted.is_(False),
                    AnnotationRow.task_id.is_not(None),
                )
                .order_by(AnnotationRow.id)
            )
            return [
                ListedAnnotation(
                    id=row.id,
                    task_id=row.task_id or 0,
                    updated_at=row.updated_at,
                    cancelled=row.cancelled,
                    ground_truth=row.ground_truth,
                    content=row.content,
                    effort=Effort(row.annotator, "", row.lead_time, row.created_at),
                )
                for row in rows
            ]

    def reconcile(
        self,
        project_id: int,
        present: Iterable[int],
        changed: Sequence[AnnotationState],
        asked_at: datetime,
        unreadable: Mapping[str, str] | None = None,
    ) -> Reconciled:
        """Make the project's annotations equal to what Label Studio has.

        What was heard of an annotation after the asking began is newer than the answer, and stays. A kill in
        between leaves some annotations as they were; the next call takes them up.

        Args:
            project_id: The project.
            present: Every annotation that Label Studio has.
            changed: Those that differ from what :meth:`known` says.
            asked_at: When the asking began, by this machine's clock.
            unreadable: Why an annotation could not be read, by its number as text; these are set aside.
        """
        there = set(present)
        taken = _Taken(dict(unreadable or {}))
        # Short transactions: a webhook that waits for one has a second in all.
        for start in range(0, len(changed), _CHUNK):
            prepared = taken.prepared(changed[start : start + _CHUNK])
            with self._database.writing() as session:
                for state, rows in prepared:
                    write = partial(_override, session, state, rows, asked_at)
                    taken.take(session, str(state.id), write)
        with self._database.reading() as session:
            submitted = select(SubmittedRow.annotation_id).where(SubmittedRow.project_id == project_id)
            # Also of annotations that were never read.
            answered = {number for number in session.scalars(submitted) if number not in there}
        with self._database.writing() as session:
            gone = [
                row.id
                for row in session.scalars(
                    select(AnnotationRow).where(
                        AnnotationRow.project_id == project_id,
                        AnnotationRow.deleted.is_(False),
                        AnnotationRow.seen_at < asked_at,
                    )
                )
                if row.id not in there
            ]
            for annotation in gone:
                _delete_annotation(session, annotation, project_id)
            for annotation in answered:
                session.execute(
                    delete(SubmittedRow).where(
                        SubmittedRow.annotation_id == annotation, SubmittedRow.submitted_at < asked_at
                    )
                )
            release_annotations(session, project_id, asked_at)
            taken.note(session, project_id)
        return Reconciled(taken.changed + len(gone), taken.refused)


class _Taken:
    """Writes annotations one by one; one that cannot be written keeps no other from being written.

    Args:
        refused: What is known to be unreadable, by its source.

    Attributes:
        refused: The same, with what could not be written.
        changed: How many were changed.
    """

    def __init__(self, refused: dict[str, str]) -> None:
        self.refused = refused
        self.changed = 0
        self._written: list[str] = []

    def prepared(self, states: Iterable[AnnotationState]) -> list[tuple[AnnotationState, list[_DecisionRow]]]:
        """States with their rows, less those that no row can hold."""
        made = []
        for state in states:
            try:
                made.append(_with_rows(state))
            except Exception as error:
                self._refuse(str(state.id), error)
        return made

    def take(self, session: Session, source: str, write: Callable[[], bool | None]) -> None:
        """Write one thing, or nothing of it.

        Raises:
            StoreError: The database cannot be used, or SQLAlchemy says so.
        """
        try:
            with session.begin_nested():
                changed = bool(write())
        except Exception as error:
            if not is_of_value(error):
                raise
            self._refuse(source, error)
        else:
            self.changed += changed
            self._written.append(source)

    def note(self, session: Session, project_id: int | None) -> None:
        """Set aside what was refused, and no longer what was written."""
        set_aside(session, SetAsideKind.ANNOTATION, self.refused, project_id)
        release(session, SetAsideKind.ANNOTATION, *(set(self._written) - self.refused.keys()))

    def _refuse(self, source: str, error: Exception) -> None:
        log.error("annotation %s cannot be written", source, exc_info=error)
        self.refused[source] = describe_error(error)


@dataclass(frozen=True)
class _DecisionRow:
    """A decision as its row holds it; made before a transaction begins, since it takes its time."""

    decision: Decision
    content: bytes
    revision: str


def _with_rows(state: AnnotationState) -> tuple[AnnotationState, list[_DecisionRow]]:
    documents = [(decision, DecisionDocument.of(decision)) for decision in state.decisions]
    return state, [
        _DecisionRow(decision, document.pack(), document.revision(decision))
        for decision, document in documents
    ]


def _apply(
    session: Session, state: AnnotationState, rows: Sequence[_DecisionRow], *, override: bool = False
) -> bool:
    """Take over a state of an annotation, unless a newer one is known; return whether it was taken over.

    States are ordered by Label Studio's time and then by content, so that any order of arrival ends the same.

    Args:
        session: The transaction.
        state: The state.
        rows: Its decisions.
        override: Whether it is right whatever is known.
    """
    row = session.get(AnnotationRow, state.id)
    task_gone = session.get(DeletedTaskRow, state.task_id)
    if task_gone is not None and override:
        session.delete(task_gone)
        task_gone = None
    if row is None:
        row = AnnotationRow(id=state.id, deleted=False, digest="", updated_at=None)
        session.add(row)
    elif row.deleted and not override:
        return False
    elif not row.deleted:
        if row.updated_at == state.updated_at and row.digest == state.former_digest != state.digest:
            _take_digest(session, row, state.digest)
        known, given = (
            (row.updated_at or _NEVER, row.digest),
            (state.updated_at or _NEVER, state.digest),
        )
        if known == given or (known > given and not override):
            return False
    row.project_id, row.task_id = state.project_id, state.task_id
    row.updated_at, row.digest = state.updated_at, state.digest
    row.cancelled, row.deleted = state.cancelled, task_gone is not None
    row.ground_truth, row.content = state.ground_truth, state.content
    row.annotator, row.lead_time, row.created_at = state.effort.columns
    row.seen_at = datetime.now(UTC)
    session.flush()
    note_name(session, state.project_id, state.effort)
    free_if_changed(session, state.id, state.digest)
    _write_decisions(session, state, () if row.deleted or state.cancelled else rows)
    return True


def _take_digest(session: Session, row: AnnotationRow, digest: str) -> None:
    """Give an annotation that is as it is known another digest; what was said of it still holds."""
    session.execute(
        update(ReviewRow)
        .where(ReviewRow.annotation_id == row.id, ReviewRow.digest == row.digest)
        .values(digest=digest)
    )
    row.digest = digest


def _override(
    session: Session, state: AnnotationState, rows: Sequence[_DecisionRow], asked_at: datetime
) -> bool:
    """Take over a state as Label Studio has it, unless a newer one was heard of after it was asked for."""
    row = session.get(AnnotationRow, state.id)
    newer = row is not None and row.seen_at >= asked_at
    return _apply(session, state, rows, override=not newer)


def _write_decisions(session: Session, state: AnnotationState, rows: Sequence[_DecisionRow]) -> None:
    known = {
        row.object: row
        for row in session.scalars(select(CorrectionRow).where(CorrectionRow.annotation_id == state.id))
    }
    for one in rows:
        decision = one.decision
        row = known.pop(decision.object, None)
        # Earlier releases set aside what has no expression.
        freed = decision.problem is None and row is not None and row.problem == str(Problem.NO_EXPRESSION)
        if row is not None and row.revision == one.revision and not freed:
            row.decided = one.content  # its times may be others
            continue
        if row is None:
            row = CorrectionRow(annotation_id=state.id, object=decision.object)
            session.add(row)
        row.project_id, row.task_id = state.project_id, state.task_id
        row.expression = decision.expression
        row.verdict = None if decision.verdict is None else str(decision.verdict)
        row.decided, row.revision, row.completed, row.propagated = one.content, one.revision, None, False
        row.attempts, row.touched, row.changed_at = 0, True, datetime.now(UTC)
        if decision.problem is None:
            row.state, row.problem, row.reason = CorrectionState.PENDING, None, ""
        else:
            row.state = CorrectionState.SET_ASIDE
            row.problem, row.reason = str(decision.problem[0]), decision.problem[1]
    for row in known.values():
        session.delete(row)


def _delete_annotation(session: Session, annotation: int, project_id: int | None) -> None:
    row = session.get(AnnotationRow, annotation)
    if row is None:
        row = AnnotationRow(id=annotation, project_id=project_id, digest="")
        session.add(row)
    row.deleted = True
    row.seen_at = datetime.now(UTC)
    session.flush()
    session.execute(delete(CorrectionRow).where(CorrectionRow.annotation_id == annotation))
    session.execute(delete(SubmittedRow).where(SubmittedRow.annotation_id == annotation))


def _delete_task(session: Session, task: int) -> None:
    if session.get(DeletedTaskRow, task) is None:
        session.add(DeletedTaskRow(id=task))
    for row in session.scalars(select(AnnotationRow).where(AnnotationRow.task_id == task)).all():
        _delete_annotation(session, row.id, row.project_id)
