"""An actor of a Ray cluster keeps to what a worker is."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from ml_backend.logs import LoggingSetup
from ml_backend.models.fleet.fleet import Fleet
from ml_backend.models.fleet.messages import WorkerPlace
from ml_backend.models.fleet.ray_worker import Line, RayWorker, WorkerEvent
from tests.support.ray_cluster import LocalCluster, plan_for, setup_of
from tests.support.worker_suite import WorkerSuite

pytestmark = pytest.mark.timeout(300)


class Slot:
    """A place for a worker, given to one test after the other."""

    def __init__(self, line: Line, place: WorkerPlace) -> None:
        self.line = line
        self.place = place
        self.worker: RayWorker[Any, Any] | None = None

    def receive(self, event: WorkerEvent) -> None:
        if self.worker is not None:
            self.worker.receive(event)


class Slots:
    """In place of an executor: keeps the places that are free."""

    def __init__(self) -> None:
        self.free: queue.SimpleQueue[Slot] = queue.SimpleQueue()

    def add(self, slot: Slot) -> int:
        self.free.put(slot)
        return 0

    def remove(self, index: int) -> None:
        pass


class BorrowedWorker(RayWorker[Any, Any]):
    """Gives its place back when it is stopped by its test."""

    def __init__(self, slots: Slots, factory: Callable[[], Any]) -> None:
        self._slot = slots.free.get(timeout=120)
        self._slots = slots
        super().__init__(self._slot.line, self._slot.place, setup_of(factory))
        self._slot.worker = self

    def stop(self) -> None:
        super().stop()
        if self._slot.worker is self:
            self._slot.worker = None
            self._slots.free.put(self._slot)


class TestRayWorker(WorkerSuite):
    slots: ClassVar[Slots]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def places(cls, cluster: LocalCluster) -> Iterator[None]:
        cls.slots = Slots()
        fleet = Fleet(
            plan_for(cluster),
            cls.slots,  # type: ignore[arg-type]
            Slot,  # type: ignore[arg-type]
            logging_setup=LoggingSetup("WARNING", process="cluster"),
        )
        fleet.start()
        yield
        fleet.close()

    @classmethod
    def make(cls, factory: Callable[[], Any]) -> BorrowedWorker:
        return BorrowedWorker(cls.slots, factory)
