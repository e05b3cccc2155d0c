"""What the pages list, read from the database a page at a time."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, String, and_, case, cast, func, not_, or_, select

from ml_backend.database.database import Database
from ml_backend.database.tables import (
    AnnotationRow,
    DeletedTaskRow,
    PromotionRow,
    PromptVersionRow,
    ProposalKey,
    ProposalRow,
)
from ml_backend.predictions.messages import DEFAULT_GUIDANCE, Guidance


@dataclass(frozen=True)
class ListedProposal:
    """A proposal that a task was given; the masks and maps are in its file.

    Attributes:
        id: Its number in the database.
        key: Content, expression and version.
        path: Its file, relative to the data folder.
        score: Confidence of the best tracklet, in [0, 1], or its rank score, in [-1, 1], without one; ``None`` where
            nothing was found, or presence is refused.
        margin: Its distance to the second; ``None`` where there is none.
        calibrated: Whether the score is a confidence; ``None`` where that is not known.
    """

    id: int
    project_id: int
    task_id: int
    key: ProposalKey
    path: str
    score: float | None
    margin: float | None
    calibrated: bool | None
    created_at: datetime

    @property
    def certainty(self) -> float:
        """How sure it is: the score, or its distance to the second if smaller; -1 where nothing was found."""
        if self.score is None:
            return -1.0
        return self.score if self.margin is None else min(self.score, self.margin)


class Finds(enum.StrEnum):
    """How sure a proposal is of what it found, as an annotator is told."""

    NOTHING = "nothing found"
    UNSURE = "unsure"
    SURE = "sure"


LEAST_SURE = 0.3
"""The least score, and distance to the second, where it is not known whether the score is a confidence."""


@dataclass(frozen=True)
class ProposalFilter:
    """Which proposals are chosen; what is left out chooses all.

    Attributes:
        text: In the expression, or the number of the task.
        version: Full name of the version that proposed.
        found: How sure they are.
        newest: Whether of each task only the newest one is chosen.
        guidance: From which score on a proposal is sure.
    """

    text: str = ""
    version: str = ""
    found: Finds | None = None
    newest: bool = False
    guidance: Guidance = DEFAULT_GUIDANCE

    def conditions(self, project_id: int) -> list[ColumnElement[bool]]:
        """The conditions on :class:`~ml_backend.database.tables.ProposalRow`."""
        row = ProposalRow
        chosen: list[ColumnElement[bool]] = [row.project_id == project_id]
        if self.text:
            in_words = row.expression.icontains(self.text, autoescape=True)
            chosen.append(or_(in_words, cast(row.task_id, String) == self.text))
        if self.version:
            chosen.append(row.version == self.version)
        match self.found:
            case Finds.NOTHING:
                chosen.append(row.score.is_(None))
            case Finds.UNSURE:
                chosen += [row.score.is_not(None), not_(self._is_sure)]
            case Finds.SURE:
                chosen += [row.score.is_not(None), self._is_sure]
        if self.newest:
            newest = select(func.max(row.id)).where(row.project_id == project_id).group_by(row.task_id)
            chosen.append(row.id.in_(newest))
        return chosen

    @property
    def _is_sure(self) -> ColumnElement[bool]:
        """Of a proposal that has a score."""
        row, least = ProposalRow, self.guidance.least_sure
        return case(
            (row.calibrated.is_(True), row.score >= least(calibrated=True)),
            (row.calibrated.is_(False), row.score >= least(calibrated=False)),
            else_=and_(row.score >= LEAST_SURE, func.coalesce(row.margin, row.score) >= LEAST_SURE),
        )


ALL_PROPOSALS = ProposalFilter()


def list_proposals(
    database: Database,
    project_id: int,
    *,
    limit: int,
    offset: int = 0,
    chosen: ProposalFilter = ALL_PROPOSALS,
) -> list[ListedProposal]:
    """A project's proposals, newest first.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.scalars(
            select(ProposalRow)
            .where(*chosen.conditions(project_id))
            .order_by(ProposalRow.created_at.desc(), ProposalRow.id.desc())
            .limit(limit)
            .offset(offset)
        )
        return [_listed(row) for row in rows]


def count_proposals(database: Database, project_id: int, chosen: ProposalFilter = ALL_PROPOSALS) -> int:
    """How many proposals of a project are chosen.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        query = select(func.count()).select_from(ProposalRow)
        return session.scalar(query.where(*chosen.conditions(project_id))) or 0


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


def newest_of_tasks(
    database: Database, project_id: int, tasks: Collection[int] | None = None
) -> list[ListedProposal]:
    """The newest proposal of each task, the least certain first.

    Args:
        database: The database.
        project_id: The project.
        tasks: The tasks; ``None`` for all of the project.

    Raises:
        StoreError: The database cannot be read.
    """
    conditions = ALL_PROPOSALS.conditions(project_id)
    newest = select(func.max(ProposalRow.id)).where(*conditions).group_by(ProposalRow.task_id)
    query = select(ProposalRow).where(ProposalRow.id.in_(newest))
    if tasks is not None:
        query = query.where(ProposalRow.task_id.in_(tasks))
    with database.reading() as session:
        listed = [_listed(row) for row in session.scalars(query)]
    return sorted(listed, key=lambda one: (one.certainty, one.task_id))


def promoted_by_hand(database: Database, refinements: Collection[int]) -> dict[int, datetime]:
    """When a person promoted what these refinements had made, by refinement; the others are missing.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.execute(
            select(PromptVersionRow.refinement_id, func.max(PromotionRow.created_at))
            .join(PromotionRow, PromotionRow.version_id == PromptVersionRow.id)
            .where(
                PromptVersionRow.refinement_id.in_(refinements), PromotionRow.made_by.not_like("refinement %")
            )
            .group_by(PromptVersionRow.refinement_id)
        )
        return {number: when for number, when in rows if number is not None}


def annotators_of(database: Database, annotations: Collection[int]) -> dict[int, int]:
    """Label Studio's number of who completed these annotations; those of whom it is not known are missing.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.execute(
            select(AnnotationRow.id, AnnotationRow.annotator).where(AnnotationRow.id.in_(annotations))
        )
        return {number: annotator for number, annotator in rows if annotator is not None}


def annotated_tasks(database: Database, project_id: int) -> set[int]:
    """The tasks of a project that have an annotation, a skipped one included, and those that were deleted.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        annotated = session.scalars(
            select(AnnotationRow.task_id).where(
                AnnotationRow.project_id == project_id,
                AnnotationRow.deleted.is_(False),
                AnnotationRow.task_id.is_not(None),
            )
        )
        return {task for task in annotated if task is not None} | set(
            session.scalars(select(DeletedTaskRow.id))
        )


def _listed(row: ProposalRow) -> ListedProposal:
    return ListedProposal(
        id=row.id,
        project_id=row.project_id,
        task_id=row.task_id,
        key=ProposalKey(row.media_digest, row.expression, row.version),
        path=row.path,
        score=row.score,
        margin=row.margin,
        calibrated=row.calibrated,
        created_at=row.created_at,
    )
