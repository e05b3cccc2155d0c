"""What reviewers say of annotations: accepted, or returned with a note.

The corrections of a returned annotation are set aside: no refinement learns from them, and an export names them. They
are usable again once the annotation is changed, or accepted after all.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, null, select, update
from sqlalchemy.orm import Session

from ml_backend.corrections.records import TRIED_AGAIN, Problem
from ml_backend.database.database import Database
from ml_backend.database.tables import AnnotationRow, CorrectionRow, CorrectionState, ReviewRow, utc_now
from ml_backend.database.upsert import upsert

MAX_NOTE = 500
"""Characters of a note: Label Studio shows it in a column."""


class ReviewVerdict(enum.StrEnum):
    """What a reviewer says."""

    ACCEPTED = "accepted"
    RETURNED = "returned"


@dataclass(frozen=True)
class Review:
    """What a reviewer said of an annotation last.

    Attributes:
        verdict: What was said.
        note: Why, for the annotator; empty of an accepted one.
        made_by: Names the reviewer.
        made_at: When it was said.
        changed_since: Whether the annotation shows something else since.
        problem: Why the note is not in Label Studio; empty where it is, or need not be.
    """

    verdict: ReviewVerdict
    note: str
    made_by: str
    made_at: datetime
    changed_since: bool
    problem: str


class ReviewStore:
    """The reviews of one backend. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, annotations: Collection[int]) -> dict[int, Review]:
        """The reviews of these annotations, by their numbers; those without one are missing."""
        with self._database.reading() as session:
            rows = session.execute(
                select(ReviewRow, AnnotationRow.digest)
                .join(AnnotationRow, AnnotationRow.id == ReviewRow.annotation_id)
                .where(ReviewRow.annotation_id.in_(annotations))
            )
            return {
                row.annotation_id: Review(
                    verdict=ReviewVerdict(row.verdict),
                    note=row.note,
                    made_by=row.made_by,
                    made_at=row.made_at,
                    changed_since=row.digest != digest,
                    problem=row.problem,
                )
                for row, digest in rows
            }

    def task_of(self, project_id: int, annotation_id: int) -> int | None:
        """The task of an annotation; ``None`` where the project has none of this number."""
        with self._database.reading() as session:
            row = session.get(AnnotationRow, annotation_id)
            there = row is not None and row.project_id == project_id and not row.deleted
            return row.task_id if row is not None and there else None

    def accept(self, annotation_id: int, *, by: str) -> None:
        """Accept an annotation; what was set aside since it was returned is usable again.

        Args:
            annotation_id: The annotation.
            by: Names the reviewer.
        """
        with self._database.writing() as session:
            _note(session, annotation_id, ReviewVerdict.ACCEPTED, "", by)
            _free(session, annotation_id)

    def give_back(self, annotation_id: int, note: str, *, by: str) -> None:
        """Return an annotation to its annotator: its corrections are out of use until it is changed.

        What would be tried again by itself is returned too; what else is wrong stays as it is.

        Args:
            annotation_id: The annotation.
            note: What is to be mended.
            by: Names the reviewer.
        """
        tried_again = CorrectionRow.problem.in_([str(problem) for problem in TRIED_AGAIN])
        with self._database.writing() as session:
            _note(session, annotation_id, ReviewVerdict.RETURNED, note, by)
            session.execute(
                update(CorrectionRow)
                .where(
                    CorrectionRow.annotation_id == annotation_id,
                    (CorrectionRow.state != CorrectionState.SET_ASIDE)
                    | (CorrectionRow.problem == str(Problem.RETURNED))
                    | tried_again,
                )
                .values(
                    state=CorrectionState.SET_ASIDE,
                    problem=str(Problem.RETURNED),
                    reason=f"returned by {by}: {note}",
                    # Completed anew once it is free.
                    completed=case((tried_again, null()), else_=CorrectionRow.completed),
                )
            )

    def note_problem(self, annotation_id: int, problem: str) -> None:
        """Note why the note of a review is not in Label Studio; empty where it is."""
        with self._database.writing() as session:
            session.execute(
                update(ReviewRow).where(ReviewRow.annotation_id == annotation_id).values(problem=problem)
            )


def free_if_changed(session: Session, annotation_id: int, digest: str) -> None:
    """Free what a reviewer returned of an annotation, unless it is still as it was reviewed.

    A note is about the annotation as a whole: objects that its annotator left as they were are free as well.

    Args:
        session: The transaction.
        annotation_id: The annotation.
        digest: Hash of its content by now.
    """
    review = session.get(ReviewRow, annotation_id)
    if review is not None and review.digest != digest:
        _free(session, annotation_id)


def _free(session: Session, annotation_id: int) -> None:
    """Make what a reviewer returned usable, or pending where it was not completed."""
    complete = CorrectionRow.completed.is_not(None)
    session.execute(
        update(CorrectionRow)
        .where(
            CorrectionRow.annotation_id == annotation_id,
            CorrectionRow.state == CorrectionState.SET_ASIDE,
            CorrectionRow.problem == str(Problem.RETURNED),
        )
        .values(
            state=case((complete, CorrectionState.USABLE), else_=CorrectionState.PENDING),
            problem=None,
            reason="",
            attempts=0,
            changed_at=utc_now(),
        )
    )


def _note(session: Session, annotation_id: int, verdict: ReviewVerdict, note: str, by: str) -> None:
    digest = session.get_one(AnnotationRow, annotation_id).digest
    row = {
        "annotation_id": annotation_id,
        "verdict": str(verdict),
        "note": note,
        "digest": digest,
        "problem": "",
        "made_by": by,
        "made_at": utc_now(),
    }
    upsert(
        session,
        ReviewRow,
        [row],
        keys=["annotation_id"],
        update=[name for name in row if name != "annotation_id"],
    )
