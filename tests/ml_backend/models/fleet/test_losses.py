"""A lost actor, node or head of a cluster costs no job and doubles none."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.models.executor import Executor
from ml_backend.models.fleet.fleet import ClusterState
from ml_backend.models.workers import WorkerState
from tests.support import executor_targets as targets
from tests.support.ray_cluster import LocalCluster, actor_pids, fleet_on, kill_actor
from tests.support.worker_suite import wait_until

pytestmark = pytest.mark.timeout(3600)

PER_KILL = 15
"""Jobs that end between two kills."""


class Ends:
    """Counts how often each of a row of jobs ends."""

    def __init__(self, executor: Executor[Any, Any], count: int) -> None:
        self._lock = threading.Lock()
        self.numbers: list[int] = []
        self.jobs = [executor.submit(("slow_echo", number)) for number in range(count)]
        for number, job in enumerate(self.jobs):
            job.future.add_done_callback(lambda _, number=number: self._note(number))

    def _note(self, number: int) -> None:
        with self._lock:
            self.numbers.append(number)

    def check(self) -> None:
        """Each has its answer, and has ended once."""
        assert [job.result() for job in self.jobs] == list(range(len(self.jobs)))
        assert sorted(self.numbers) == list(range(len(self.jobs)))
        assert all(job.attempts == 1 for job in self.jobs)  # no loss counts as a job's own fault


@pytest.fixture
def executor() -> Iterator[Executor[Any, Any]]:
    made: Executor[Any, Any] = Executor([], warm=True, max_attempts=1)
    yield made
    made.close()


def ready(executor: Executor[Any, Any], count: int) -> bool:
    states = [status.state for status in executor.statuses]
    return len(states) == count and all(state in (WorkerState.READY, WorkerState.BUSY) for state in states)


def some_actors() -> list[int]:
    """The processes of the actors that are there, once there are any: Ray begins those anew that were killed."""
    while not (pids := actor_pids()):
        time.sleep(0.02)
    return pids


def test_killed_actors_and_nodes_cost_no_job_and_double_none(
    cluster: LocalCluster, executor: Executor[Any, Any], pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("--ray-kills", 3)
    rng = random.Random(11)
    with fleet_on(cluster, executor, targets.commands) as fleet:
        wait_until(lambda: ready(executor, 2))
        ends = Ends(executor, PER_KILL * (kills + 1))
        for kill in range(kills):
            wait_until(lambda kill=kill: len(ends.numbers) >= kill * PER_KILL + rng.randrange(1, PER_KILL))
            if kill % 3 == 2:
                cluster.kill_node(rng.choice(cluster.nodes))
                cluster.add_node()
            else:
                kill_actor(rng.choice(some_actors()))
        ends.check()
        wait_until(lambda: ready(executor, 2))  # a node that came later has a worker, one that left has none
        assert fleet.status.problem == ""
        assert {activity.status.device for activity in executor.activities} == {"cpu"}


def test_a_lost_head_is_said_and_found_again(
    cluster: LocalCluster, executor: Executor[Any, Any], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    rng = random.Random(12)
    with fleet_on(cluster, executor, targets.commands, silence=5.0) as fleet:
        for kill in range(pytestconfig.getoption("--ray-head-kills", 1)):
            wait_until(lambda: ready(executor, 2))
            started, release = [tmp_path / f"{kill}-{n}" for n in range(2)], tmp_path / f"release-{kill}"
            held = [executor.submit(("wait_for", path, release)) for path in started]
            wait_until(lambda started=started: all(path.exists() for path in started))
            ends = Ends(executor, 20)
            if kill % 2:  # in the middle of the work of many, and not only while two are held
                release.touch()
                point = rng.randrange(len(ends.jobs))
                wait_until(lambda ends=ends, point=point: len(ends.numbers) >= point)
            cluster.kill_head()
            wait_until(lambda: fleet.status.state is ClusterState.LOST)
            assert "out of reach" in fleet.status.problem
            assert executor.statuses == []
            assert kill % 2 or not any(job.future.done() for job in held)
            cluster.kill_orphans()
            release.touch()
            cluster.start_head()
            for _ in range(2):
                cluster.add_node(wait=False)
            assert [job.result() for job in held] == ["released"] * 2
            ends.check()
            assert fleet.status.state is ClusterState.CONNECTED
