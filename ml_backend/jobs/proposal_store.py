"""Which proposal was made for which task; the proposals themselves are files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select

from ml_backend.database.database import Database
from ml_backend.database.tables import ProposalKey, ProposalRow, utc_now
from ml_backend.database.upsert import upsert


@dataclass(frozen=True)
class KnownProposal:
    """A proposal that a task was given.

    Attributes:
        key: Content, expression and version.
        path: Its file, relative to the data folder.
        created_at: When it was made.
    """

    key: ProposalKey
    path: str
    created_at: datetime


class ProposalStore:
    """Finds the file of a proposal that was made before. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: ProposalKey) -> str | None:
        """Where the proposal of this content, expression and version lies, relative to the data folder."""
        with self._database.reading() as session:
            return session.scalar(
                select(ProposalRow.path)
                .where(
                    ProposalRow.media_digest == key.media_digest,
                    ProposalRow.expression == key.expression,
                    ProposalRow.version == key.version,
                )
                .limit(1)
            )

    def add(
        self,
        key: ProposalKey,
        *,
        project_id: int,
        task_id: int,
        path: str,
        score: float | None,
        margin: float | None = None,
        calibrated: bool | None = None,
    ) -> None:
        """Note that a task was given this proposal; noting it again updates the path and the scores.

        Args:
            key: Content, expression and version.
            project_id: The project; it must be known.
            task_id: The task.
            path: The proposal's file, relative to the data folder.
            score: How sure the best tracklet is; ``None`` where there is none, or none is shown.
            margin: Of its score over the second's; ``None`` where there is no second, or its confidence is known.
            calibrated: Whether the score is a confidence, and no rank score; ``None`` where that is not known.
        """
        subject = {"project_id": project_id, "task_id": task_id, **asdict(key)}
        scores = {"path": path, "score": score, "margin": margin, "calibrated": calibrated}
        row = {**subject, **scores, "created_at": utc_now()}
        with self._database.writing() as session:
            upsert(session, ProposalRow, [row], keys=list(subject), update=list(scores))

    def of_task(self, project_id: int, task_id: int) -> list[KnownProposal]:
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

    def certainties(self, project_id: int) -> dict[int, float]:
        """By task, how sure its newest proposal was: its confidence, or the best score and its margin, if smaller.

        Tasks whose proposal has no tracklet have -1.
        """
        newest = (
            select(func.max(ProposalRow.id))
            .where(ProposalRow.project_id == project_id)
            .group_by(ProposalRow.task_id)
        )
        with self._database.reading() as session:
            rows = session.execute(
                select(ProposalRow.task_id, ProposalRow.score, ProposalRow.margin).where(
                    ProposalRow.id.in_(newest)
                )
            )
            return {
                task: -1.0 if score is None else min(score, score if margin is None else margin)
                for task, score, margin in rows
            }

    def count(self) -> int:
        """How many (task, expression, version) have a proposal."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(ProposalRow)) or 0
