"""Predictions promised to Label Studio: noted before the work begins, so that a crash forgets none."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import delete, select

from ml_backend.database.database import Database
from ml_backend.database.tables import DeliveryRow
from ml_backend.database.upsert import upsert
from ml_backend.label_studio.task import Task
from steerseg.errors import SteerSegError


class QueueFullError(SteerSegError):
    """More tasks wait for their predictions than may."""


class DeliveryKey(NamedTuple):
    """Identifies a delivery: a project, a task and the version of the prediction."""

    project_id: int
    task_id: int
    version: str


@dataclass(frozen=True)
class Delivery:
    """A prediction to be stored in Label Studio.

    Attributes:
        project_id: The project.
        task: The task, with the data that it had when it was asked for.
        version: The version that was asked for.
    """

    project_id: int
    task: Task
    version: str

    @property
    def key(self) -> DeliveryKey:
        """Identifies it."""
        return DeliveryKey(self.project_id, self.task.id, self.version)


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

    def _write(self, deliveries: Iterable[Delivery]) -> None:
        rows = [
            {
                "project_id": delivery.project_id,
                "task_id": delivery.task.id,
                "version": delivery.version,
                "data": dict(delivery.task.data),
                "created_at": datetime.now(UTC),
            }
            for delivery in deliveries
        ]
        with self._database.writing() as session:
            upsert(session, DeliveryRow, rows, keys=["project_id", "task_id", "version"], update=["data"])

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
                    session.execute(
                        delete(DeliveryRow).where(
                            DeliveryRow.project_id == key.project_id,
                            DeliveryRow.task_id == key.task_id,
                            DeliveryRow.version == key.version,
                        )
                    )

    def postpone(self, keys: Iterable[DeliveryKey]) -> None:
        """Keep these open, but no longer active; someone has to claim them again."""
        with self._lock:
            self._active -= set(keys)

    def unclaimed(self) -> list[Delivery]:
        """The open deliveries that are not active here, in the order in which they were asked for.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._lock, self._database.reading() as session:
            rows = session.scalars(
                select(DeliveryRow).order_by(
                    DeliveryRow.created_at, DeliveryRow.project_id, DeliveryRow.task_id
                )
            )
            deliveries = [Delivery(row.project_id, Task(row.task_id, row.data), row.version) for row in rows]
            return [delivery for delivery in deliveries if delivery.key not in self._active]

    def claim(self, delivery: Delivery) -> bool:
        """Make an unclaimed delivery active; ``False`` where someone was quicker."""
        with self._lock:
            if delivery.key in self._active:
                return False
            self._active.add(delivery.key)
            return True
