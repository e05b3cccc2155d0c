"""Jobs in the database: one row for each piece of work of a model process."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from ml_backend.database.database import Database
from ml_backend.database.tables import JobRow, JobState, utc_now


@dataclass(frozen=True)
class Job:
    """A job as a status page shows it.

    Attributes:
        stage: What it is doing, or was when it ended; empty before the first sign of progress.
        fraction: Part of the stage that is done, in [0, 1].
        message: Stage and progress for a person, with frames where they are what is counted.
        frames: How many frames the video has; ``None`` until it is known.
        attempts: How often a model process has begun it, restarts of the server included.
        error: Why it failed, was cancelled, or had to begin again.
    """

    id: int
    kind: str
    key: str
    project_id: int | None
    task_id: int | None
    state: JobState
    priority: int
    stage: str
    fraction: float
    error: str | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expression: str | None = None
    version: str | None = None
    frames: int | None = None
    message: str = ""


def job_of_row(row: JobRow) -> Job:
    """The job that a row keeps."""
    return Job(
        id=row.id,
        kind=row.kind,
        key=row.key,
        project_id=row.project_id,
        task_id=row.task_id,
        state=row.state,
        priority=row.priority,
        stage=row.stage,
        fraction=row.fraction,
        error=row.error,
        attempts=row.attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expression=row.expression,
        version=row.version,
        frames=row.frames,
        message=row.message,
    )


class JobStore:
    """Keeps jobs and how each ended. Safe to share between threads and processes.

    What a power cut takes of the last seconds is nothing but that: a job whose end it takes counts as left behind, and
    its proposal is there.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: str,
        key: str,
        *,
        project_id: int | None,
        task_id: int | None,
        priority: int,
        expression: str | None = None,
        version: str | None = None,
    ) -> int:
        """Note a queued job and return its number.

        Args:
            kind: What is done, such as ``propose``.
            key: What makes two jobs the same.
            project_id: The project that it is for, if it is for one.
            task_id: Likewise the task.
            priority: See :class:`~ml_backend.models.executor.Priority`.
            expression: The expression that it is about.
            version: The version that answers.
        """
        with self._database.writing(durable=False) as session:
            row = JobRow(
                kind=kind,
                key=key,
                project_id=project_id,
                task_id=task_id,
                priority=priority,
                expression=expression,
                version=version,
            )
            session.add(row)
            session.flush()
            return row.id

    def update(
        self,
        job_id: int,
        *,
        stage: str,
        fraction: float,
        attempts: int,
        priority: int | None = None,
        frames: int | None = None,
        message: str = "",
    ) -> None:
        """Note a running job's progress. A job that has ended stays as it is.

        Args:
            job_id: The job.
            stage: What it is doing.
            fraction: Part of the stage that is done, in [0, 1].
            attempts: How often a model process has begun it.
            priority: A new priority; ``None`` leaves it.
            frames: How many frames the video has; ``None`` leaves what is known.
            message: The same for a person.
        """
        values: dict[str, Any] = {
            "state": JobState.RUNNING,
            "stage": stage,
            "fraction": fraction,
            "attempts": attempts,
            "message": message,
            "started_at": func.coalesce(JobRow.started_at, utc_now()),
        }
        if priority is not None:
            values["priority"] = priority
        if frames is not None:
            values["frames"] = frames
        with self._database.writing(durable=False) as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(**values)
            )

    def finish(self, job_id: int, state: JobState, *, error: str | None = None) -> None:
        """Note how a job ended. Only its first end counts.

        Args:
            job_id: The job.
            state: How it ended.
            error: Why, where it did not end well.
        """
        with self._database.writing(durable=False) as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(state=state, error=error, finished_at=utc_now())
            )

    def fail_unfinished(self, reason: str, *, but: Collection[int] = ()) -> int:
        """End every job that a stopped server left behind; return how many there were.

        Args:
            reason: Their error.
            but: Numbers of jobs that go on.
        """
        with self._database.writing(durable=False) as session:
            stale = set(
                session.scalars(
                    select(JobRow.id).where(JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                )
            ).difference(but)
            session.execute(
                update(JobRow)
                .where(JobRow.id.in_(stale))
                .values(state=JobState.FAILED, error=reason, finished_at=utc_now())
            )
            return len(stale)

    def unfinished(self, kind: str) -> list[Job]:
        """The jobs of a kind that have not ended, the oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(JobRow)
                .where(JobRow.kind == kind, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .order_by(JobRow.id)
            )
            return [job_of_row(row) for row in rows]

    def requeue(self, job_id: int, *, attempts: int) -> None:
        """Note that a job which has not ended waits again, in this process of the server or in the next."""
        with self._database.writing(durable=False) as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(state=JobState.QUEUED, stage="", fraction=0.0, message="", attempts=attempts)
            )

    def newest(self, limit: int = 20) -> list[Job]:
        """The latest jobs, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.id.desc()).limit(limit))
            return [job_of_row(row) for row in rows]

    def count_by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self._database.reading() as session:
            counts = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all()
            numbers = {state: number for state, number in counts}
            return {state: numbers.get(state, 0) for state in JobState}
