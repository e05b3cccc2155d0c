"""A batch on a Ray cluster of this machine, whose workers take a known time: what the way to them costs."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ml_backend.models.executor import Executor
from ml_backend.models.workers import WorkerState
from tests.support.ray_cluster import LocalCluster, fleet_on

_COMING_UP = 300.0  # seconds, on a machine that has much else to do


class _Timed:
    """Takes a known time, without using a core.

    Args:
        seconds: The time of a job.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, request: Any, reporter: Any) -> Any:
        for step in range(10):
            reporter.progress("working", step / 10)
            time.sleep(self._seconds / 10)
        return request


def batch_seconds(workers: int, jobs: int, seconds: float) -> float:
    """Seconds from the first job's submission to the last one's result.

    Args:
        workers: Nodes, with a worker each.
        jobs: Jobs.
        seconds: The time of a job.

    Raises:
        SystemExit: The workers do not come up; it says how each stands.
    """
    cluster = LocalCluster(workers)
    executor: Executor[Any, Any] = Executor([], warm=True)
    try:
        with fleet_on(cluster, executor, partial(_Timed, seconds)) as fleet:
            deadline = time.monotonic() + _COMING_UP
            while [status.state for status in executor.statuses] != [WorkerState.READY] * workers:
                if time.monotonic() > deadline:
                    states = [f"{status.state} {status.error or ''}" for status in executor.statuses]
                    raise SystemExit(
                        f"{workers} workers did not come up in {_COMING_UP:.0f} s: {states}; {fleet.status}"
                    )
                time.sleep(0.05)
            began = time.monotonic()
            for job in [executor.submit(number) for number in range(jobs)]:
                job.result()
            return time.monotonic() - began
    finally:
        executor.close()
        cluster.close()
