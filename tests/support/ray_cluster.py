"""A Ray cluster of several nodes on this machine, and the fleet of a server on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.logs import LoggingSetup
from ml_backend.models.executor import Executor
from ml_backend.models.fleet.actor import ActorSetup
from ml_backend.models.fleet.fleet import Fleet
from ml_backend.models.fleet.messages import ClusterPlan, WorkerPlace
from ml_backend.models.fleet.ray_worker import Line, RayWorker

_ROOT = Path(__file__).parents[2]
_MEMORY = 80 * 2**20  # of each node's object store; Ray takes no less

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(_ROOT),  # of the actors
    # A killed node is noticed after three looks that are refused, a second apart; a busy one has time to answer.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "120",
}


def require_ray() -> Any:
    """Ray, or a skipped test where it is not installed."""
    return pytest.importorskip("ray", reason="Ray is not installed: pip install '.[fleet]'")


class LocalCluster:
    """Nodes on this machine: a head without workers, and others with one worker each. Each may be killed.

    Args:
        nodes: Nodes beside the head.
    """

    def __init__(self, nodes: int) -> None:
        require_ray()
        # Ray's sockets have long names, and a socket's may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self._port = _free_port()
        # Ray notes the address of a cluster in the default folder, which is this one then.
        os.environ.update(_ENVIRONMENT, RAY_TMPDIR=self._folder)
        self._cluster: Any = None
        self.nodes: list[Any] = []
        self.start_head()
        for _ in range(nodes):
            self.add_node(wait=False)

    @property
    def address(self) -> str:
        """The head's."""
        return str(self._cluster.address)

    def start_head(self) -> None:
        """Begin a head, at the port where the one before was."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": _MEMORY,
                "include_dashboard": False,
                "gcs_server_port": self._port,
                "temp_dir": f"{self._folder}/ray",
            },
        )

    def add_node(self, *, wait: bool = True) -> Any:
        """Add a node with one core."""
        node = self._cluster.add_node(
            wait=wait, num_cpus=1, object_store_memory=_MEMORY, include_log_monitor=False
        )
        self.nodes.append(node)
        return node

    def kill_node(self, node: Any) -> None:
        """Kill a node with all that runs on it."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the head; the other nodes are orphans."""
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def kill_orphans(self) -> None:
        """Kill the nodes of the head that was killed, which Ray does by itself after a minute."""
        for node in self.nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self.nodes.clear()

    def close(self) -> None:
        """End all of it."""
        for node in self.nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        with contextlib.suppress(Exception):  # a cluster whose head was killed cannot be shut down
            self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def actor_pids() -> list[int]:
    """The processes of actors on this machine, as children of this one's raylets."""
    import psutil

    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if _title(child).startswith("ray::ModelActor")
    ]


def kill_actor(pid: int) -> None:
    """Kill an actor's process; it may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _title(process: Any) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def setup_of(factory: Callable[[], Any], stall_timeout: float = 300.0) -> ActorSetup:
    return ActorSetup(factory, None, stall_timeout, LoggingSetup("WARNING", process="models"))


def plan_for(cluster: LocalCluster) -> ClusterPlan:
    return ClusterPlan(
        cluster.address, worker_cpus=1, version="", preset="", shared=Path("/nowhere"), shared_word="x"
    )


@contextlib.contextmanager
def fleet_on(
    cluster: LocalCluster,
    executor: Executor[Any, Any],
    factory: Callable[[], Any],
    *,
    silence: float = 20.0,
    keep: Callable[[RayWorker[Any, Any]], None] = lambda _: None,
) -> Iterator[Fleet]:
    """The fleet of an executor on a cluster, whose workers build one handler each."""

    def make(line: Line, place: WorkerPlace) -> RayWorker[Any, Any]:
        worker: RayWorker[Any, Any] = RayWorker(line, place, setup_of(factory))
        keep(worker)
        return worker

    fleet = Fleet(
        plan_for(cluster),
        executor,
        make,
        logging_setup=LoggingSetup("WARNING", process="cluster"),
        silence=silence,
    )
    fleet.start()
    try:
        yield fleet
    finally:
        fleet.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
