"""Predictions promised to Label Studio: noted before the work begins, so that a crash forgets none.

What Label Studio does not take waits with back-off, over restarts too. What it refuses for good stays on the project's
page until a person has it tried again, or Label Studio asks for the task anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update

from ml_backend.database.database import Database
from ml_backend.database.errors import describe_error
from ml_backend.database.tables import DeliveryRow
from ml_backend.database.upsert import upsert
from ml_backend.label_studio.task import Task
from steerseg.errors import SteerSegError

FIRST_RETRY = 30.0
"""Seconds until the second attempt; each further one waits twice as long."""
LONGEST_RETRY = 3600.0
"""Seconds between two attempts at most."""
IN_USE = ""
"""The version of a delivery that names none: the one in use when it is taken up."""


class QueueFullError(SteerSegError):
    """More tasks wait for their predictions than may."""


class DeliveryKey(NamedTuple):
    """Identifies a delivery: a project, a task, the version of the prediction, and an expression that was typed.

    The last is empty where the prediction is of the task's own expression.
    """

    project_id: int
    task_id: int
    version: str
    typed: str = ""


@dataclass(frozen=True)
class Delivery:
    """A prediction to be stored in Label Studio.

    Attributes:
        project_id: The project.
        task: The task, with the data that it had when it was asked for.
        version: The version that was asked for; :data:`IN_USE` for whichever is in use.
        typed: The expression that an annotator typed; empty for the task's own.
    """

    project_id: int
    task: Task
    version: str
    typed: str = ""

    @property
    def key(self) -> DeliveryKey:
        """Identifies it."""
        return DeliveryKey(self.project_id, self.task.id, self.version, self.typed)


@dataclass(frozen=True)
class WaitingDelivery:
    """A delivery that did not succeed, for a person.

    Attributes:
        key: Identifies it.
        since: When it was promised.
        attempts: How many attempts failed.
        error: Why the last one did.
        retry_at: When the next one is; ``None`` for as soon as may be.
        refused: Whether there is none, since Label Studio refuses this prediction.
    """

    key: DeliveryKey
    since: datetime
    attempts: int
    error: str
    retry_at: datetime | None
    refused: bool


class Deliveries:
    """Open deliveries on disk, and which of them this process works on. Safe to share between threads.

    Args:
        database: The database.
        most: How many may be worked on at the same time before more are refused.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._lock = threading.Lock()  # of the table as well: both always change together
        self._active: set[DeliveryKey] = set()

    def admit(self, deliveries: Iterable[Delivery], *, bounded: bool = True) -> None:
        """Note deliveries as open and active, all or none; they are on disk when this returns.

        An empty queue takes any number, so that no batch is too large for good.

        Args:
            deliveries: The deliveries.
            bounded: Whether a full queue refuses them; those that were admitted before must not be refused.

        Raises:
            QueueFullError: The queue is full.
            StoreError: The database cannot be written.
        """
        wanted = {delivery.key: delivery for delivery in deliveries}
        with self._lock:
            new = wanted.keys() - self._active
            waiting = len(self._active)
            if bounded and new and waiting and waiting + len(new) > self._most:
                raise QueueFullError(
                    f"the queue is full: {waiting} tasks wait for their predictions, {self._most} may"
                )
            if new:
                self._write([wanted[key] for key in sorted(new)])
                self._active |= new

    def promise(self, project_id: int, task: Task, typed: str) -> None:
        """Note the prediction of a typed expression as open, by the version in use when somebody claims it.

        Args:
            project_id: The project.
            task: The task.
            typed: The expression.

        Raises:
            StoreError: The database cannot be written.
        """
        # Without the lock: nobody works on it before it is claimed, and the caller may be in a transaction.
        self._write([Delivery(project_id, task, IN_USE, typed)])

    def _write(self, deliveries: Iterable[Delivery]) -> None:
        rows = [
            {
                "project_id": delivery.project_id,
                "task_id": delivery.task.id,
                "version": delivery.version,
                "typed": delivery.typed,
                "data": dict(delivery.task.data),
                "created_at": datetime.now(UTC),
                **_ANEW,
            }
            for delivery in deliveries
        ]
        keys = ["project_id", "task_id", "version", "typed"]
        with self._database.writing() as session:
            upsert(session, DeliveryRow, rows, keys=keys, update=["data", *_ANEW])

    def complete(self, keys: Iterable[DeliveryKey]) -> None:
        """Remove the active ones of these: they were delivered, or failed for good.

        Raises:
            StoreError: The database cannot be written.
        """
        with self._lock:
            completed = set(keys) & self._active
            self._active -= completed
            if not completed:
                return
            with self._database.writing() as session:
                for key in completed:
                    session.execute(delete(DeliveryRow).where(*_of(key)))

    def postpone(
        self, keys: Iterable[DeliveryKey], error: Exception | None = None, most: int | None = None
    ) -> None:
        """Keep these open, but no longer active; someone has to claim them again.

        Args:
            keys: The deliveries.
            error: Why the attempt failed, so that the next one waits; ``None`` where there was none.
            most: After how many failed attempts no further one is made until a person asks for it.

        Raises:
            StoreError: The database cannot be written; they are postponed all the same.
        """
        with self._lock:
            postponed = set(keys) & self._active
            self._active -= postponed
            if error is None:
                return
            with self._database.writing() as session:
                for key in postponed:
                    row = session.get(DeliveryRow, key)
                    if row is not None:
                        row.attempts += 1
                        row.error = describe_error(error)
                        row.retry_at = datetime.now(UTC) + retry_delay(row.attempts)
                        row.refused = most is not None and row.attempts >= most

    def refuse(self, keys: Iterable[DeliveryKey], error: Exception) -> None:
        """Make no further attempt at these until a person asks for it; see :meth:`postpone` for errors."""
        self.postpone(keys, error, most=0)

    def hasten(self, project_id: int, *, refused: bool) -> None:
        """Let the deliveries of a project wait no longer.

        Args:
            project_id: The project.
            refused: Whether that includes those that were refused.

        Raises:
            StoreError: The database cannot be used.
        """
        conditions = [DeliveryRow.project_id == project_id, DeliveryRow.retry_at.is_not(None)]
        if not refused:
            conditions.append(DeliveryRow.refused.is_(False))
        with self._database.reading() as session:
            if session.scalars(select(DeliveryRow.task_id).where(*conditions).limit(1)).first() is None:
                return
        with self._database.writing() as session:
            session.execute(update(DeliveryRow).where(*conditions).values(retry_at=None, refused=False))

    def waiting(self, project_id: int | None = None) -> list[WaitingDelivery]:
        """The deliveries of a project that did not succeed, oldest first; of all projects where none is named.

        Raises:
            StoreError: The database cannot be read.
        """
        query = (
            select(DeliveryRow)
            .where(DeliveryRow.error.is_not(None))
            .order_by(DeliveryRow.created_at, DeliveryRow.project_id, DeliveryRow.task_id)
        )
        if project_id is not None:
            query = query.where(DeliveryRow.project_id == project_id)
        with self._database.reading() as session:
            return [
                WaitingDelivery(
                    key=DeliveryKey(row.project_id, row.task_id, row.version, row.typed),
                    since=row.created_at,
                    attempts=row.attempts,
                    error=row.error or "",
                    retry_at=row.retry_at,
                    refused=row.refused,
                )
                for row in session.scalars(query)
            ]

    def unclaimed(self, *, due: bool = False) -> list[Delivery]:
        """The open deliveries that are not active here, in the order in which they were asked for.

        Args:
            due: Leave out those whose next attempt is later.

        Raises:
            StoreError: The database cannot be read.
        """
        now = datetime.now(UTC)
        # A time beyond the longest wait was written by another clock: this machine's was set back since.
        in_time = now + timedelta(seconds=LONGEST_RETRY)
        with self._lock, self._database.reading() as session:
            rows = session.scalars(
                select(DeliveryRow)
                .where(DeliveryRow.refused.is_(False))
                .order_by(DeliveryRow.created_at, DeliveryRow.project_id, DeliveryRow.task_id)
            )
            deliveries = [
                Delivery(row.project_id, Task(row.task_id, row.data), row.version, row.typed)
                for row in rows
                if not due or row.retry_at is None or not now < row.retry_at <= in_time
            ]
            return [delivery for delivery in deliveries if delivery.key not in self._active]

    def claim(self, delivery: Delivery) -> bool:
        """Make an unclaimed delivery active; ``False`` where someone was quicker."""
        with self._lock:
            if delivery.key in self._active:
                return False
            self._active.add(delivery.key)
            return True


_ANEW = {"attempts": 0, "error": None, "retry_at": None, "refused": False}
"""Columns of a delivery that was not attempted."""


def retry_delay(attempts: int) -> timedelta:
    """How long a delivery waits after so many failed attempts."""
    return timedelta(seconds=min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(attempts - 1, 20)))


def _of(key: DeliveryKey) -> list[ColumnElement[bool]]:
    return [
        DeliveryRow.project_id == key.project_id,
        DeliveryRow.task_id == key.task_id,
        DeliveryRow.version == key.version,
        DeliveryRow.typed == key.typed,
    ]
