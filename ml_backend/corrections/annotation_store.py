"""Annotations in the database: each once, in its newest state, with the decisions that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ml_backend.corrections.records import Decision, Problem
from ml_backend.corrections.serialization import DecisionDocument
from ml_backend.database.database import Database
from ml_backend.database.tables import AnnotationRow, CorrectionRow, CorrectionState, DeletedTaskRow, EventRow

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


@dataclass(frozen=True)
class ListedAnnotation:
    """An annotation that a project has, whether it can be used or not.

    Attributes:
        id: Number of the annotation in Label Studio.
        cancelled: Whether its annotator skipped the task.
        ground_truth: Whether it carries Label Studio's star.
        content: Hash of what it shows, whoever made it: the same for a copy; empty where that is not known.
    """

    id: int
    task_id: int
    updated_at: datetime | None
    cancelled: bool
    ground_truth: bool
    content: str


@dataclass(frozen=True)
class Changes:
    """What an event, or a look at the project, says."""

    states: tuple[AnnotationState, ...] = ()
    deleted_annotations: tuple[int, ...] = ()
    deleted_tasks: tuple[int, ...] = ()


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
        prepared = [_with_rows(state) for state in changes.states]
        with self._database.writing() as session:
            event = session.get(EventRow, event_id)
            if event is None or event.processed_at is not None:
                return False
            for task in changes.deleted_tasks:
                _delete_task(session, task)
            for annotation in changes.deleted_annotations:
                _delete_annotation(session, annotation, event.project_id)
            for state, rows in prepared:
                _apply(session, state, rows)
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
                )
                for row in rows
            ]

    def reconcile(
        self, project_id: int, present: Iterable[int], changed: Sequence[AnnotationState], asked_at: datetime
    ) -> int:
        """Make the project's annotations equal to what Label Studio has.

        What was heard of an annotation after the asking began is newer than the answer, and stays. A kill in
        between leaves some annotations as they were; the next call takes them up.

        Args:
            project_id: The project.
            present: Every annotation that Label Studio has.
            changed: Those that differ from what :meth:`known` says.
            asked_at: When the asking began, by this machine's clock.

        Returns:
            How many annotations were changed or deleted.
        """
        there = set(present)
        number = 0
        # Short transactions: a webhook that waits for one has a second in all.
        for start in range(0, len(changed), _CHUNK):
            prepared = [_with_rows(state) for state in changed[start : start + _CHUNK]]
            with self._database.writing() as session:
                for state, rows in prepared:
                    row = session.get(AnnotationRow, state.id)
                    newer = row is not None and row.seen_at >= asked_at
                    number += _apply(session, state, rows, override=not newer)
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
        return number + len(gone)


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
    row.seen_at = datetime.now(UTC)
    session.flush()
    _write_decisions(session, state, () if row.deleted or state.cancelled else rows)
    return True


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


def _delete_task(session: Session, task: int) -> None:
    if session.get(DeletedTaskRow, task) is None:
        session.add(DeletedTaskRow(id=task))
    for row in session.scalars(select(AnnotationRow).where(AnnotationRow.task_id == task)).all():
        _delete_annotation(session, row.id, row.project_id)
