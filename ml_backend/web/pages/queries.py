"""What the pages list, read from the database a page at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from ml_backend.database.database import Database
from ml_backend.database.tables import ProposalKey, ProposalRow


@dataclass(frozen=True)
class ListedProposal:
    """A proposal that a task was given; the masks and maps are in its file.

    Attributes:
        id: Its number in the database.
        key: Content, expression and version.
        path: Its file, relative to the data folder.
        score: Of the best tracklet, in [-1, 1]; ``None`` where nothing was found.
        margin: Its distance to the second; ``None`` where there is none.
    """

    id: int
    project_id: int
    task_id: int
    key: ProposalKey
    path: str
    score: float | None
    margin: float | None
    created_at: datetime


def list_proposals(
    database: Database, project_id: int, *, limit: int, offset: int = 0
) -> list[ListedProposal]:
    """A project's proposals, newest first.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.scalars(
            select(ProposalRow)
            .where(ProposalRow.project_id == project_id)
            .order_by(ProposalRow.created_at.desc(), ProposalRow.id.desc())
            .limit(limit)
            .offset(offset)
        )
        return [_listed(row) for row in rows]


def count_proposals(database: Database, project_id: int) -> int:
    """How many proposals a project has.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        query = select(func.count()).select_from(ProposalRow).where(ProposalRow.project_id == project_id)
        return session.scalar(query) or 0


def find_proposal(database: Database, number: int) -> ListedProposal | None:
    """One proposal by its number.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        row = session.get(ProposalRow, number)
        return None if row is None else _listed(row)


def newest_proposals(database: Database, tasks: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The number of each task's newest proposal, by project and task; tasks without one are missing.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.execute(
            select(ProposalRow.project_id, ProposalRow.task_id, func.max(ProposalRow.id))
            .where(ProposalRow.task_id.in_({task for _, task in tasks}))
            .group_by(ProposalRow.project_id, ProposalRow.task_id)
        )
        return {(project, task): number for project, task, number in rows if (project, task) in tasks}


def _listed(row: ProposalRow) -> ListedProposal:
    return ListedProposal(
        id=row.id,
        project_id=row.project_id,
        task_id=row.task_id,
        key=ProposalKey(row.media_digest, row.expression, row.version),
        path=row.path,
        score=row.score,
        margin=row.margin,
        created_at=row.created_at,
    )
