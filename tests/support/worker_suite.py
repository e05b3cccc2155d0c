"""What every implementation of a worker keeps to: a subclass names the implementation, and pytest runs the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ml_backend.models.messages import FrameCountReport, JobReport, ProgressReport
from ml_backend.models.workers import Worker, WorkerLostError, WorkerState
from steerseg.errors import Cancelled, ConfigError, ModelError, VideoError
from tests.support import executor_targets as targets

MakeWorker = Callable[[Callable[[], Any]], Worker[Any, Any]]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a state that must come; the test's own time limit ends a wait for one that does not."""
    while not condition():
        time.sleep(0.01)


class WorkerSuite:
    """Tests of one implementation; see :class:`ml_backend.models.workers.Worker`."""

    make: MakeWorker

    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls) -> Iterator[Worker[Any, Any]]:
        """One that all tests share that leave it alive."""
        made = cls.make(targets.commands)
        yield made
        made.stop()

    @pytest.fixture
    def fresh(self) -> Iterator[Worker[Any, Any]]:
        made = type(self).make(targets.commands)
        yield made
        made.stop()

    def test_a_job_is_reported_on_and_answered(self, worker: Worker[Any, Any]) -> None:
        worker.start()
        worker.start()  # has models: nothing happens
        assert worker.status.state is WorkerState.READY
        assert worker.status.switched_off == targets.Commands.switched_off
        reports: list[JobReport] = []
        worker.begin(1, ("frames_then", 7, {"a": 1}), "")
        assert worker.outcome(1, reports.append) == {"a": 1}
        assert reports == [FrameCountReport(1, 7), ProgressReport(1, "echo", 1.0)]
        assert worker.status.state is WorkerState.READY

    def test_an_error_keeps_its_type(self, worker: Worker[Any, Any]) -> None:
        for job, (command, error, words) in enumerate(
            [("fail", VideoError, "give one with frames"), ("surprise", ModelError, "ZeroDivisionError")], 10
        ):
            with pytest.raises(error, match=words):
                self._run(worker, job, (command,))
        assert self._run(worker, 12, ("echo", 1)) == 1

    def test_a_job_is_cancelled_in_the_middle(self, worker: Worker[Any, Any], tmp_path: Path) -> None:
        running = self._begin(worker, 20, ("wait_for", tmp_path / "started", tmp_path / "never"))
        wait_until((tmp_path / "started").exists)
        assert worker.status.state is WorkerState.BUSY
        worker.cancel(19)  # another one's
        worker.cancel(20)
        with pytest.raises(Cancelled, match="during waiting"):
            running.result()
        assert self._run(worker, 21, ("echo", 1)) == 1
        assert worker.status.restarts == 0

    def test_a_job_yields_when_it_is_asked_to(self, worker: Worker[Any, Any], tmp_path: Path) -> None:
        running = self._begin(worker, 30, ("until_yield", tmp_path / "started"))
        wait_until((tmp_path / "started").exists)
        worker.request_yield(29)  # another one's
        worker.request_yield(30)
        assert running.result() == "put down"

    def test_a_lost_worker_says_so_and_starts_anew(self, fresh: Worker[Any, Any], tmp_path: Path) -> None:
        request = ("break_once", tmp_path / "marker")
        with pytest.raises(WorkerLostError):
            self._run(fresh, 1, request)
        assert fresh.status.restarts == 1
        assert fresh.status.pid is None  # it does no more work on the job
        assert self._run(fresh, 1, request) == "in a new one"
        assert self._run(fresh, 2, ("counted",)) == 2

    def test_an_interruption_ends_the_wait(self, fresh: Worker[Any, Any], tmp_path: Path) -> None:
        running = self._begin(fresh, 1, ("wait_for", tmp_path / "started", tmp_path / "never"))
        wait_until((tmp_path / "started").exists)
        fresh.interrupt()
        with pytest.raises(WorkerLostError):
            running.result()

    def test_models_that_do_not_load_are_named(self) -> None:
        made = type(self).make(targets.unloadable)
        try:
            with pytest.raises(ConfigError, match="expected demo"):
                made.start()
            assert made.status.state is WorkerState.FAILED
            assert made.status.error == "no preset 'x'; expected demo"
        finally:
            made.stop()

    def _run(self, worker: Worker[Any, Any], job: int, request: Any) -> Any:
        worker.start()
        worker.begin(job, request, "")
        return worker.outcome(job, lambda _: None)

    def _begin(self, worker: Worker[Any, Any], job: int, request: Any) -> Future[Any]:
        """Begin a job, and wait for it in a thread."""
        worker.start()
        worker.begin(job, request, "")
        future: Future[Any] = Future()

        def wait() -> None:
            try:
                future.set_result(worker.outcome(job, lambda _: None))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        return future
