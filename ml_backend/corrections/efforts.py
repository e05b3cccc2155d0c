"""Who made annotations, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.tables import AnnotationRow, AnnotatorRow
from ml_backend.database.upsert import upsert


@dataclass(frozen=True)
class Effort:
    """Who completed an annotation, when, and how long it took.

    Attributes:
        annotator: Label Studio's number of that person; ``None`` where it is not known.
        name: That person's name; empty where it is not known.
        lead_time: Seconds of work; ``None`` where Label Studio does not tell.
        created_at: When it was submitted first, by Label Studio's clock.
    """

    annotator: int | None = None
    name: str = ""
    lead_time: float | None = None
    created_at: datetime | None = None

    @property
    def columns(self) -> tuple[int | None, float | None, datetime | None]:
        """The columns ``annotator``, ``lead_time`` and ``created_at``."""
        return self.annotator, self.lead_time, self.created_at


UNKNOWN_EFFORT = Effort()


def note_efforts(database: Database, project_id: int, efforts: Mapping[int, Effort]) -> None:
    """Note who made annotations that are known, and how long it took; writes nothing where that is known.

    Args:
        database: The database.
        project_id: The project.
        efforts: By the number of the annotation.

    Raises:
        StoreError: The database cannot be used.
    """
    row = AnnotationRow
    with database.reading() as session:
        rows = session.execute(
            select(row.id, row.annotator, row.lead_time, row.created_at).where(row.project_id == project_id)
        )
        other = [
            number for number, *known in rows if number in efforts and efforts[number].columns != tuple(known)
        ]
        names = annotator_names(session, project_id)
    new = [one for one in efforts.values() if one.name and names.get(one.annotator or 0) != one.name]
    if not other and not new:
        return
    with database.writing() as session:
        for number in other:
            annotator, lead_time, created_at = efforts[number].columns
            session.execute(
                update(row)
                .where(row.id == number)
                # Nothing was heard of its content: the time of that stays.
                .values(annotator=annotator, lead_time=lead_time, created_at=created_at, seen_at=row.seen_at)
            )
        for effort in new:
            note_name(session, project_id, effort)


def note_name(session: Session, project_id: int, effort: Effort) -> None:
    """Note the name of whoever made an annotation, where it is known."""
    if effort.annotator is not None and effort.name:
        named = {"project_id": project_id, "annotator": effort.annotator, "name": effort.name}
        upsert(session, AnnotatorRow, [named], keys=["project_id", "annotator"], update=["name"])


def annotator_names(session: Session, project_id: int) -> dict[int, str]:
    """The names of a project's annotators that are known, by Label Studio's number."""
    query = select(AnnotatorRow).where(AnnotatorRow.project_id == project_id)
    rows = session.scalars(query.order_by(AnnotatorRow.annotator))
    return {row.annotator: row.name for row in rows}
