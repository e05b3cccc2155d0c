"""Usable corrections in the database, how all of them stand, and why some cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, select, update

from ml_backend.corrections.filters import ALL, CorrectionFilter
from ml_backend.corrections.records import (
    DEFAULT_WEIGHTS,
    Correction,
    CorrectionCounts,
    Evidence,
    Problem,
    SetAsideCorrection,
    Verdict,
    Weights,
)
from ml_backend.corrections.serialization import CompletionDocument, DecisionDocument
from ml_backend.database.database import Database
from ml_backend.database.errors import describe_error, is_of_value
from ml_backend.database.tables import AnnotationRow, CorrectionRow, CorrectionState, EventRow

log = logging.getLogger(__name__)

_NEVER = datetime.min.replace(tzinfo=UTC)


class CorrectionStore:
    """The corrections of one backend. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def corrections(self, project_id: int, weights: Weights = DEFAULT_WEIGHTS) -> list[Correction]:
        """The project's usable corrections by number, rejected ones included.

        Args:
            project_id: The project.
            weights: What frames count.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.execute(
                select(CorrectionRow, AnnotationRow)
                .join(AnnotationRow, AnnotationRow.id == CorrectionRow.annotation_id)
                .where(CorrectionRow.project_id == project_id, CorrectionRow.state == CorrectionState.USABLE)
                .order_by(CorrectionRow.id)
            ).all()
        annotations = {row.id: of for row, of in rows}

        def read(row: CorrectionRow) -> Correction:
            of = annotations[row.id]
            return replace(_correction(row, weights), ground_truth=of.ground_truth, content=of.content)

        return read_rows(self._database, [row for row, _ in rows], read)

    def of_numbers(self, numbers: Collection[int]) -> list[Correction]:
        """The usable ones of these corrections, by number.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.scalars(
                select(CorrectionRow)
                .where(CorrectionRow.id.in_(numbers), CorrectionRow.state == CorrectionState.USABLE)
                .order_by(CorrectionRow.id)
            ).all()
        return read_rows(self._database, rows, lambda row: _correction(row, DEFAULT_WEIGHTS))

    def newest(
        self, project_id: int, *, limit: int, offset: int = 0, chosen: CorrectionFilter = ALL
    ) -> list[Correction]:
        """Some of the project's usable corrections, the one that became usable last first.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.scalars(
                select(CorrectionRow)
                .where(*_usable(project_id), *chosen.conditions())
                .order_by(CorrectionRow.changed_at.desc(), CorrectionRow.id.desc())
                .limit(limit)
                .offset(offset)
            ).all()
        return read_rows(self._database, rows, lambda row: _correction(row, DEFAULT_WEIGHTS))

    def count(self, project_id: int, chosen: CorrectionFilter = ALL) -> int:
        """How many usable corrections of the project are chosen."""
        query = select(func.count()).select_from(CorrectionRow)
        with self._database.reading() as session:
            return session.scalar(query.where(*_usable(project_id), *chosen.conditions())) or 0

    def count_since(self, project_id: int, since: datetime | None) -> int:
        """How many annotations that can train became usable after a time; all where it is ``None``."""
        with self._database.reading() as session:
            return (
                session.scalar(
                    select(func.count(CorrectionRow.annotation_id.distinct())).where(
                        CorrectionRow.project_id == project_id,
                        CorrectionRow.state == CorrectionState.USABLE,
                        CorrectionRow.verdict.is_distinct_from(str(Verdict.REJECT)),
                        CorrectionRow.expression != "",
                        CorrectionRow.changed_at > (_NEVER if since is None else since),
                    )
                )
                or 0
            )

    def counts(self, project_id: int) -> CorrectionCounts:
        """How the project's corrections stand."""
        row, state = CorrectionRow, CorrectionState
        with self._database.reading() as session:

            def count(*conditions: Any) -> int:
                query = select(func.count()).select_from(row).where(row.project_id == project_id, *conditions)
                return session.scalar(query) or 0

            usable = row.state == state.USABLE
            rejected = count(usable, row.verdict == str(Verdict.REJECT))
            kept = (usable, row.verdict.is_distinct_from(str(Verdict.REJECT)))
            return CorrectionCounts(
                usable=count(usable),
                changed=count(*kept, row.touched.is_(True)),
                untouched=count(*kept, row.touched.is_(False)),
                rejected=rejected,
                pending=count(row.state == state.PENDING),
                set_aside=count(row.state == state.SET_ASIDE),
                skipped=session.scalar(
                    select(func.count())
                    .select_from(AnnotationRow)
                    .where(
                        AnnotationRow.project_id == project_id,
                        AnnotationRow.cancelled.is_(True),
                        AnnotationRow.deleted.is_(False),
                    )
                )
                or 0,
                unprocessed=session.scalar(
                    select(func.count())
                    .select_from(EventRow)
                    .where(EventRow.project_id == project_id, EventRow.processed_at.is_(None))
                )
                or 0,
            )

    def set_aside(self, correction_id: int, problem: Problem, reason: str) -> None:
        """Take a correction out of use; what a reviewer returned is so already, and stays returned.

        Args:
            correction_id: Its number.
            problem: What is wrong.
            reason: The same for the status page: what was wrong, and what to do.
        """
        with self._database.writing() as session:
            session.execute(
                update(CorrectionRow)
                .where(
                    CorrectionRow.id == correction_id,
                    CorrectionRow.problem.is_distinct_from(str(Problem.RETURNED)),
                )
                .values(state=CorrectionState.SET_ASIDE, problem=str(problem), reason=reason)
            )

    def list_set_aside(self, project_id: int | None = None, limit: int = 100) -> list[SetAsideCorrection]:
        """What cannot be used and why, newest first; of all projects where none is named."""
        query = select(CorrectionRow).where(CorrectionRow.state == CorrectionState.SET_ASIDE)
        if project_id is not None:
            query = query.where(CorrectionRow.project_id == project_id)
        with self._database.reading() as session:
            rows = session.scalars(
                query.order_by(CorrectionRow.changed_at.desc(), CorrectionRow.id.desc()).limit(limit)
            )
            return [
                SetAsideCorrection(
                    id=row.id,
                    project_id=row.project_id,
                    task_id=row.task_id,
                    annotation_id=row.annotation_id,
                    object=row.object,
                    problem=Problem(row.problem or Problem.UNREADABLE),
                    reason=row.reason,
                    since=row.changed_at,
                )
                for row in rows
            ]


def _usable(project_id: int) -> tuple[ColumnElement[bool], ...]:
    return (CorrectionRow.project_id == project_id, CorrectionRow.state == CorrectionState.USABLE)


_Read = TypeVar("_Read")


def read_rows(
    database: Database, rows: Iterable[CorrectionRow], read: Callable[[CorrectionRow], _Read]
) -> list[_Read]:
    """Read corrections; one that is damaged is set aside, and keeps no other from being read.

    Args:
        database: Where damaged ones are set aside.
        rows: The rows.
        read: Reads one.

    Raises:
        StoreError: The database cannot be used.
    """
    found, damaged = [], {}
    for row in rows:
        try:
            found.append(read(row))
        except Exception as error:
            if not is_of_value(error):
                raise
            log.error("correction %d is damaged", row.id, exc_info=error)
            damaged[row.id] = describe_error(error)
    store = CorrectionStore(database)
    for number, reason in damaged.items():
        store.set_aside(number, Problem.UNREADABLE, reason)
    return found


def _correction(row: CorrectionRow, weights: Weights) -> Correction:
    assert row.completed is not None, "a usable correction is complete"
    decision = DecisionDocument.unpack(row.decided).decision(
        instance=row.object, expression=row.expression, verdict=row.verdict
    )
    completed = CompletionDocument.unpack(row.completed).completion()
    tracked = any(frame.kind is Evidence.BOX for frame in completed.frames.values())
    frames = {
        index: replace(
            frame,
            weight=weights.of(Evidence.BOX if tracked else frame.kind, frame.touched, frame.confidence),
        )
        for index, frame in completed.frames.items()
    }
    return Correction(
        id=row.id,
        revision=row.revision,
        project_id=row.project_id,
        task_id=row.task_id,
        annotation_id=row.annotation_id,
        object=row.object,
        expression=row.expression,
        media_digest=completed.media_digest,
        task_data=decision.task_data,
        label_config=decision.label_config,
        side=decision.side,
        num_frames=completed.num_frames,
        height=completed.height,
        width=completed.width,
        frames=frames,
        propagated=completed.propagated,
        proposed=completed.proposed,
        verdict=decision.verdict,
        lead_time=decision.lead_time,
        created_at=decision.created_at,
        updated_at=decision.updated_at,
        changed_at=row.changed_at,
        label=decision.label,
        undecided=decision.undecided,
        notes=decision.notes,
    )
