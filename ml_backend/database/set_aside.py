"""Events and annotations that could not be read or written: each with its error, until it is taken again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.tables import SetAsideKind, SetAsideRow
from ml_backend.database.upsert import upsert


@dataclass(frozen=True)
class SetAside:
    """What was set aside.

    Attributes:
        kind: An event, or an annotation.
        source: Number of the event here, or of the annotation in Label Studio.
        project_id: The project, where it named one.
        error: Why it could not be taken.
        since: When that was seen last.
    """

    kind: SetAsideKind
    source: str
    project_id: int | None
    error: str
    since: datetime


class SetAsideStore:
    """What is set aside. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        """How much is set aside, of all projects.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(SetAsideRow)) or 0

    def listed(self, project_id: int | None = None, limit: int = 100) -> list[SetAside]:
        """The newest of a project, with what names no project; of all projects where none is named.

        Raises:
            StoreError: The database cannot be read.
        """
        query = select(SetAsideRow).order_by(SetAsideRow.since.desc(), SetAsideRow.id.desc()).limit(limit)
        if project_id is not None:
            query = query.where((SetAsideRow.project_id == project_id) | SetAsideRow.project_id.is_(None))
        with self._database.reading() as session:
            return [
                SetAside(row.kind, row.source, row.project_id, row.error, row.since)
                for row in session.scalars(query)
            ]


# --- within a transaction


def set_aside(
    session: Session, kind: SetAsideKind, errors: Mapping[str, str], project_id: int | None
) -> None:
    """Set things of one kind and project aside, by their source; each keeps its newest error only."""
    rows = [
        {"kind": kind, "source": source, "project_id": project_id, "error": error, "since": datetime.now(UTC)}
        for source, error in errors.items()
    ]
    upsert(session, SetAsideRow, rows, keys=["kind", "source"], update=["project_id", "error", "since"])


def release(session: Session, kind: SetAsideKind, *sources: str) -> None:
    """Note that these are no longer set aside, where they were."""
    session.execute(delete(SetAsideRow).where(SetAsideRow.kind == kind, SetAsideRow.source.in_(sources)))


def release_annotations(session: Session, project_id: int, until: datetime) -> None:
    """Note that the annotations of a project were read, less those that were set aside after a time."""
    session.execute(
        delete(SetAsideRow).where(
            SetAsideRow.kind == SetAsideKind.ANNOTATION,
            SetAsideRow.project_id == project_id,
            SetAsideRow.since < until,
        )
    )
