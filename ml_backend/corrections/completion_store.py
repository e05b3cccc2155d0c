"""Corrections in the database as completion sees them: what waits, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, literal, select, update

from ml_backend.corrections.records import Completion, Decision, Problem
from ml_backend.corrections.serialization import CompletionDocument, DecisionDocument
from ml_backend.corrections.store import read_rows
from ml_backend.database.database import Database
from ml_backend.database.tables import CorrectionRow, CorrectionState, utc_now


@dataclass(frozen=True)
class PendingCorrection:
    """A decision that waits for its completion.

    Attributes:
        reason: Why it could not be completed the last time; empty at first.
        usable: Whether it is complete but for what is to be propagated.
    """

    id: int
    revision: str
    project_id: int
    task_id: int
    annotation_id: int
    attempts: int
    reason: str
    usable: bool
    decision: Decision


class CompletionStore:
    """The corrections that wait for their completion. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self, project_id: int | None = None) -> list[PendingCorrection]:
        """Decisions that wait for their completion, oldest first; of all projects where none is named."""
        return self._pending(project_id, CorrectionRow.state == CorrectionState.PENDING)

    def unpropagated(self, project_id: int | None = None) -> list[PendingCorrection]:
        """Usable corrections whose other frames are still to be filled, oldest first."""
        usable = CorrectionRow.state == CorrectionState.USABLE
        return self._pending(project_id, usable, CorrectionRow.propagated.is_(False))

    def _pending(self, project_id: int | None, *conditions: ColumnElement[bool]) -> list[PendingCorrection]:
        query = select(CorrectionRow).where(*conditions)
        if project_id is not None:
            query = query.where(CorrectionRow.project_id == project_id)
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(CorrectionRow.changed_at, CorrectionRow.id)).all()
        return read_rows(self._database, rows, _pending)

    def complete(self, pending: PendingCorrection, completed: Completion, *, propagated: bool) -> bool:
        """Make a correction usable. It is new from now on, unless it was usable before.

        Args:
            pending: What was completed.
            completed: What became of it.
            propagated: Whether masks were propagated as far as they will be.

        Returns:
            Whether it was still wanted: ``False`` where the annotation was changed or deleted meanwhile.
        """
        kept = [frame.touched for frame in completed.frames.values()]
        row = CorrectionRow
        now = literal(utc_now(), row.changed_at.type)
        return self._finish(
            pending,
            state=CorrectionState.USABLE,
            problem=None,
            reason="",
            completed=CompletionDocument.of(completed).pack(),
            touched=any(kept),
            propagated=propagated,
            attempts=0,
            changed_at=case((row.state == CorrectionState.USABLE, row.changed_at), else_=now),
        )

    def leave_gaps(self, pending: PendingCorrection) -> bool:
        """Give up propagation in a usable correction; see :meth:`complete` for the answer."""
        return self._finish(pending, propagated=True)

    def fail(self, pending: PendingCorrection, problem: Problem, reason: str) -> bool:
        """Set aside what could not be completed; see :meth:`complete` for the answer."""
        return self._finish(
            pending, state=CorrectionState.SET_ASIDE, problem=str(problem), reason=reason, completed=None
        )

    def postpone(self, pending: PendingCorrection, reason: str) -> bool:
        """Leave it pending with the reason why; see :meth:`complete` for the answer."""
        return self._finish(pending, reason=reason, attempts=pending.attempts + 1)

    def retry(self, project_id: int, problems: Sequence[Problem]) -> int:
        """Make corrections that were set aside for these problems pending again; return how many."""
        with self._database.writing() as session:
            result = session.execute(
                update(CorrectionRow)
                .where(
                    CorrectionRow.project_id == project_id,
                    CorrectionRow.state == CorrectionState.SET_ASIDE,
                    CorrectionRow.problem.in_([str(problem) for problem in problems]),
                )
                .values(state=CorrectionState.PENDING, problem=None, attempts=0)
                .returning(CorrectionRow.id)
            )
            return len(result.all())

    def _finish(self, pending: PendingCorrection, **values: Any) -> bool:
        with self._database.writing() as session:
            result = session.execute(
                update(CorrectionRow)
                .where(
                    CorrectionRow.id == pending.id,
                    CorrectionRow.revision == pending.revision,
                    # What a reviewer returned meanwhile stays out of use.
                    CorrectionRow.problem.is_distinct_from(str(Problem.RETURNED)),
                )
                .values(**values)
                .returning(CorrectionRow.id)
            )
            return result.first() is not None


def _pending(row: CorrectionRow) -> PendingCorrection:
    return PendingCorrection(
        id=row.id,
        revision=row.revision,
        project_id=row.project_id,
        task_id=row.task_id,
        annotation_id=row.annotation_id,
        attempts=row.attempts,
        reason=row.reason,
        usable=row.state is CorrectionState.USABLE,
        decision=DecisionDocument.unpack(row.decided).decision(
            instance=row.object, expression=row.expression, verdict=row.verdict
        ),
    )
