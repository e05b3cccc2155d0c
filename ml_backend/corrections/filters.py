"""Which corrections a list shows."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sqlalchemy import ColumnElement, String, and_, cast, exists, or_

from ml_backend.corrections.records import Verdict
from ml_backend.corrections.reviews import ReviewVerdict
from ml_backend.database.tables import AnnotationRow, CorrectionRow, ReviewRow


class Standing(enum.StrEnum):
    """What an annotator did with a proposal."""

    CORRECTED = "corrected"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Reviewed(enum.StrEnum):
    """How the review of an annotation stands."""

    OPEN = "to review"  # not reviewed, or changed since
    MENDED = "changed since it was returned"
    ACCEPTED = "accepted in review"


@dataclass(frozen=True)
class CorrectionFilter:
    """Which corrections are chosen; what is left out chooses all.

    Attributes:
        text: In the expression, or the number of the task or of the annotation.
        standing: What the annotator did.
        annotator: Label Studio's number of the annotator.
        reviewed: How the review stands.
    """

    text: str = ""
    standing: Standing | None = None
    annotator: int | None = None
    reviewed: Reviewed | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions on :class:`~ml_backend.database.tables.CorrectionRow`."""
        row = CorrectionRow
        chosen: list[ColumnElement[bool]] = []
        if self.text:
            numbers = [cast(column, String) == self.text for column in (row.task_id, row.annotation_id)]
            chosen.append(or_(row.expression.icontains(self.text, autoescape=True), *numbers))
        rejected = row.verdict.is_not_distinct_from(str(Verdict.REJECT))
        match self.standing:
            case Standing.REJECTED:
                chosen.append(rejected)
            case Standing.CORRECTED | Standing.ACCEPTED:
                chosen += [~rejected, row.touched.is_(self.standing is Standing.CORRECTED)]
        if self.annotator is not None:
            chosen.append(
                exists().where(
                    AnnotationRow.id == row.annotation_id, AnnotationRow.annotator == self.annotator
                )
            )
        return [*chosen, *self._of_review()]

    def _of_review(self) -> list[ColumnElement[bool]]:
        same = ReviewRow.digest == AnnotationRow.digest

        def review(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
            of = and_(
                ReviewRow.annotation_id == CorrectionRow.annotation_id,
                AnnotationRow.id == ReviewRow.annotation_id,
            )
            return exists().where(of, *conditions)

        match self.reviewed:
            case Reviewed.OPEN:
                return [~review(same)]
            case Reviewed.MENDED:
                return [review(~same, ReviewRow.verdict == str(ReviewVerdict.RETURNED))]
            case Reviewed.ACCEPTED:
                return [review(same, ReviewRow.verdict == str(ReviewVerdict.ACCEPTED))]
        return []


ALL = CorrectionFilter()
