"""Corrections in the database: each annotation once, in its newest state, whatever came in whichever order."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from ml_backend.corrections.records import (
    DEFAULT_WEIGHTS,
    Completed,
    Correction,
    CorrectionCounts,
    DecidedFrame,
    Decision,
    Evidence,
    FrameCorrection,
    Problem,
    Proposed,
    SetAside,
    Verdict,
    Weights,
)
from ml_backend.database.database import Database
from ml_backend.database.tables import (
    AnnotationRow,
    CorrectionRow,
    CorrectionState,
    DeletedTaskRow,
    EventRow,
    ProposalKey,
    ProposalRow,
)
from ml_backend.models.messages import PropagatedFrame

_CHUNK = 50  # annotations in one transaction
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Annotated:
    """One state of an annotation, with the decisions in it.

    Attributes:
        id: Number of the annotation in Label Studio.
        digest: Hash of its content, which orders states of the same time.
        cancelled: Whether its annotator skipped the task: then nothing in it counts.
    """

    id: int
    project_id: int
    task_id: int
    updated_at: datetime | None
    digest: str
    cancelled: bool
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Changes:
    """What an event, or a look at the project, says."""

    annotated: tuple[Annotated, ...] = ()
    deleted_annotations: tuple[int, ...] = ()
    deleted_tasks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pending:
    """A decision that waits for its completion.

    Attributes:
        reason: Why it could not be completed the last time; empty at first.
        usable: Whether it is complete but for what is to be propagated.
    """

    id: int
    revision: str
    project_id: int
    task_id: int
    annotation_id: int
    attempts: int
    reason: str
    usable: bool
    decision: Decision


@dataclass(frozen=True)
class KnownProposal:
    """A proposal that a task was given."""

    key: ProposalKey
    path: str
    created_at: datetime


class CorrectionStore:
    """The corrections of one backend. Safe to share between threads and processes.

    Args:
        store: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- for refinement

    def corrections(self, project_id: int, weights: Weights = DEFAULT_WEIGHTS) -> list[Correction]:
        """The project's usable corrections by number, rejected ones included.

        Args:
            project_id: The project.
            weights: What frames count.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.execute(
                select(CorrectionRow)
                .where(CorrectionRow.project_id == project_id, CorrectionRow.state == CorrectionState.USABLE)
                .order_by(CorrectionRow.id)
            ).scalars()
            return [_correction(row, weights) for row in rows]

    def newest(self, project_id: int, *, limit: int, offset: int = 0) -> list[Correction]:
        """Some of the project's usable corrections, the one that changed last first.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            rows = session.scalars(
                select(CorrectionRow)
                .where(CorrectionRow.project_id == project_id, CorrectionRow.state == CorrectionState.USABLE)
                .order_by(CorrectionRow.changed_at.desc(), CorrectionRow.id.desc())
                .limit(limit)
                .offset(offset)
            )
            return [_correction(row, DEFAULT_WEIGHTS) for row in rows]

    def count_since(self, project_id: int, since: datetime | None) -> int:
        """How many annotations with usable masks came or changed after a time; all where it is ``None``."""
        with self._database.reading() as session:
            return (
                session.scalar(
                    select(func.count(CorrectionRow.annotation_id.distinct())).where(
                        CorrectionRow.project_id == project_id,
                        CorrectionRow.state == CorrectionState.USABLE,
                        CorrectionRow.verdict.is_distinct_from(str(Verdict.REJECT)),
                        CorrectionRow.changed_at > (_NEVER if since is None else since),
                    )
                )
                or 0
            )

    def counts(self, project_id: int) -> CorrectionCounts:
        """How the project's corrections stand."""
        row, state = CorrectionRow, CorrectionState
        with self._database.reading() as session:

            def count(*conditions: Any) -> int:
                query = select(func.count()).select_from(row).where(row.project_id == project_id, *conditions)
                return session.scalar(query) or 0

            usable = row.state == state.USABLE
            rejected = count(usable, row.verdict == str(Verdict.REJECT))
            kept = (usable, row.verdict.is_distinct_from(str(Verdict.REJECT)))
            return CorrectionCounts(
                usable=count(usable),
                changed=count(*kept, row.touched.is_(True)),
                untouched=count(*kept, row.touched.is_(False)),
                rejected=rejected,
                pending=count(row.state == state.PENDING),
                set_aside=count(row.state == state.SET_ASIDE),
                skipped=session.scalar(
                    select(func.count())
                    .select_from(AnnotationRow)
                    .where(
                        AnnotationRow.project_id == project_id,
                        AnnotationRow.cancelled.is_(True),
                        AnnotationRow.deleted.is_(False),
                    )
                )
                or 0,
                unprocessed=session.scalar(
                    select(func.count())
                    .select_from(EventRow)
                    .where(EventRow.project_id == project_id, EventRow.processed_at.is_(None))
                )
                or 0,
            )

    def set_aside(self, correction_id: int, problem: Problem, reason: str) -> None:
        """Take a correction out of use.

        Args:
            correction_id: Its number.
            problem: What is wrong.
            reason: The same in words, for the status page: what was found, and what to do.
        """
        with self._database.writing() as session:
            session.execute(
                update(CorrectionRow)
                .where(CorrectionRow.id == correction_id)
                .values(state=CorrectionState.SET_ASIDE, problem=str(problem), reason=reason)
            )

    def list_set_aside(self, project_id: int | None = None, limit: int = 100) -> list[SetAside]:
        """What cannot be used and why, newest first; of all projects where none is named."""
        query = select(CorrectionRow).where(CorrectionRow.state == CorrectionState.SET_ASIDE)
        if project_id is not None:
            query = query.where(CorrectionRow.project_id == project_id)
        with self._database.reading() as session:
            rows = session.scalars(
                query.order_by(CorrectionRow.changed_at.desc(), CorrectionRow.id.desc()).limit(limit)
            )
            return [
                SetAside(
                    id=row.id,
                    project_id=row.project_id,
                    task_id=row.task_id,
                    annotation_id=row.annotation_id,
                    object=row.object,
                    problem=Problem(row.problem or Problem.UNREADABLE),
                    reason=row.reason,
                    since=row.changed_at,
                )
                for row in rows
            ]

    # --- for ingestion

    def process(self, event_id: int, changes: Changes, error: str | None = None) -> bool:
        """Write what follows from an event, and that it was processed, as one transaction.

        Args:
            event_id: The event.
            changes: What it says.
            error: Why nothing, or not all, could be made of it.

        Returns:
            Whether this call did it; ``False`` where it was done already.
        """
        packed = [_packed(annotated) for annotated in changes.annotated]
        with self._database.writing() as session:
            event = session.get(EventRow, event_id)
            if event is None or event.processed_at is not None:
                return False
            for task in changes.deleted_tasks:
                _delete_task(session, task)
            for annotation in changes.deleted_annotations:
                _delete_annotation(session, annotation, event.project_id)
            for annotated, rows in packed:
                _apply(session, annotated, rows)
            event.processed_at = datetime.now(UTC)
            event.error = error
            return True

    def known(self, project_id: int) -> dict[int, tuple[datetime | None, str]]:
        """Time and digest of every annotation of a project that is not deleted."""
        with self._database.reading() as session:
            rows = session.execute(
                select(AnnotationRow.id, AnnotationRow.updated_at, AnnotationRow.digest).where(
                    AnnotationRow.project_id == project_id, AnnotationRow.deleted.is_(False)
                )
            )
            return {number: (updated_at, digest) for number, updated_at, digest in rows}

    def reconcile(
        self, project_id: int, present: Iterable[int], changed: Sequence[Annotated], asked_at: datetime
    ) -> int:
        """Make the project's annotations equal to what Label Studio has.

        What was heard of an annotation after the asking began is newer than the answer, and stays. A kill in
        between leaves some annotations as they were; the next call takes them up.

        Args:
            project_id: The project.
            present: Every annotation that Label Studio has.
            changed: Those that differ from what :meth:`known` says.
            asked_at: When the asking began, by this machine's clock.

        Returns:
            How many annotations were changed or deleted.
        """
        there = set(present)
        number = 0
        # Short transactions: a webhook that waits for one has a second in all.
        for start in range(0, len(changed), _CHUNK):
            packed = [_packed(annotated) for annotated in changed[start : start + _CHUNK]]
            with self._database.writing() as session:
                for annotated, rows in packed:
                    row = session.get(AnnotationRow, annotated.id)
                    newer = row is not None and row.seen_at >= asked_at
                    number += _apply(session, annotated, rows, override=not newer)
        with self._database.writing() as session:
            gone = [
                row.id
                for row in session.scalars(
                    select(AnnotationRow).where(
                        AnnotationRow.project_id == project_id,
                        AnnotationRow.deleted.is_(False),
                        AnnotationRow.seen_at < asked_at,
                    )
                )
                if row.id not in there
            ]
            for annotation in gone:
                _delete_annotation(session, annotation, project_id)
        return number + len(gone)

    # --- for completion

    def pending(self, project_id: int | None = None) -> list[Pending]:
        """Decisions that wait for their completion, oldest first; of all projects where none is named."""
        return self._pending(project_id, CorrectionRow.state == CorrectionState.PENDING)

    def unpropagated(self, project_id: int | None = None) -> list[Pending]:
        """Usable corrections whose other frames are still to be filled, oldest first."""
        usable = CorrectionRow.state == CorrectionState.USABLE
        return self._pending(project_id, usable, CorrectionRow.propagated.is_(False))

    def _pending(self, project_id: int | None, *conditions: ColumnElement[bool]) -> list[Pending]:
        query = select(CorrectionRow).where(*conditions)
        if project_id is not None:
            query = query.where(CorrectionRow.project_id == project_id)
        with self._database.reading() as session:
            return [
                Pending(
                    id=row.id,
                    revision=row.revision,
                    project_id=row.project_id,
                    task_id=row.task_id,
                    annotation_id=row.annotation_id,
                    attempts=row.attempts,
                    reason=row.reason,
                    usable=row.state is CorrectionState.USABLE,
                    decision=_read_decision(row.decided, row.object, row.expression, row.verdict),
                )
                for row in session.scalars(query.order_by(CorrectionRow.changed_at, CorrectionRow.id))
            ]

    def proposals(self, project_id: int, task_id: int) -> list[KnownProposal]:
        """What was proposed for a task, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(ProposalRow)
                .where(ProposalRow.project_id == project_id, ProposalRow.task_id == task_id)
                .order_by(ProposalRow.created_at, ProposalRow.id)
            )
            return [
                KnownProposal(
                    ProposalKey(row.media_digest, row.expression, row.version), row.path, row.created_at
                )
                for row in rows
            ]

    def complete(self, pending: Pending, completed: Completed, *, propagated: bool) -> bool:
        """Make a correction usable.

        Args:
            pending: What was completed.
            completed: What became of it.
            propagated: Whether masks were propagated as far as they will be.

        Returns:
            Whether it was still wanted: ``False`` where the annotation was changed or deleted meanwhile.
        """
        kept = [frame.touched for frame in completed.frames.values()]
        return self._finish(
            pending,
            state=CorrectionState.USABLE,
            problem=None,
            reason="",
            completed=_pack(_completed_to_json(completed)),
            touched=any(kept),
            propagated=propagated,
            attempts=0,
        )

    def leave_gaps(self, pending: Pending) -> bool:
        """Give up propagation in a usable correction; see :meth:`complete` for the answer."""
        return self._finish(pending, propagated=True)

    def fail(self, pending: Pending, problem: Problem, reason: str) -> bool:
        """Set aside what could not be completed; see :meth:`complete` for the answer."""
        return self._finish(
            pending, state=CorrectionState.SET_ASIDE, problem=str(problem), reason=reason, completed=None
        )

    def postpone(self, pending: Pending, reason: str) -> bool:
        """Leave it pending with the reason why; see :meth:`complete` for the answer."""
        return self._finish(pending, reason=reason, attempts=pending.attempts + 1)

    def retry(self, project_id: int, problems: Sequence[Problem]) -> int:
        """Make corrections that were set aside for these problems pending again; return how many."""
        with self._database.writing() as session:
            result = session.execute(
                update(CorrectionRow)
                .where(
                    CorrectionRow.project_id == project_id,
                    CorrectionRow.state == CorrectionState.SET_ASIDE,
                    CorrectionRow.problem.in_([str(problem) for problem in problems]),
                )
                .values(state=CorrectionState.PENDING, problem=None, attempts=0)
                .returning(CorrectionRow.id)
            )
            return len(result.all())

    def _finish(self, pending: Pending, **values: Any) -> bool:
        with self._database.writing() as session:
            result = session.execute(
                update(CorrectionRow)
                .where(CorrectionRow.id == pending.id, CorrectionRow.revision == pending.revision)
                .values(**values)
                .returning(CorrectionRow.id)
            )
            return result.first() is not None


# --- annotations, within a transaction


@dataclass(frozen=True)
class _Packed:
    """A decision as its row holds it; made before a transaction begins, since it takes its time."""

    decision: Decision
    content: bytes
    revision: str


def _packed(annotated: Annotated) -> tuple[Annotated, list[_Packed]]:
    return annotated, [
        _Packed(decision, _pack(_decision_to_json(decision)), _revision(decision))
        for decision in annotated.decisions
    ]


def _apply(
    session: Session, annotated: Annotated, rows: Sequence[_Packed], *, override: bool = False
) -> bool:
    """Take over a state of an annotation, unless a newer one is known; return whether it was taken over.

    States are ordered by Label Studio's time and then by content, so that any order of arrival ends the same.

    Args:
        session: The transaction.
        annotated: The state.
        rows: Its decisions.
        override: Whether it is right whatever is known.
    """
    row = session.get(AnnotationRow, annotated.id)
    task_gone = session.get(DeletedTaskRow, annotated.task_id)
    if task_gone is not None and override:
        session.delete(task_gone)
        task_gone = None
    if row is None:
        row = AnnotationRow(id=annotated.id, deleted=False, digest="", updated_at=None)
        session.add(row)
    elif row.deleted and not override:
        return False
    elif not row.deleted:
        known, given = (
            (row.updated_at or _NEVER, row.digest),
            (annotated.updated_at or _NEVER, annotated.digest),
        )
        if known == given or (known > given and not override):
            return False
    row.project_id, row.task_id = annotated.project_id, annotated.task_id
    row.updated_at, row.digest = annotated.updated_at, annotated.digest
    row.cancelled, row.deleted = annotated.cancelled, task_gone is not None
    row.seen_at = datetime.now(UTC)
    session.flush()
    _write_decisions(session, annotated, () if row.deleted or annotated.cancelled else rows)
    return True


def _write_decisions(session: Session, annotated: Annotated, packed: Sequence[_Packed]) -> None:
    known = {
        row.object: row
        for row in session.scalars(select(CorrectionRow).where(CorrectionRow.annotation_id == annotated.id))
    }
    for one in packed:
        decision = one.decision
        row = known.pop(decision.object, None)
        if row is not None and row.revision == one.revision:
            row.decided = one.content  # its times may be others
            continue
        if row is None:
            row = CorrectionRow(annotation_id=annotated.id, object=decision.object)
            session.add(row)
        row.project_id, row.task_id = annotated.project_id, annotated.task_id
        row.expression = decision.expression
        row.verdict = None if decision.verdict is None else str(decision.verdict)
        row.decided, row.revision, row.completed, row.propagated = one.content, one.revision, None, False
        row.attempts, row.touched, row.changed_at = 0, True, datetime.now(UTC)
        if decision.problem is None:
            row.state, row.problem, row.reason = CorrectionState.PENDING, None, ""
        else:
            row.state = CorrectionState.SET_ASIDE
            row.problem, row.reason = str(decision.problem[0]), decision.problem[1]
    for row in known.values():
        session.delete(row)


def _delete_annotation(session: Session, annotation: int, project_id: int | None) -> None:
    row = session.get(AnnotationRow, annotation)
    if row is None:
        row = AnnotationRow(id=annotation, project_id=project_id, digest="")
        session.add(row)
    row.deleted = True
    row.seen_at = datetime.now(UTC)
    session.flush()
    session.execute(delete(CorrectionRow).where(CorrectionRow.annotation_id == annotation))


def _delete_task(session: Session, task: int) -> None:
    if session.get(DeletedTaskRow, task) is None:
        session.add(DeletedTaskRow(id=task))
    for row in session.scalars(select(AnnotationRow).where(AnnotationRow.task_id == task)).all():
        _delete_annotation(session, row.id, row.project_id)


# --- rows as dataclasses


def _correction(row: CorrectionRow, weights: Weights) -> Correction:
    decision = _read_decision(row.decided, row.object, row.expression, row.verdict)
    assert row.completed is not None
    completed = _completed_from_json(_unpack(row.completed))
    tracked = any(frame.kind is Evidence.BOX for frame in completed.frames.values())
    frames = {
        index: replace(frame, weight=weights.of(Evidence.BOX if tracked else frame.kind, frame.touched))
        for index, frame in completed.frames.items()
    }
    return Correction(
        id=row.id,
        revision=row.revision,
        project_id=row.project_id,
        task_id=row.task_id,
        annotation_id=row.annotation_id,
        object=row.object,
        expression=row.expression,
        media_digest=completed.media_digest,
        task_data=decision.task_data,
        label_config=decision.label_config,
        side=decision.side,
        num_frames=completed.num_frames,
        height=completed.height,
        width=completed.width,
        frames=frames,
        propagated=completed.propagated,
        proposed=completed.proposed,
        verdict=decision.verdict,
        lead_time=decision.lead_time,
        created_at=decision.created_at,
        updated_at=decision.updated_at,
        changed_at=row.changed_at,
    )


def _revision(decision: Decision) -> str:
    # Not the times: an annotation that was saved again without a change is the same correction.
    content = {name: value for name, value in _decision_to_json(decision).items() if name not in _TIMES}
    content |= {"expression": decision.expression, "verdict": decision.verdict, "object": decision.object}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_TIMES = ("created_at", "updated_at", "lead_time")


def _pack(content: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 6)


def _unpack(packed: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(zlib.decompress(packed))
    return content


def _decision_to_json(decision: Decision) -> dict[str, Any]:
    return {
        "side": decision.side,
        "frames": {
            str(index): [frame.rle, frame.boxes, frame.changed]
            for index, frame in sorted(decision.frames.items())
        },
        "absent_elsewhere": decision.absent_elsewhere,
        "erased": decision.erased,
        "proposed_expression": decision.proposed_expression,
        "parent_prediction": decision.parent_prediction,
        "task_data": dict(decision.task_data),
        "label_config": decision.label_config,
        "lead_time": decision.lead_time,
        "created_at": _time_to_json(decision.created_at),
        "updated_at": _time_to_json(decision.updated_at),
    }


def _read_decision(packed: bytes, name: str, expression: str, verdict: str | None) -> Decision:
    stored = _unpack(packed)
    return Decision(
        object=name,
        expression=expression,
        side=stored["side"],
        frames={
            int(index): DecidedFrame(rle, tuple(tuple(box) for box in boxes), changed)
            for index, (rle, boxes, changed) in stored["frames"].items()
        },
        absent_elsewhere=stored["absent_elsewhere"],
        erased=stored["erased"],
        verdict=None if verdict is None else Verdict(verdict),
        proposed_expression=stored["proposed_expression"],
        parent_prediction=stored["parent_prediction"],
        task_data=stored["task_data"],
        label_config=stored["label_config"],
        lead_time=stored["lead_time"],
        created_at=_time_from_json(stored["created_at"]),
        updated_at=_time_from_json(stored["updated_at"]),
    )


def _completed_to_json(completed: Completed) -> dict[str, Any]:
    proposed = completed.proposed
    return {
        "media_digest": completed.media_digest,
        "num_frames": completed.num_frames,
        "height": completed.height,
        "width": completed.width,
        "frames": {
            str(index): [str(frame.kind), frame.rle, frame.boxes, frame.touched, frame.iou]
            for index, frame in sorted(completed.frames.items())
        },
        "propagated": {
            str(index): [frame.rle, round(frame.confidence, 4)]
            for index, frame in sorted(completed.propagated.items())
        },
        "proposed": None
        if proposed is None
        else {"key": asdict(proposed.key), "path": proposed.path, "rank": proposed.rank},
    }


def _completed_from_json(stored: Mapping[str, Any]) -> Completed:
    proposed = stored["proposed"]
    return Completed(
        media_digest=stored["media_digest"],
        num_frames=stored["num_frames"],
        height=stored["height"],
        width=stored["width"],
        frames={
            int(index): FrameCorrection(
                kind=Evidence(kind),
                rle=rle,
                boxes=tuple(tuple(box) for box in boxes),
                touched=touched,
                weight=1.0,
                iou=iou,
            )
            for index, (kind, rle, boxes, touched, iou) in stored["frames"].items()
        },
        propagated={
            int(index): PropagatedFrame(rle, confidence)
            for index, (rle, confidence) in stored["propagated"].items()
        },
        proposed=None
        if proposed is None
        else Proposed(ProposalKey(**proposed["key"]), proposed["path"], proposed["rank"]),
    )


def _time_to_json(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time_from_json(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
