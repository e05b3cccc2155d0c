"""All work as one list: the table of jobs, and the table of refinements, which are jobs for whoever reads it."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, false, func, select

from ml_backend.database.database import Database
from ml_backend.database.tables import ACTIVE_REFINEMENTS, JobRow, JobState, RefinementRow, RefinementState
from ml_backend.jobs.progress import describe_progress
from ml_backend.jobs.store import JobStore

REFINE = "refine"
"""The kind of a refinement, and the beginning of its name in the list."""

_STANDING = {
    RefinementState.WAITING: JobState.QUEUED,
    RefinementState.RUNNING: JobState.RUNNING,
    RefinementState.PROMOTED: JobState.DONE,
    RefinementState.KEPT_BACK: JobState.DONE,
    RefinementState.NOT_ENOUGH_DATA: JobState.DONE,
    RefinementState.FAILED: JobState.FAILED,
    RefinementState.CANCELLED: JobState.CANCELLED,
}


@dataclass(frozen=True)
class ListedJob:
    """One piece of work as a person sees it.

    Attributes:
        name: Identifies it, and cancels it: a job's number, or ``refine-`` and a refinement's.
        kind: ``propose``, ``steer``, ``masks`` or ``refine``.
        project_id: The project.
        task_id: The task; ``None`` of a refinement, which is about all of them.
        state: Where it stands.
        about: The expression, or what asked for the refinement; empty where it is about neither.
        version: The prompt version that it works with, where it is noted.
        stage: What it is doing; empty before the first sign of progress.
        fraction: Part of the stage that is done, in [0, 1].
        message: Stage and progress for a person; empty where there is nothing to add.
        attempts: How often it was begun, so far as that is counted.
        outcome: Why it failed or was cancelled, or how a refinement ended; empty before.
        created_at: When it was asked for.
        started_at: When it began.
        finished_at: When it ended.
    """

    name: str
    kind: str
    project_id: int | None
    task_id: int | None
    state: JobState
    about: str
    version: str | None
    stage: str
    fraction: float
    message: str
    attempts: int
    outcome: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.state in (JobState.QUEUED, JobState.RUNNING)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; times in ISO format."""
        fields = {**asdict(self), "state": str(self.state)}
        for name in ("created_at", "started_at", "finished_at"):
            fields[name] = None if fields[name] is None else fields[name].isoformat()
        return fields


@dataclass(frozen=True)
class JobList:
    """Jobs and refinements.

    Attributes:
        counts: How many are in each state.
        jobs: Those that run first, then the newest.
    """

    counts: Mapping[JobState, int]
    jobs: tuple[ListedJob, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "counts": {str(state): number for state, number in self.counts.items()},
            "jobs": [job.to_json() for job in self.jobs],
        }


class JobKind(enum.StrEnum):
    """The kinds of work."""

    PROPOSE = "propose"
    STEER = "steer"
    MASKS = "masks"
    REFINE = REFINE


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are chosen; what is ``None`` chooses all.

    Attributes:
        state: Where they stand.
        kind: What is done.
        project: Whose they are.
    """

    state: JobState | None = None
    kind: JobKind | None = None
    project: int | None = None

    def of_jobs(self) -> list[ColumnElement[bool]]:
        """The conditions on :class:`~ml_backend.database.tables.JobRow`."""
        chosen: list[ColumnElement[bool]] = []
        if self.state is not None:
            chosen.append(JobRow.state == self.state)
        if self.kind is not None:
            chosen.append(JobRow.kind == str(self.kind))
        if self.project is not None:
            chosen.append(JobRow.project_id == self.project)
        return chosen

    def of_refinements(self) -> list[ColumnElement[bool]]:
        """The conditions on :class:`~ml_backend.database.tables.RefinementRow`."""
        chosen: list[ColumnElement[bool]] = []
        if self.kind not in (None, JobKind.REFINE):
            chosen.append(false())
        if self.state is not None:
            chosen.append(RefinementRow.state.in_([own for own, of in _STANDING.items() if of is self.state]))
        if self.project is not None:
            chosen.append(RefinementRow.project_id == self.project)
        return chosen


ALL_JOBS = JobFilter()


def list_jobs(database: Database, limit: int, chosen: JobFilter = ALL_JOBS) -> list[ListedJob]:
    """First what runs, and refinements that wait, however long ago they were asked for; then the newest.

    Args:
        database: The database.
        limit: Most of them.
        chosen: Which of them.

    Raises:
        StoreError: The database cannot be read.
    """
    of_jobs, of_refinements = chosen.of_jobs(), chosen.of_refinements()
    with database.reading() as session:
        jobs = [
            *session.scalars(
                select(JobRow).where(JobRow.state == JobState.RUNNING, *of_jobs).order_by(JobRow.id)
            ),
            *session.scalars(
                select(JobRow)
                .where(JobRow.state != JobState.RUNNING, *of_jobs)
                .order_by(JobRow.id.desc())
                .limit(limit)
            ),
        ]
        refinements = [
            *session.scalars(
                select(RefinementRow)
                .where(RefinementRow.state.in_(ACTIVE_REFINEMENTS), *of_refinements)
                .order_by(RefinementRow.id)
            ),
            *session.scalars(
                select(RefinementRow)
                .where(RefinementRow.state.not_in(ACTIVE_REFINEMENTS), *of_refinements)
                .order_by(RefinementRow.id.desc())
                .limit(limit)
            ),
        ]
        listed = [*map(_of_job, jobs), *map(_of_refinement, refinements)]
    listed.sort(key=lambda one: one.created_at, reverse=True)
    listed.sort(
        key=lambda one: one.state is not JobState.RUNNING and not (one.under_way and one.kind == REFINE)
    )
    return listed[:limit]


def count_jobs(database: Database) -> dict[JobState, int]:
    """How many jobs and refinements are in each state.

    Raises:
        StoreError: The database cannot be read.
    """
    counts = JobStore(database).count_by_state()
    with database.reading() as session:
        rows = session.execute(select(RefinementRow.state, func.count()).group_by(RefinementRow.state)).all()
    for state, number in rows:
        counts[_STANDING[state]] += number
    return counts


def name_of_refinement(number: int) -> str:
    """The name of a refinement in the list."""
    return f"{REFINE}-{number}"


def read_name(name: str) -> tuple[bool, int] | None:
    """Whether a name in the list is a refinement's, and its number; ``None`` for what is no name."""
    found = re.fullmatch(rf"({REFINE}-)?([0-9]{{1,15}})", name)
    return None if found is None else (found[1] is not None, int(found[2]))


def _of_job(row: JobRow) -> ListedJob:
    message = row.message or (describe_progress(row.stage, row.fraction, row.frames) if row.stage else "")
    return ListedJob(
        name=str(row.id),
        kind=row.kind,
        project_id=row.project_id,
        task_id=row.task_id,
        state=row.state,
        about=row.expression or "",
        version=row.version,
        stage=row.stage,
        fraction=row.fraction,
        message=message,
        attempts=row.attempts,
        outcome=row.error or "",
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _of_refinement(row: RefinementRow) -> ListedJob:
    counted = f", {row.done} of {row.total}" if row.total > 1 else ""
    decided = row.state in (
        RefinementState.PROMOTED,
        RefinementState.KEPT_BACK,
        RefinementState.NOT_ENOUGH_DATA,
    )
    return ListedJob(
        name=name_of_refinement(row.id),
        kind=REFINE,
        project_id=row.project_id,
        task_id=None,
        state=_STANDING[row.state],
        about=f"asked for by {', '.join(row.triggers or ())}",
        version=None,
        stage=row.phase,
        fraction=row.done / row.total if row.total else 0.0,
        message=f"{row.phase}{counted}",
        attempts=0,
        outcome=f"{row.state}: {row.reason}" if decided else row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
