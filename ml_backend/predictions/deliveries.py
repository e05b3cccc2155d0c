"""Predictions that Label Studio was promised: noted before the work begins, so that a crash forgets none."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, select

from ml_backend.database.database import Database
from ml_backend.database.tables import DeliveryRow
from ml_backend.database.upsert import upsert
from ml_backend.label_studio.task import Task
from ml_backend.requests import RequestError

Place = tuple[int, int, str]
"""Project, task and version."""


@dataclass(frozen=True)
class Delivery:
    """A prediction that is owed.

    Attributes:
        project_id: The project.
        task: The task, with the data that it had when it was asked for.
        version: The version that was asked for.
    """

    project_id: int
    task: Task
    version: str

    @property
    def place(self) -> Place:
        """What makes it the same as another."""
        return self.project_id, self.task.id, self.version


class Deliveries:
    """What is owed, on disk, and what of it is being worked on here. Safe to share between threads.

    Args:
        store: The database.
        most: How many may be worked on at the same time before more are refused.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._lock = threading.Lock()  # of what is on disk as well: both always change together
        self._under_way: set[Place] = set()

    def admit(self, deliveries: Iterable[Delivery], *, bounded: bool = True) -> None:
        """Note predictions as owed and under way, all or none; on disk when this returns.

        An empty queue takes any number, so that no batch is too large for good.

        Args:
            deliveries: What is owed from now on.
            bounded: Whether a full queue refuses them; what was admitted before must not be.

        Raises:
            RequestError: The queue is full.
            StoreError: The database cannot be written.
        """
        wanted = {delivery.place: delivery for delivery in deliveries}
        with self._lock:
            new = wanted.keys() - self._under_way
            waiting = len(self._under_way)
            if bounded and new and waiting and waiting + len(new) > self._most:
                raise RequestError(
                    503,
                    f"the queue is full: {waiting} tasks wait for their predictions, {self._most} may",
                    "Try again in a while, or raise STEERSEG_MAX_QUEUE.",
                )
            if new:
                self._write([wanted[place] for place in sorted(new)])
                self._under_way |= new

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

    def end(self, places: Iterable[Place]) -> None:
        """Note that those of these that are under way are no longer owed: delivered, or failed for good.

        Raises:
            StoreError: The database cannot be written.
        """
        with self._lock:
            ended = set(places) & self._under_way
            self._under_way -= ended
            if not ended:
                return
            with self._database.writing() as session:
                for project_id, task_id, version in ended:
                    session.execute(
                        delete(DeliveryRow).where(
                            DeliveryRow.project_id == project_id,
                            DeliveryRow.task_id == task_id,
                            DeliveryRow.version == version,
                        )
                    )

    def put_off(self, places: Iterable[Place]) -> None:
        """Keep these as owed; someone has to take them up again."""
        with self._lock:
            self._under_way -= set(places)

    def left(self) -> list[Delivery]:
        """What is owed and not under way here, in the order in which it was asked for.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._lock, self._database.reading() as session:
            rows = session.scalars(
                select(DeliveryRow).order_by(
                    DeliveryRow.created_at, DeliveryRow.project_id, DeliveryRow.task_id
                )
            )
            owed = [Delivery(row.project_id, Task(row.task_id, row.data), row.version) for row in rows]
            return [delivery for delivery in owed if delivery.place not in self._under_way]

    def take_up(self, delivery: Delivery) -> bool:
        """Note that a delivery that is left is under way; ``False`` where someone was quicker."""
        with self._lock:
            if delivery.place in self._under_way:
                return False
            self._under_way.add(delivery.place)
            return True
