"""The tables of refinements: what was asked for, how far it is, what was measured, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.tables import ACTIVE_REFINEMENTS, RefinementRow, RefinementState, TrialRow
from ml_backend.database.upsert import upsert
from ml_backend.refinement.gate import GateMetrics, Judgement, Outcome, upper_first
from ml_backend.refinement.version_store import (
    NewVersion,
    add_version,
    champion_row,
    failed_in_use,
    set_champion,
)


@dataclass(frozen=True)
class Refinement:
    """One refinement.

    Attributes:
        id: Number of the refinement.
        project_id: Whose champion is refined.
        state: Where it stands.
        triggers: Triggers that asked for it.
        remembered: Triggers that asked for another one while it ran.
        champion_id: The version that it began from; ``None`` for the preset's own prompts.
        base_version: The preset's version that it began under.
        phase: The phase that it is in.
        done: How much of the phase is done.
        total: How much there is.
        notes: What was left out, and why.
        left_out: Keys of the examples that were left out.
        reason: How it ended, in text and numbers.
        metrics: What the gate measured.
        created_at: When it was asked for.
        started_at: When it began.
        finished_at: When it ended.
    """

    id: int
    project_id: int
    state: RefinementState
    triggers: tuple[str, ...]
    remembered: tuple[str, ...]
    champion_id: int | None
    base_version: str
    phase: str
    done: int
    total: int
    notes: tuple[str, ...]
    left_out: frozenset[str]
    reason: str
    metrics: GateMetrics = field(repr=False)
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ACTIVE_REFINEMENTS


_ENDS = {
    Outcome.PROMOTED: RefinementState.PROMOTED,
    Outcome.KEPT_BACK: RefinementState.KEPT_BACK,
    Outcome.NOT_ENOUGH_DATA: RefinementState.NOT_ENOUGH_DATA,
}


class RefinementStore:
    """The refinements of one backend. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, project_id: int, trigger: str) -> Refinement:
        """Ask for a refinement. One that waits notes the trigger; one that runs remembers it for afterwards.

        Returns:
            The refinement that waits or runs now.
        """
        with self._database.writing() as session:
            row = _active(session, project_id)
            if row is None:
                row = RefinementRow(project_id=project_id, triggers=[trigger])
                session.add(row)
                session.flush()
            elif row.state is RefinementState.WAITING:
                row.triggers = _with(row.triggers, trigger)
            else:
                row.remembered = _with(row.remembered, trigger)
            return _refinement(row)

    def get(self, refinement_id: int) -> Refinement | None:
        """One refinement by its number."""
        with self._database.reading() as session:
            row = session.get(RefinementRow, refinement_id)
            return None if row is None else _refinement(row)

    def active(self, project_id: int | None = None) -> list[Refinement]:
        """The refinements that wait or run, oldest first; of all projects where none is named."""
        query = select(RefinementRow).where(RefinementRow.state.in_(ACTIVE_REFINEMENTS))
        if project_id is not None:
            query = query.where(RefinementRow.project_id == project_id)
        with self._database.reading() as session:
            return [_refinement(row) for row in session.scalars(query.order_by(RefinementRow.id))]

    def count_by_state(self) -> dict[RefinementState, int]:
        """How many refinements are in each state."""
        query = select(RefinementRow.state, func.count()).group_by(RefinementRow.state)
        with self._database.reading() as session:
            counted = {state: number for state, number in session.execute(query)}
        return {state: counted.get(state, 0) for state in RefinementState}

    def latest(self, project_id: int | None = None, limit: int = 10) -> list[Refinement]:
        """The newest refinements, newest first; of all projects where none is named."""
        query = select(RefinementRow).order_by(RefinementRow.id.desc()).limit(limit)
        if project_id is not None:
            query = query.where(RefinementRow.project_id == project_id)
        with self._database.reading() as session:
            return [_refinement(row) for row in session.scalars(query)]

    def last_begun(self, project_id: int) -> datetime | None:
        """The begin of the newest refinement that learned from the corrections.

        One that was cancelled counts too, also before it began: else the next correction would ask for it again.
        """
        learned = set(_ENDS.values()) - {RefinementState.NOT_ENOUGH_DATA}
        states = [*learned, RefinementState.RUNNING, RefinementState.CANCELLED]
        with self._database.reading() as session:
            return session.scalar(
                select(func.coalesce(RefinementRow.started_at, RefinementRow.finished_at))
                .where(RefinementRow.project_id == project_id, RefinementRow.state.in_(states))
                .order_by(RefinementRow.id.desc())
                .limit(1)
            )

    def begin(
        self, refinement_id: int, *, champion_id: int | None, base_version: str, at: datetime
    ) -> Refinement:
        """Let a waiting refinement run: its plan is on disk. One that has ended meanwhile stays as it is.

        Args:
            refinement_id: The refinement.
            champion_id: The version that it begins from.
            base_version: The preset's version.
            at: When the corrections were read: later ones are for the next refinement.
        """
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            if row.state not in ACTIVE_REFINEMENTS:
                return _refinement(row)
            row.state = RefinementState.RUNNING
            row.champion_id, row.base_version = champion_id, base_version
            row.started_at = at
            return _refinement(row)

    def restart(self, refinement_id: int, note: str) -> None:
        """Let a running refinement wait again, to begin anew; what it measured is dropped."""
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            if row.state not in ACTIVE_REFINEMENTS:
                return
            row.state, row.phase, row.done, row.total, row.left_out = RefinementState.WAITING, "", 0, 0, []
            row.notes = _with(row.notes, note)
            session.execute(delete(TrialRow).where(TrialRow.refinement_id == refinement_id))

    def note_progress(self, refinement_id: int, phase: str, done: int, total: int) -> bool:
        """Note how far it is.

        Returns:
            Whether it goes on: ``False`` where it has ended, as by a cancellation, and stays as it is.
        """
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            if row.state not in ACTIVE_REFINEMENTS:
                return False
            row.phase, row.done, row.total = phase, done, total
            return True

    def add_note(self, refinement_id: int, note: str) -> None:
        """Note something that a person should know; once only."""
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            row.notes = _with(row.notes, note)

    def leave_out(self, refinement_id: int, key: str, note: str) -> Refinement:
        """Note an example that cannot take part, and why."""
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            row.left_out, row.notes = _with(row.left_out, key), _with(row.notes, note)
            return _refinement(row)

    def add_trial(self, refinement_id: int, key: str, *, candidate: float, champion: float) -> None:
        """Keep what both are worth on an example; only the first time counts."""
        with self._database.writing() as session:
            row = {"refinement_id": refinement_id, "key": key, "candidate": candidate, "champion": champion}
            upsert(session, TrialRow, [row], keys=["refinement_id", "key"])

    def trials(self, refinement_id: int) -> Mapping[str, tuple[float, float]]:
        """By example, J&F of candidate and champion, in [0, 1]."""
        with self._database.reading() as session:
            rows = session.scalars(select(TrialRow).where(TrialRow.refinement_id == refinement_id))
            # Sorted here: databases sort texts each in their own way.
            return {row.key: (row.candidate, row.champion) for row in sorted(rows, key=lambda row: row.key)}

    def settle(
        self, refinement_id: int, judgement: Judgement, version: NewVersion | None = None
    ) -> Refinement:
        """End a refinement as the gate decided, as one transaction.

        The candidate, if there is one, joins the project's line; a promoted one becomes its champion, unless the
        champion has changed since the refinement began. A remembered trigger becomes a waiting refinement.

        Returns:
            The refinement as it ended. Settling one that has ended changes nothing.
        """
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            if row.state not in ACTIVE_REFINEMENTS:
                return _refinement(row)
            state, reason = _ENDS[judgement.outcome], judgement.reason
            champion = champion_row(session, row.project_id)
            if champion is not None and version is not None and champion.model != version.model:
                champion = None  # of a model that was in use before: no refinement begins from its prompts
            leader = None if champion is None else champion.id
            if state is RefinementState.PROMOTED and leader != row.champion_id:
                state = RefinementState.KEPT_BACK
                reason = f"the champion was changed meanwhile, so it was left alone. {upper_first(reason)}"
            elif (
                state is RefinementState.PROMOTED
                and version is not None
                and failed_in_use(session, row.project_id, version.digest)
            ):
                state = RefinementState.KEPT_BACK
                reason = (
                    "the same prompts were taken back before, since they did worse in use; a person may promote them. "
                    f"{upper_first(reason)}"
                )
            if version is not None:
                added = add_version(session, row.project_id, version)
                added.reason = f"{state}: {reason}"
                added.kept_back = state is RefinementState.KEPT_BACK
                if state is RefinementState.PROMOTED:
                    set_champion(session, row.project_id, added, by=f"refinement {row.id}", revocable=True)
            row.metrics = judgement.metrics.to_json()
            _end(session, row, state, reason)
            return _refinement(row)

    def fail(self, refinement_id: int, reason: str) -> Refinement:
        """End a refinement without a decision; a remembered trigger becomes a waiting one."""
        with self._database.writing() as session:
            row = _row(session, refinement_id)
            if row.state in ACTIVE_REFINEMENTS:
                _end(session, row, RefinementState.FAILED, reason)
            return _refinement(row)

    def cancel(self, refinement_id: int, reason: str) -> bool:
        """End a refinement because a person wants it; a remembered trigger becomes a waiting one.

        Whoever carries it on finds that it has ended.

        Returns:
            Whether it was waiting or running; one that has ended, or never was, stays as it is.
        """
        with self._database.writing() as session:
            row = session.get(RefinementRow, refinement_id)
            if row is None or row.state not in ACTIVE_REFINEMENTS:
                return False
            _end(session, row, RefinementState.CANCELLED, reason)
            return True


def _end(session: Session, row: RefinementRow, state: RefinementState, reason: str) -> None:
    row.state, row.reason, row.finished_at = state, reason, datetime.now(UTC)
    if row.remembered:
        session.add(RefinementRow(project_id=row.project_id, triggers=list(row.remembered)))
    session.flush()


def _active(session: Session, project_id: int) -> RefinementRow | None:
    return session.scalars(
        select(RefinementRow)
        .where(RefinementRow.project_id == project_id, RefinementRow.state.in_(ACTIVE_REFINEMENTS))
        .order_by(RefinementRow.id)
        .limit(1)
    ).first()


def _row(session: Session, refinement_id: int) -> RefinementRow:
    row = session.get(RefinementRow, refinement_id)
    if row is None:
        raise LookupError(f"there is no refinement {refinement_id}")
    return row


def _with(items: Sequence[str], item: str) -> list[str]:
    return [*items, item] if item not in items else list(items)


def _refinement(row: RefinementRow) -> Refinement:
    return Refinement(
        id=row.id,
        project_id=row.project_id,
        state=row.state,
        triggers=tuple(row.triggers or ()),
        remembered=tuple(row.remembered or ()),
        champion_id=row.champion_id,
        base_version=row.base_version,
        phase=row.phase,
        done=row.done,
        total=row.total,
        notes=tuple(row.notes or ()),
        left_out=frozenset(row.left_out or ()),
        reason=row.reason,
        metrics=GateMetrics.model_validate(row.metrics or {}),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
