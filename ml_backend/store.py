"""What must outlive the process: events, projects, jobs, proposals, corrections, prompt versions (SQLite, WAL)."""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from steerseg.errors import SteerSegError

SCHEMA_VERSION = 5
BUSY_TIMEOUT_MS = 5000


class StoreError(SteerSegError):
    """The database cannot be opened, read or written."""


class JobState(enum.StrEnum):
    """Where a job stands. A job leaves ``queued`` and ``running`` exactly once."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PromptStatus(enum.StrEnum):
    """Standing of a prompt version within its project's line."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    RETIRED = "retired"


class RefinementState(enum.StrEnum):
    """Where a refinement stands. It leaves ``waiting`` and ``running`` exactly once."""

    WAITING = "waiting"
    RUNNING = "running"
    PROMOTED = "promoted"
    KEPT_BACK = "kept back"
    NOT_ENOUGH_DATA = "not enough data"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_REFINEMENTS = (RefinementState.WAITING, RefinementState.RUNNING)


class CorrectionState(enum.StrEnum):
    """Where a correction stands."""

    PENDING = "pending"  # ingested; waits for its media and, perhaps, for the model
    USABLE = "usable"
    SET_ASIDE = "set aside"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite itself keeps no time zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _enum(kind: type[enum.StrEnum]) -> Enum:
    """Stored by value as text, so that the database reads well and takes new members without a migration."""
    return Enum(kind, values_callable=lambda k: [m.value for m in k], native_enum=False, length=20)


class Base(DeclarativeBase):
    """Base of the tables."""


class SchemaRow(Base):
    """One row: which layout the database has."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True)


class EventRow(Base):
    """A webhook event as it came, less its secrets."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    action: Mapped[str] = mapped_column(index=True)
    # No foreign key: events may come from projects that this backend was never set up for.
    project_id: Mapped[int | None] = mapped_column(index=True)
    payload: Mapped[str] = mapped_column(Text)
    # Set in the transaction that writes what follows from the event; an event without it is still to be done.
    processed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    error: Mapped[str | None] = mapped_column(Text)


class ProjectRow(Base):
    """A Label Studio project as ``/setup`` last described it."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uid: Mapped[str]
    label_config: Mapped[str] = mapped_column(Text)
    hostname: Mapped[str]
    extra_params: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    last_seen: Mapped[datetime] = mapped_column(UtcDateTime, default=_now, onupdate=_now)
    min_annotations: Mapped[int | None]  # Label Studio's `min_annotations_to_start_training`
    repredicted: Mapped[str | None]  # prompt version by which its tasks were predicted anew last


class JobRow(Base):
    """One piece of work for a model process."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[int | None] = mapped_column(index=True)
    task_id: Mapped[int | None]
    state: Mapped[JobState] = mapped_column(_enum(JobState), default=JobState.QUEUED, index=True)
    priority: Mapped[int]
    stage: Mapped[str] = mapped_column(default="")
    fraction: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    expression: Mapped[str | None] = mapped_column(Text)
    version: Mapped[str | None]
    frames: Mapped[int | None]  # of the video, once it is known
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ProposalRow(Base):
    """What was proposed for a task, by which version; the proposal itself is a file."""

    __tablename__ = "proposals"
    __table_args__ = (
        UniqueConstraint("project_id", "task_id", "media_digest", "expression", "version"),
        Index("ix_proposals_content", "media_digest", "expression", "version"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int]
    media_digest: Mapped[str]
    expression: Mapped[str] = mapped_column(Text)
    version: Mapped[str]
    path: Mapped[str]  # relative to the data folder
    score: Mapped[float | None]  # of the best tracklet; NULL where nothing was found
    margin: Mapped[
        float | None
    ]  # of the best tracklet's score over the second's; NULL where there is no second
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class AnnotationRow(Base):
    """The newest state of an annotation that this backend has heard of. Deleted ones stay as a mark.

    Label Studio never gives a number twice, so a deleted annotation stays deleted whatever still arrives.
    """

    __tablename__ = "annotations"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[int | None] = mapped_column(index=True)
    task_id: Mapped[int | None] = mapped_column(index=True)
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # Label Studio's clock
    digest: Mapped[str] = mapped_column(default="")
    cancelled: Mapped[bool] = mapped_column(default=False)
    deleted: Mapped[bool] = mapped_column(default=False)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now, onupdate=_now)


class DeletedTaskRow(Base):
    """A task that is gone, and every annotation with it, heard of or not."""

    __tablename__ = "deleted_tasks"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class CorrectionRow(Base):
    """One object of one annotation."""

    __tablename__ = "corrections"
    __table_args__ = (
        UniqueConstraint("annotation_id", "object"),
        Index("ix_corrections_project_state", "project_id", "state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    # No foreign key: annotations may come from projects that this backend was never set up for.
    project_id: Mapped[int]
    task_id: Mapped[int]
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotations.id"))
    object: Mapped[str]
    expression: Mapped[str] = mapped_column(Text)
    state: Mapped[CorrectionState] = mapped_column(_enum(CorrectionState), default=CorrectionState.PENDING)
    problem: Mapped[str | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    verdict: Mapped[str | None]
    touched: Mapped[bool] = mapped_column(default=True)
    decided: Mapped[bytes] = mapped_column(LargeBinary)  # what ingestion read from the annotation
    completed: Mapped[bytes | None] = mapped_column(LargeBinary)  # what completion made of it
    propagated: Mapped[bool] = mapped_column(default=False)
    revision: Mapped[str] = mapped_column(default="")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class PromptVersionRow(Base):
    """A stored pair of soft prompts in a project's line of versions."""

    __tablename__ = "prompt_versions"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("prompt_versions.id"))
    status: Mapped[PromptStatus] = mapped_column(_enum(PromptStatus), default=PromptStatus.CANDIDATE)
    path: Mapped[str]  # relative to the data folder
    digest: Mapped[str] = mapped_column(server_default="")  # of the two matrices
    model: Mapped[str] = mapped_column(server_default="")  # the vision-language model that they were made for
    origin: Mapped[str] = mapped_column(server_default="refined")
    refinement_id: Mapped[int | None] = mapped_column(ForeignKey("refinements.id"))
    data: Mapped[list[Any]] = mapped_column(
        JSON, default=list
    )  # corrections it was trained on, with revisions
    curve: Mapped[list[float]] = mapped_column(JSON, default=list)  # the loss of each step
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class PromotionRow(Base):
    """A change of a project's champion, so that it can be taken back in one step, and the one before it too."""

    __tablename__ = "promotions"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    # NULL stands for the preset's own prompts.
    version_id: Mapped[int | None] = mapped_column(ForeignKey("prompt_versions.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("prompt_versions.id"))
    undone: Mapped[bool] = mapped_column(default=False)
    made_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class RefinementRow(Base):
    """One refinement of a project's champion."""

    __tablename__ = "refinements"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    state: Mapped[RefinementState] = mapped_column(_enum(RefinementState), default=RefinementState.WAITING)
    triggers: Mapped[list[str]] = mapped_column(JSON, default=list)
    remembered: Mapped[list[str]] = mapped_column(JSON, default=list)  # triggers that came while it ran
    champion_id: Mapped[int | None]  # whom it began from; NULL for the preset's own prompts
    base_version: Mapped[str] = mapped_column(default="")
    phase: Mapped[str] = mapped_column(default="")
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    notes: Mapped[list[str]] = mapped_column(JSON, default=list)  # what was left out, and why
    left_out: Mapped[list[str]] = mapped_column(JSON, default=list)  # keys of the examples that were left out
    reason: Mapped[str] = mapped_column(Text, default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TrialRow(Base):
    """What candidate and champion are worth on one example; kept, so that no trial is made twice."""

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("refinement_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    refinement_id: Mapped[int] = mapped_column(ForeignKey("refinements.id"))
    key: Mapped[str]
    candidate: Mapped[float]
    champion: Mapped[float]


@dataclass(frozen=True)
class Project:
    """A Label Studio project: its id, labelling config, server and the parameters of its model connection.

    ``min_annotations`` is the number of annotations after which Label Studio's settings ask for training, and
    ``repredicted`` the prompt version by which tasks without annotations were predicted anew last; both may be unknown.
    """

    id: int
    uid: str
    label_config: str
    hostname: str
    extra_params: dict[str, Any]
    last_seen: datetime
    min_annotations: int | None = None
    repredicted: str | None = None


@dataclass(frozen=True)
class ProposalKey:
    """What makes two proposals the same: content, words and version."""

    media_digest: str
    expression: str
    version: str

    def __str__(self) -> str:
        return f"{self.media_digest[:16]}:{self.version}:{self.expression}"


@dataclass(frozen=True)
class Job:
    """A job as a status page shows it.

    Attributes:
        stage: What it is doing, or was when it ended; empty before the first sign of progress.
        fraction: Part of the stage that is done, in [0, 1].
        message: Stage and progress in words, with frames where they are what is counted.
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


def _add_processing_to_events(connection: Connection) -> None:
    # Events of the older layout were only kept: they are processed now.
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN processed_at DATETIME")
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN error TEXT")
    connection.exec_driver_sql("CREATE INDEX ix_events_processed_at ON events (processed_at)")


def _add_lineage_to_prompt_versions(connection: Connection) -> None:
    for column in (
        "digest VARCHAR NOT NULL DEFAULT ''",
        "model VARCHAR NOT NULL DEFAULT ''",
        "origin VARCHAR NOT NULL DEFAULT 'refined'",
        "refinement_id INTEGER REFERENCES refinements (id)",
        "data JSON NOT NULL DEFAULT '[]'",
        "curve JSON NOT NULL DEFAULT '[]'",
    ):
        connection.exec_driver_sql(f"ALTER TABLE prompt_versions ADD COLUMN {column}")
    connection.exec_driver_sql("ALTER TABLE proposals ADD COLUMN margin FLOAT")


def _add_training_to_projects(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE projects ADD COLUMN min_annotations INTEGER")
    connection.exec_driver_sql("ALTER TABLE projects ADD COLUMN repredicted VARCHAR")


def _add_subject_to_jobs(connection: Connection) -> None:
    for column in (
        "expression TEXT",
        "version VARCHAR",
        "frames INTEGER",
        "message TEXT NOT NULL DEFAULT ''",
    ):
        connection.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {column}")


# Upgrades from one layout to the next: `_UPGRADES[n]` brings version n to n + 1. New tables need none.
_UPGRADES: dict[int, Callable[[Connection], None]] = {
    1: _add_processing_to_events,
    2: _add_lineage_to_prompt_versions,
    3: _add_training_to_projects,
    4: _add_subject_to_jobs,
}


class Store:
    """The database of one backend. Safe to share between threads.

    Args:
        path: The database file; it and its folder are made if missing.

    Raises:
        StoreError: The file is damaged, locked, on a full disk, not writable, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the data folder {path.parent} cannot be made: {error.strerror}; "
                "name a writable folder by STEERSEG_DATA_DIR"
            ) from error
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._errors():
            self._prepare()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # --- webhook events

    def add_event(self, action: str, project_id: int | None, payload: dict[str, Any]) -> int:
        """Commit one event and return its number. It is on disk when this returns."""
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        with self._write() as session:
            row = EventRow(action=action, project_id=project_id, payload=text)
            session.add(row)
            session.flush()
            return row.id

    def count_events(self) -> int:
        """How many webhook events are kept."""
        with self._read() as session:
            return session.scalar(select(func.count()).select_from(EventRow)) or 0

    # --- projects

    def save_project(
        self, project_id: int, *, uid: str, label_config: str, hostname: str, extra_params: dict[str, Any]
    ) -> None:
        """Insert or update what is known of a project."""
        values = {
            "uid": uid,
            "label_config": label_config,
            "hostname": hostname,
            "extra_params": extra_params,
            "last_seen": _now(),
        }
        statement = insert(ProjectRow).values(id=project_id, **values)
        with self._write() as session:
            session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def project(self, project_id: int) -> Project | None:
        """The project, or ``None`` where ``/setup`` never named it."""
        with self._read() as session:
            row = session.get(ProjectRow, project_id)
            return None if row is None else _project(row)

    def projects(self) -> list[Project]:
        """All known projects by id."""
        with self._read() as session:
            return [_project(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.id))]

    def note_min_annotations(self, project_id: int, number: int) -> None:
        """Note after how many annotations Label Studio's settings ask for training."""
        with self._write() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id)
                .values(min_annotations=number, last_seen=ProjectRow.last_seen)
            )

    def note_repredicted(self, project_id: int, version: str) -> None:
        """Note by which prompt version the project's tasks were predicted anew."""
        with self._write() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id)
                .values(repredicted=version, last_seen=ProjectRow.last_seen)
            )

    # --- jobs

    def add_job(
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
        """Note a queued job and return its number."""
        with self._write() as session:
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

    def update_job(
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
        """Note a running job's progress. A job that has ended stays as it is."""
        values: dict[str, Any] = {
            "state": JobState.RUNNING,
            "stage": stage,
            "fraction": fraction,
            "attempts": attempts,
            "message": message,
            "started_at": func.coalesce(JobRow.started_at, _now()),
        }
        if priority is not None:
            values["priority"] = priority
        if frames is not None:
            values["frames"] = frames
        with self._write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(**values)
            )

    def finish_job(self, job_id: int, state: JobState, *, error: str | None = None) -> None:
        """Note how a job ended. Only its first end counts."""
        with self._write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(state=state, error=error, finished_at=_now())
            )

    def fail_unfinished_jobs(self, reason: str, *, but: Collection[int] = ()) -> int:
        """End every job that a stopped server left behind, ``but`` for some; return how many there were."""
        with self._write() as session:
            stale = set(
                session.scalars(
                    select(JobRow.id).where(JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                )
            ).difference(but)
            session.execute(
                update(JobRow)
                .where(JobRow.id.in_(stale))
                .values(state=JobState.FAILED, error=reason, finished_at=_now())
            )
            return len(stale)

    def unfinished_jobs(self, kind: str) -> list[Job]:
        """The jobs of a kind that have not ended, the oldest first."""
        with self._read() as session:
            rows = session.scalars(
                select(JobRow)
                .where(JobRow.kind == kind, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .order_by(JobRow.id)
            )
            return [_job(row) for row in rows]

    def requeue_job(self, job_id: int, *, attempts: int) -> None:
        """Put a job that has not ended back into the queue, for the next start of the server."""
        with self._write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .values(state=JobState.QUEUED, stage="", fraction=0.0, message="", attempts=attempts)
            )

    def jobs(self, limit: int = 20) -> list[Job]:
        """The latest jobs, newest first."""
        with self._read() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.id.desc()).limit(limit))
            return [_job(row) for row in rows]

    def count_jobs(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self._read() as session:
            counts = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all()
            found = {state: number for state, number in counts}
            return {state: found.get(state, 0) for state in JobState}

    # --- proposals

    def find_proposal(self, key: ProposalKey) -> str | None:
        """Where the proposal of this content, expression and version lies, relative to the data folder."""
        with self._read() as session:
            return session.scalar(
                select(ProposalRow.path)
                .where(
                    ProposalRow.media_digest == key.media_digest,
                    ProposalRow.expression == key.expression,
                    ProposalRow.version == key.version,
                )
                .limit(1)
            )

    def add_proposal(
        self,
        key: ProposalKey,
        *,
        project_id: int,
        task_id: int,
        path: str,
        score: float | None,
        margin: float | None = None,
    ) -> None:
        """Note that a task was given this proposal; noting it again updates the path and the scores."""
        statement = insert(ProposalRow).values(
            project_id=project_id,
            task_id=task_id,
            media_digest=key.media_digest,
            expression=key.expression,
            version=key.version,
            path=path,
            score=score,
            margin=margin,
            created_at=_now(),
        )
        with self._write() as session:
            session.execute(
                statement.on_conflict_do_update(
                    index_elements=["project_id", "task_id", "media_digest", "expression", "version"],
                    set_={"path": path, "score": score, "margin": margin},
                )
            )

    def certainties(self, project_id: int) -> dict[int, float]:
        """By task, how sure its newest proposal was: the best score, or its distance to the second if smaller.

        Tasks in which nothing was found have -1.
        """
        newest = (
            select(func.max(ProposalRow.id))
            .where(ProposalRow.project_id == project_id)
            .group_by(ProposalRow.task_id)
        )
        with self._read() as session:
            rows = session.execute(
                select(ProposalRow.task_id, ProposalRow.score, ProposalRow.margin).where(
                    ProposalRow.id.in_(newest)
                )
            )
            return {
                task: -1.0 if score is None else min(score, score if margin is None else margin)
                for task, score, margin in rows
            }

    def count_proposals(self) -> int:
        """How many (task, expression, version) have a proposal."""
        with self._read() as session:
            return session.scalar(select(func.count()).select_from(ProposalRow)) or 0

    # --- for stores of one subject, such as ml_backend.correction_store

    def reading(self) -> AbstractContextManager[Session]:
        """A session that sees one state of the database.

        Raises:
            StoreError: On leaving too: the database cannot be used.
        """
        return self._read()

    def writing(self) -> AbstractContextManager[Session]:
        """A session that commits as a whole when it is left without an error, and not at all otherwise.

        Raises:
            StoreError: On leaving too: the database cannot be used, and nothing was written.
        """
        return self._write()

    # --- inside

    def _prepare(self) -> None:
        with self._engine.execution_options(immediate=True).begin() as connection:
            Base.metadata.create_all(connection)
            version = connection.scalar(select(func.max(SchemaRow.version)))
            if version is None:
                connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
                return
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"the database {self.path} has layout {version}, this release knows {SCHEMA_VERSION}; "
                    "it was written by a newer release: install that one, or name another STEERSEG_DATA_DIR"
                )
            for step in range(version, SCHEMA_VERSION):
                _UPGRADES[step](connection)
            connection.execute(update(SchemaRow).values(version=SCHEMA_VERSION))

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with self._errors(), Session(self._engine) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        engine = self._engine.execution_options(immediate=True)
        # SQLite lets writers that wait look again from time to time, and forgets nobody but by luck: under load
        # some wait for seconds. A lock of this process wakes the next one at once.
        with self._errors(), self._writing, Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise StoreError(_explain(str(error.orig), self.path)) from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database {self.path} refused a request: {type(error).__name__}") from error


def _project(row: ProjectRow) -> Project:
    return Project(
        id=row.id,
        uid=row.uid,
        label_config=row.label_config,
        hostname=row.hostname,
        extra_params=row.extra_params,
        last_seen=row.last_seen,
        min_annotations=row.min_annotations,
        repredicted=row.repredicted,
    )


def _job(row: JobRow) -> Job:
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


def _configure(connection: Any, _record: object) -> None:
    # Transactions are begun by `_begin`, not by the driver, which would begin them too late for `IMMEDIATE`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a webhook that was acknowledged survives a power cut too.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A write takes its lock at the start: one that began by reading could not wait for another writer.
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _explain(reason: str, path: Path) -> str:
    """Say in words what SQLite's ``reason`` means for the database at ``path``."""
    text = reason.lower()
    if "malformed" in text or "not a database" in text:
        advice = "is damaged; restore a backup, or move it away to start afresh"
    elif "locked" in text or "busy" in text:
        advice = f"was locked for over {BUSY_TIMEOUT_MS // 1000} s; check that no other program holds it open"
    elif "full" in text:
        advice = "cannot grow: the disk is full; free some space"
    elif "readonly" in text or "unable to open" in text or "permission" in text:
        advice = "cannot be opened for writing; check who owns it and its folder (STEERSEG_DATA_DIR)"
    elif "disk i/o" in text:
        advice = "cannot be read or written: the disk reports an error"
    else:
        return f"the database {path} refused a request: {reason}"
    return f"the database {path} {advice} ({reason})"
