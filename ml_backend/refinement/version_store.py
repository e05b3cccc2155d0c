"""The tables of prompt versions: each project's own line, its champion, and how it came to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.tables import PromotionRow, PromptStatus, PromptVersionRow
from ml_backend.refinement.gate import GateMetrics
from steerseg.errors import SteerSegError

PRESET = "preset"
"""The name under which a project's line has the preset's own soft prompts, which every line begins with."""

CorrectionRevision = tuple[int, str]
"""A correction that a version was trained on: its number and revision."""


class VersionError(SteerSegError):
    """A prompt version is unknown, damaged, or does not fit."""


@dataclass(frozen=True)
class PromptVersion:
    """A stored pair of soft prompts.

    Attributes:
        id: Number in the database.
        project_id: Whose line it belongs to.
        name: Its name in that line; the digest in it makes it another one in every project and refinement.
        parent: Name of the version that it was refined from; ``None`` for the preset's own prompts.
        status: How it stands.
        path: The folder of its artefact, relative to the data folder.
        digest: Identity of its two matrices.
        model: The vision-language model that it was made for.
        origin: ``refined``, ``edited`` or ``imported``.
        refinement_id: The refinement that made it.
        data: Corrections that it was trained on.
        curve: The loss of each step of its training.
        metrics: What the gate measured.
        reason: What the gate said.
        created_at: When it was stored.
        kept_back: Whether the gate kept it back.
        damage: What the database says of it that cannot be read, for a person; empty where all can.
    """

    id: int
    project_id: int
    name: str
    parent: str | None
    status: PromptStatus
    path: str
    digest: str
    model: str
    origin: str
    refinement_id: int | None
    data: tuple[CorrectionRevision, ...] = field(repr=False)
    curve: tuple[float, ...] = field(repr=False)
    metrics: GateMetrics = field(repr=False)
    reason: str
    created_at: datetime
    kept_back: bool = False
    damage: str = ""


@dataclass(frozen=True)
class NewVersion:
    """A version about to be stored; its artefact is on disk already. See :class:`PromptVersion`."""

    path: str
    digest: str
    model: str
    origin: str
    parent_id: int | None
    refinement_id: int | None = None
    data: Sequence[CorrectionRevision] = ()
    curve: Sequence[float] = ()
    metrics: GateMetrics = field(default_factory=GateMetrics)
    reason: str = ""
    kept_back: bool = False


@dataclass(frozen=True)
class Promotion:
    """A change of a project's champion.

    Attributes:
        id: Number in the database.
        version: Name of the version that became champion; ``None`` for the preset's own soft prompts.
        previous: Name of the champion before it; ``None`` likewise.
        made_by: Names the person or the program that asked for it.
        revocable: Whether it may be taken back by itself: a gate's, until a person decides.
        undone: Whether it was taken back.
        failed_because: Why it was taken back by itself; empty where it was not.
        created_at: When it was made.
    """

    id: int
    version: str | None
    previous: str | None
    made_by: str
    revocable: bool
    undone: bool
    failed_because: str
    created_at: datetime


Check = Callable[[PromptVersion], object]
"""Raises where a version cannot be used."""


class VersionStore:
    """The prompt versions of one backend. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def champion(self, project_id: int) -> PromptVersion | None:
        """The project's promoted version; ``None`` while it uses the preset's own prompts."""
        with self._database.reading() as session:
            row = champion_row(session, project_id)
            return None if row is None else _version(session, row)

    def versions(self, project_id: int) -> list[PromptVersion]:
        """The project's versions, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(PromptVersionRow)
                .where(PromptVersionRow.project_id == project_id)
                .order_by(PromptVersionRow.id)
            )
            return [_version(session, row) for row in rows]

    def version(self, project_id: int, name: str) -> PromptVersion:
        """One version by its name.

        Raises:
            VersionError: The project has none of that name; the message says which it has.
        """
        with self._database.reading() as session:
            return _version(session, _row(session, project_id, name))

    def by_id(self, version_id: int) -> PromptVersion | None:
        """One version by its number in the database."""
        with self._database.reading() as session:
            row = session.get(PromptVersionRow, version_id)
            return None if row is None else _version(session, row)

    def add(self, project_id: int, new: NewVersion) -> PromptVersion:
        """Store a version as a candidate."""
        with self._database.writing() as session:
            return _version(session, add_version(session, project_id, new))

    def promote(self, project_id: int, name: str, *, by: str) -> None:
        """Make a version the project's champion, as one transaction; the name ``preset`` stands for none.

        Args:
            project_id: The project.
            name: The version.
            by: Names the person or the program that asked for it.

        Raises:
            VersionError: There is no such version, or it is the champion already.
        """
        with self._database.writing() as session:
            row = None if name == PRESET else _row(session, project_id, name)
            if row is champion_row(session, project_id):
                raise VersionError(f"{name} is the champion of project {project_id} already")
            set_champion(session, project_id, row, by=by)

    def can_roll_back(self, project_id: int) -> bool:
        """Whether there is a promotion to take back."""
        with self._database.reading() as session:
            return _last_promotion(session, project_id) is not None

    def promotions(self, project_id: int) -> list[Promotion]:
        """The project's promotions, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(PromotionRow)
                .where(PromotionRow.project_id == project_id)
                .order_by(PromotionRow.id.desc())
            )
            return [_promotion(session, row) for row in rows]

    def take_back(
        self, project_id: int, promotion_id: int, reason: str, check: Check = lambda version: None
    ) -> str | None:
        """Take a promotion back because its version does worse in use, as one transaction.

        Args:
            project_id: The project.
            promotion_id: The promotion.
            reason: Why, in text and numbers; it is kept with the promotion and with the version.
            check: Raises where the champion of before cannot be used; then nothing changes.

        Returns:
            The name of the champion of before it; ``None`` where that promotion is not the newest one any more, or a
            person has decided meanwhile: then nothing changes.
        """
        with self._database.writing() as session:
            last = _last_promotion(session, project_id)
            if last is None or last.id != promotion_id or not last.revocable or last.version_id is None:
                return None
            failed = session.get(PromptVersionRow, last.version_id)
            assert failed is not None, "a version in the line is never removed"
            last.failed_because = reason
            failed.reason = f"{failed.reason}. Taken back: {reason}"
            return _undo(session, last, check)

    def roll_back(self, project_id: int, check: Check = lambda version: None) -> str:
        """Take the last promotion back, as one transaction; return the name of the champion of before it.

        The champion of before is not taken back by itself any more: a person has chosen it.

        Args:
            project_id: The project.
            check: Raises where the champion of before cannot be used; then nothing changes.

        Raises:
            VersionError: Nothing was promoted.
        """
        with self._database.writing() as session:
            last = _last_promotion(session, project_id)
            if last is None:
                raise VersionError(
                    f"project {project_id} uses the preset's own prompts, and nothing was promoted: there is "
                    "nothing to roll back to"
                )
            name = _undo(session, last, check)
            before = _last_promotion(session, project_id)
            if before is not None:
                before.revocable = False
            return name


# --- within a transaction


def champion_row(session: Session, project_id: int) -> PromptVersionRow | None:
    """The project's champion."""
    return session.scalars(
        select(PromptVersionRow)
        .where(PromptVersionRow.project_id == project_id, PromptVersionRow.status == PromptStatus.CHAMPION)
        .order_by(PromptVersionRow.id.desc())
        .limit(1)
    ).first()


def add_version(session: Session, project_id: int, new: NewVersion) -> PromptVersionRow:
    """Store a version as a candidate, under the next name of the project's line."""
    number = session.scalar(
        select(func.count()).select_from(PromptVersionRow).where(PromptVersionRow.project_id == project_id)
    )
    row = PromptVersionRow(
        project_id=project_id,
        # The digest makes it the name of a content: proposals of equal names are equal in every project.
        name=f"r{(number or 0) + 1}-{new.digest[:8]}",
        parent_id=new.parent_id,
        path=new.path,
        digest=new.digest,
        model=new.model,
        origin=new.origin,
        refinement_id=new.refinement_id,
        data=[list(used) for used in new.data],
        curve=list(new.curve),
        metrics=new.metrics.to_json(),
        reason=new.reason,
        kept_back=new.kept_back,
    )
    session.add(row)
    session.flush()
    return row


def set_champion(
    session: Session, project_id: int, row: PromptVersionRow | None, *, by: str, revocable: bool = False
) -> None:
    """Make a version the champion, ``None`` for the preset's own prompts, and note whom it follows."""
    previous = champion_row(session, project_id)
    session.add(
        PromotionRow(
            project_id=project_id,
            version_id=None if row is None else row.id,
            previous_id=None if previous is None else previous.id,
            made_by=by,
            revocable=revocable,
        )
    )
    _crown(session, project_id, row)


def failed_in_use(session: Session, project_id: int, digest: str) -> bool:
    """Whether a version of this content was taken back by itself, and nobody has promoted it since."""
    newest = session.scalars(
        select(PromotionRow)
        .join(PromptVersionRow, PromptVersionRow.id == PromotionRow.version_id)
        .where(PromotionRow.project_id == project_id, PromptVersionRow.digest == digest)
        .order_by(PromotionRow.id.desc())
        .limit(1)
    ).first()
    return newest is not None and bool(newest.failed_because)


def _undo(session: Session, last: PromotionRow, check: Check) -> str:
    """Take the newest promotion back; return the name of the champion of before it."""
    last.undone = True
    previous = None if last.previous_id is None else session.get(PromptVersionRow, last.previous_id)
    if previous is not None:
        check(_version(session, previous))
    _crown(session, last.project_id, previous)
    return PRESET if previous is None else previous.name


def _last_promotion(session: Session, project_id: int) -> PromotionRow | None:
    """The newest promotion that was not taken back."""
    return session.scalars(
        select(PromotionRow)
        .where(PromotionRow.project_id == project_id, PromotionRow.undone.is_(False))
        .order_by(PromotionRow.id.desc())
        .limit(1)
    ).first()


def _crown(session: Session, project_id: int, row: PromptVersionRow | None) -> None:
    previous = champion_row(session, project_id)
    if previous is not None:
        previous.status = PromptStatus.RETIRED
    if row is not None:
        row.status = PromptStatus.CHAMPION
    session.flush()


def _row(session: Session, project_id: int, name: str) -> PromptVersionRow:
    row = session.scalars(
        select(PromptVersionRow).where(
            PromptVersionRow.project_id == project_id, PromptVersionRow.name == name
        )
    ).first()
    if row is None:
        known = session.scalars(
            select(PromptVersionRow.name)
            .where(PromptVersionRow.project_id == project_id)
            .order_by(PromptVersionRow.id)
        ).all()
        there = f"it has {', '.join(known)}" if known else "it has none yet"
        raise VersionError(f"project {project_id} has no prompt version {name!r}; {there}")
    return row


def _promotion(session: Session, row: PromotionRow) -> Promotion:
    def name(number: int | None) -> str | None:
        version = None if number is None else session.get(PromptVersionRow, number)
        return None if version is None else version.name

    return Promotion(
        id=row.id,
        version=name(row.version_id),
        previous=name(row.previous_id),
        made_by=row.made_by,
        revocable=row.revocable,
        undone=row.undone,
        failed_because=row.failed_because,
        created_at=row.created_at,
    )


_DATA = TypeAdapter(tuple[CorrectionRevision, ...])
_CURVE = TypeAdapter(tuple[float, ...])
_METRICS = TypeAdapter(GateMetrics)
_Value = TypeVar("_Value")


def _version(session: Session, row: PromptVersionRow) -> PromptVersion:
    """The version of a row; what cannot be read in it is left out and named, so that others can be shown."""
    parent = None if row.parent_id is None else session.get(PromptVersionRow, row.parent_id)
    damage: list[str] = []

    def read(what: str, value: object, kind: TypeAdapter[_Value], otherwise: _Value) -> _Value:
        try:
            return kind.validate_python(value)
        except ValidationError as error:
            wrong = error.errors()[0]
            at = ".".join(map(str, ("", *wrong["loc"])))
            damage.append(f"its {what}{at} cannot be read: {wrong['msg']}")
            return otherwise

    return PromptVersion(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        parent=None if parent is None else parent.name,
        status=row.status,
        path=row.path,
        digest=row.digest,
        model=row.model,
        origin=row.origin,
        refinement_id=row.refinement_id,
        data=read("data", row.data, _DATA, ()),
        curve=read("curve", row.curve, _CURVE, ()),
        metrics=read("metrics", row.metrics, _METRICS, GateMetrics()),
        reason=row.reason,
        created_at=row.created_at,
        kept_back=row.kept_back,
        damage="; ".join(damage),
    )
