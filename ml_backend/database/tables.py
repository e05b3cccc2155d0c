"""All tables of the database, and the states that their rows take."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


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


class OrderMode(enum.StrEnum):
    """Whether a project's labelling order is written into the data of its tasks."""

    OFF = "off"
    ON = "on"
    REMOVING = "removing"  # off, and what was written is still to be removed


class CorrectionState(enum.StrEnum):
    """Where a correction stands."""

    PENDING = "pending"  # ingested; waits for its media and, perhaps, for the model
    USABLE = "usable"
    SET_ASIDE = "set aside"


class SetAsideKind(enum.StrEnum):
    """What is set aside."""

    EVENT = "event"
    ANNOTATION = "annotation"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; the database itself keeps no time zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time in UTC, without its zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time with its zone."""
        return None if value is None else value.replace(tzinfo=UTC)


class Json(TypeDecorator[Any]):
    """JSON as Python writes it, in both databases: PostgreSQL's own type refuses numbers that are not finite."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text in PostgreSQL, which SQLite's JSON is as well."""
        return Text() if dialect.name == "postgresql" else dialect.type_descriptor(JSON())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """What the database is given."""
        return json.dumps(value) if dialect.name == "postgresql" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """The value; what is damaged raises a ``ValueError``."""
        return json.loads(value) if dialect.name == "postgresql" and value is not None else value


WIDE = BigInteger().with_variant(Integer(), "sqlite")
"""Integers of 64 bits: Label Studio's numbers may be large. SQLite's have as many, and number rows by this type."""


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def _enum(kind: type[enum.StrEnum]) -> Enum:
    """Stored by value as text, so that the database reads well and takes new members without a migration."""
    return Enum(kind, values_callable=lambda k: [m.value for m in k], native_enum=False, length=20)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {int: WIDE}


class SchemaRow(Base):
    """One row that never changes, for releases before the migrations: they refuse a layout above their own."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True)


class EventRow(Base):
    """A webhook event as it came, less its secrets."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    action: Mapped[str] = mapped_column(index=True)
    # No foreign key: events may come from projects that this backend was never set up for.
    project_id: Mapped[int | None] = mapped_column(index=True)
    payload: Mapped[str] = mapped_column(Text)
    # Set in the transaction that writes what the event says beside its annotations; these are read afterwards.
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    # Set in the transaction that writes what follows from the event; an event without it is still to be done.
    processed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    error: Mapped[str | None] = mapped_column(Text)


class SetAsideRow(Base):
    """An event or an annotation that could not be read or written, with its error; those after it went on."""

    __tablename__ = "set_aside"
    __table_args__ = (UniqueConstraint("kind", "source"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[SetAsideKind] = mapped_column(_enum(SetAsideKind))
    source: Mapped[
        str
    ]  # number of the event, or of the annotation; text, since it may be what could not be written
    project_id: Mapped[int | None] = mapped_column(index=True)
    error: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ProjectRow(Base):
    """A Label Studio project as ``/setup`` last described it."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uid: Mapped[str]
    label_config: Mapped[str] = mapped_column(Text)
    hostname: Mapped[str]
    extra_params: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    last_seen: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)
    min_annotations: Mapped[int | None]  # Label Studio's `min_annotations_to_start_training`
    repredicted: Mapped[str | None]  # prompt version by which its tasks were predicted anew last
    title: Mapped[str] = mapped_column(
        default="", server_default=""
    )  # in Label Studio; empty until it was read
    # Whether the labelling order is written into its tasks' data; see `OrderMode`.
    labelling_order: Mapped[str] = mapped_column(default=OrderMode.OFF, server_default=OrderMode.OFF)


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
    fraction: Mapped[float] = mapped_column(Double, default=0.0)
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    expression: Mapped[str | None] = mapped_column(Text)
    version: Mapped[str | None]
    frames: Mapped[int | None]  # of the video, once it is known
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
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
    score: Mapped[float | None] = mapped_column(Double)  # of the best tracklet; NULL where nothing is shown
    # Of the best tracklet's score over the second's; NULL where there is no second.
    margin: Mapped[float | None] = mapped_column(Double)
    # Whether the score is a confidence, and no rank score; NULL where that is not known, as before layout 12.
    calibrated: Mapped[bool | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class AnnotationRow(Base):
    """The newest state of an annotation that this backend has heard of. Deleted ones stay, noted as such.

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
    ground_truth: Mapped[bool] = mapped_column(default=False, server_default=false())  # Label Studio's star
    content: Mapped[str] = mapped_column(
        default="", server_default=""
    )  # hash of its results; a copy has the same
    annotator: Mapped[int | None]  # Label Studio's number of who completed it
    lead_time: Mapped[float | None] = mapped_column(Double)  # seconds of work, where Label Studio tells
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # Label Studio's clock
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)


class AnnotatorRow(Base):
    """The name of a person who annotates in a project."""

    __tablename__ = "annotators"
    # No foreign key: annotations may come from projects that this backend was never set up for.
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    annotator: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]


class ReviewRow(Base):
    """What a reviewer said of an annotation last."""

    __tablename__ = "reviews"
    annotation_id: Mapped[int] = mapped_column(
        ForeignKey("annotations.id"), primary_key=True, autoincrement=False
    )
    verdict: Mapped[str]
    note: Mapped[str] = mapped_column(Text, default="")
    digest: Mapped[str]  # of the annotation's content as it was reviewed
    problem: Mapped[str] = mapped_column(Text, default="")  # why the note is not in Label Studio
    made_by: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


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
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


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
        Json, default=list
    )  # corrections it was trained on, with revisions
    curve: Mapped[list[float]] = mapped_column(Json, default=list)  # the loss of each step
    metrics: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    kept_back: Mapped[bool] = mapped_column(default=False, server_default=false())  # by the gate


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
    # A gate's, until a person decides: only such a promotion is ever taken back by itself.
    revocable: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Why it was taken back by itself; empty where it was not.
    failed_because: Mapped[str] = mapped_column(Text, default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ObservationRow(Base):
    """What a version's proposal for a corrected task was worth, whether it was shown to the annotator or not."""

    __tablename__ = "observations"
    # No foreign key: an observation is dropped at the next look after its correction.
    correction_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(primary_key=True)  # empty where no proposal is known
    revision: Mapped[str]  # of the correction: another one is looked at anew
    project_id: Mapped[int] = mapped_column(index=True)
    video: Mapped[str]  # the correction's group
    shown: Mapped[bool]  # the annotator began from it
    accepted: Mapped[bool]  # as it was
    overlap: Mapped[float] = mapped_column(Double)  # mean IoU with what was accepted
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class RefinementRow(Base):
    """One refinement of a project's champion."""

    __tablename__ = "refinements"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    state: Mapped[RefinementState] = mapped_column(_enum(RefinementState), default=RefinementState.WAITING)
    triggers: Mapped[list[str]] = mapped_column(Json, default=list)
    remembered: Mapped[list[str]] = mapped_column(Json, default=list)  # triggers that came while it ran
    champion_id: Mapped[int | None]  # whom it began from; NULL for the preset's own prompts
    base_version: Mapped[str] = mapped_column(default="")
    phase: Mapped[str] = mapped_column(default="")
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    notes: Mapped[list[str]] = mapped_column(Json, default=list)  # what was left out, and why
    left_out: Mapped[list[str]] = mapped_column(Json, default=list)  # keys of the examples that were left out
    reason: Mapped[str] = mapped_column(Text, default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TrialRow(Base):
    """What candidate and champion are worth on one example; kept, so that no trial is made twice."""

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("refinement_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    refinement_id: Mapped[int] = mapped_column(ForeignKey("refinements.id"))
    key: Mapped[str]
    candidate: Mapped[float] = mapped_column(Double)
    champion: Mapped[float] = mapped_column(Double)


@dataclass(frozen=True)
class ProposalKey:
    """What makes two proposals the same: content, expression and version."""

    media_digest: str
    expression: str
    version: str

    def __str__(self) -> str:
        return f"{self.media_digest[:16]}:{self.version}:{self.expression}"


class DeliveryRow(Base):
    """A task's prediction by a version, which Label Studio has not been given yet."""

    __tablename__ = "deliveries"
    # No foreign key: a delivery is dropped with the first look at a project that is gone.
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(primary_key=True)
    typed: Mapped[str] = mapped_column(primary_key=True)  # an expression; empty for the task's own
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")  # that failed
    error: Mapped[str | None] = mapped_column(Text)  # of the last attempt
    retry_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # NULL: as soon as may be
    refused: Mapped[bool] = mapped_column(
        default=False, server_default=false()
    )  # for good; a person may ask again


class TaskRow(Base):
    """A task's data as Label Studio sent it last."""

    __tablename__ = "tasks"
    # No foreign keys: what is shown must not keep a project from being forgotten.
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[dict[str, Any]] = mapped_column(Json)


class SteeringRow(Base):
    """What one annotator did on one side of a task, and what was answered."""

    __tablename__ = "steering"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    annotator: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    side: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(Json)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class SubmittedRow(Base):
    """What was answered before an annotation was submitted; goes with the annotation."""

    __tablename__ = "submitted_steering"
    annotation_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    side: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    task_id: Mapped[int]
    annotator: Mapped[int]
    state: Mapped[dict[str, Any]] = mapped_column(Json)
    submitted_at: Mapped[datetime] = mapped_column(UtcDateTime)
