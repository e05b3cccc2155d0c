"""The server's side of a cluster: it keeps a link to it, and has the executor use the workers that are there."""

from __future__ import annotations

import enum
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from ml_backend.logs import LoggingSetup
from ml_backend.models.executor import Executor
from ml_backend.models.fleet.link import run_link
from ml_backend.models.fleet.messages import (
    ClusterPlan,
    ConnectedEvent,
    JoinedEvent,
    LeftEvent,
    LinkCommand,
    LinkEvent,
    LostEvent,
    NodesEvent,
    NodeStatus,
    RefusedEvent,
    ReportEvent,
    WorkerPlace,
)
from ml_backend.models.fleet.ray_worker import Line, RayWorker
from ml_backend.models.fleet.shared_media import SharedMedia
from ml_backend.models.process import receive, send

log = logging.getLogger(__name__)

_PAUSE = 3.0  # seconds between the end of a link and the next one
_JOINING = 120.0  # seconds that Ray may take to join, or refuse to
_POLL = 0.25

MakeWorker = Callable[[Line, WorkerPlace], RayWorker[Any, Any]]


class ClusterState(enum.StrEnum):
    """The state of the server's link to the cluster."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    LOST = "lost"


@dataclass(frozen=True)
class FleetStatus:
    """A cluster as ``/health`` and the pages show it.

    Attributes:
        address: As the settings name it.
        state: Of the link to it.
        reason: Why it is lost; empty otherwise.
        nodes: Its nodes; empty while there is no link.
    """

    address: str
    state: ClusterState
    reason: str
    nodes: tuple[NodeStatus, ...]

    @property
    def problem(self) -> str:
        """What is amiss, for a person; empty for nothing."""
        if self.state is ClusterState.LOST:
            return f"the cluster {self.address} is out of reach ({self.reason}); jobs wait, and it is asked again"
        amiss = [f"{node.host}: {node.problem}" for node in self.nodes if node.problem]
        if amiss:
            return "; ".join(amiss)
        if (
            self.state is ClusterState.CONNECTED
            and self.nodes
            and not any(node.wanted for node in self.nodes)
        ):
            return (
                f"no node of the cluster {self.address} has a GPU, so none has a worker; STEERSEG_CLUSTER_WORKER_CPUS "
                "asks for workers on cores"
            )
        return ""


class Fleet:
    """Keeps a link to a cluster, and gives its workers to an executor.

    Args:
        plan: Which cluster, and which workers.
        executor: Uses the workers.
        make_worker: Makes the worker of a place.
        media: What hosts get media from; ``None`` where requests bring none.
        logging_setup: Configures logging in the link.
        silence: Seconds without a sign of the head after which it counts as lost.
    """

    def __init__(
        self,
        plan: ClusterPlan,
        executor: Executor[Any, Any],
        make_worker: MakeWorker,
        *,
        media: SharedMedia | None = None,
        logging_setup: LoggingSetup | None = None,
        silence: float = 20.0,
    ) -> None:
        self._plan = plan
        self._executor = executor
        self._make_worker = make_worker
        self.media = media
        self._logging_setup = logging_setup or LoggingSetup(process="cluster")
        self._silence = silence
        self._context = multiprocessing.get_context("spawn")
        self._closing = threading.Event()
        self._workers: dict[str, tuple[int, RayWorker[Any, Any]]] = {}
        self._nodes: tuple[NodeStatus, ...] = ()
        self._state, self._reason = ClusterState.CONNECTING, ""
        self._process: BaseProcess | None = None
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    @property
    def status(self) -> FleetStatus:
        """How the cluster stands."""
        return FleetStatus(self._plan.address, self._state, self._reason, self._nodes)

    def start(self) -> None:
        """Begin to join the cluster."""
        self._thread.start()

    def close(self) -> None:
        """Leave the cluster, which ends its actors. May be repeated."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    # --- the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                reason = self._follow_link()
            except Exception:  # this thread brings every later worker
                log.exception("the link to the cluster failed")
                reason = "an unexpected fault; the server's log has the details"
            self._lose(reason)
            self._closing.wait(_PAUSE)

    def _follow_link(self) -> str:
        """Begin a link and take in what it tells, until it ends; return why."""
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=run_link,
            args=(there, self._plan, self._logging_setup),
            name="steerseg-cluster",
            daemon=True,
        )
        process.start()
        there.close()
        self._process = process
        line = _PipeLine(here)
        try:
            return self._listen(here, line, process)
        finally:
            line.close()  # the link ends itself when its pipe closes
            process.join(2.0)
            if process.is_alive():
                process.kill()
                process.join(2.0)
            self._process = None

    def _listen(self, pipe: Connection, line: Line, process: BaseProcess) -> str:
        deadline = time.monotonic() + _JOINING
        while not self._closing.is_set():
            if not pipe.poll(_POLL):
                if time.monotonic() > deadline:
                    return "its head does not answer"
                if not process.is_alive() and not pipe.poll(0):
                    return f"Ray ended the link, with exit code {process.exitcode}"
                continue
            try:
                event: LinkEvent = receive(pipe)
            except (EOFError, OSError):
                process.join(2.0)
                return f"Ray ended the link, with exit code {process.exitcode}"
            if isinstance(event, RefusedEvent):
                return event.reason
            if isinstance(event, ConnectedEvent | NodesEvent):
                deadline = time.monotonic() + self._silence
            self._take_in(event, line)
        return "the server is stopping"

    def _take_in(self, event: LinkEvent, line: Line) -> None:
        match event:
            case ConnectedEvent(address=address):
                log.info("joined the cluster %s", address)
            case NodesEvent(nodes=nodes):
                self._nodes, self._state, self._reason = nodes, ClusterState.CONNECTED, ""
            case JoinedEvent(place=place):
                worker = self._make_worker(line, place)
                self._workers[place.id] = (self._executor.add(worker), worker)
                log.info("a worker joined on %s (%s)", place.host, place.device)
            case LeftEvent(worker=name, reason=reason):
                self._drop(name, event)
                log.warning("a worker left: %s", reason)
            case ReportEvent(worker=name) | LostEvent(worker=name):
                if name in self._workers:
                    self._workers[name][1].receive(event)

    def _drop(self, name: str, event: LeftEvent) -> None:
        index, worker = self._workers.pop(name)
        worker.receive(event)
        self._executor.remove(index)

    def _lose(self, reason: str) -> None:
        for name in list(self._workers):
            self._drop(name, LeftEvent(name, f"the cluster is out of reach ({reason})"))
        if not self._closing.is_set():
            if reason != self._reason:
                log.error("the cluster %s is out of reach: %s", self._plan.address, reason)
            self._state, self._reason, self._nodes = ClusterState.LOST, reason, ()


class _PipeLine:
    """A line to one link."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, command: LinkCommand) -> None:
        """See :meth:`Line.send`."""
        with self._lock:
            send(self._pipe, command)

    def close(self) -> None:
        """Let the link end."""
        with self._lock:
            self._pipe.close()
