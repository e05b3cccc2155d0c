"""The link: the process that is the cluster's driver. It alone imports Ray.

It puts actors on the devices of each node, tells the server which of them may be given work, and passes what they are
asked and what they report. Where Ray ends it, since the head is lost, the server begins another one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from ml_backend.logs import LoggingSetup
from ml_backend.models.fleet.actor import ModelActor
from ml_backend.models.fleet.messages import (
    ActorFacts,
    CancelCall,
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
    RunCall,
    StartCall,
    StopCall,
    WorkerPlace,
    YieldCall,
)
from ml_backend.models.process import receive, send

log = logging.getLogger(__name__)

_TURN = 1.0  # seconds between two looks at the nodes
_RESTART = 30.0  # seconds that Ray has to begin a lost actor anew, before its loss is told
_ASK_AGAIN = 60.0  # seconds after which a host that lacked something is looked at again
_STARTING = 60.0  # seconds in which an actor comes up where its device is free
_PAUSE = 0.5  # seconds between two attempts meanwhile
_UNHEARD = "the host does not reach the server's (Ray needs all ports between both)"
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


@dataclass
class _Hand:
    """An actor, as the link knows it."""

    actor: Any
    place: WorkerPlace
    facts: Any  # where what it says of its host arrives
    joined: bool = False
    problem: str = ""
    engaged_at: float = field(default_factory=time.monotonic)
    refused_at: float | None = None  # when its host turned out to lack something
    died: str = ""  # how, where Ray begins it anew no more
    gone: threading.Event = field(default_factory=threading.Event)


def run_link(pipe: Connection, plan: ClusterPlan, logging_setup: LoggingSetup) -> None:
    """Be the link until the server closes the pipe, or Ray ends the process.

    Args:
        pipe: Where commands come from and events go to.
        plan: Which cluster, and which workers.
        logging_setup: Configures logging.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging_setup.apply()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        send(
            pipe,
            RefusedEvent("Ray is not installed; install it with pip install '.[fleet]' in the source folder"),
        )
        return
    try:
        ray.init(plan.address, log_to_driver=False, logging_level=logging.WARNING, namespace="steerseg")
    except Exception as error:  # Ray has no common type for what may be wrong
        send(pipe, RefusedEvent(_first_line(error)))
        return
    send(pipe, ConnectedEvent(plan.address))
    ClusterLink(pipe, plan, ray).run()


class ClusterLink:
    """The driver of a cluster.

    Args:
        pipe: Where commands come from and events go to.
        plan: Which workers.
        ray: The module; it is connected.
    """

    def __init__(self, pipe: Connection, plan: ClusterPlan, ray: Any) -> None:
        self._pipe = pipe
        self._plan = plan
        self._ray = ray
        self._send_lock = threading.Lock()
        self._hands: dict[str, _Hand] = {}
        self._numbers: dict[str, int] = {}
        self._actor = ray.remote(concurrency_groups={"control": 1}, max_restarts=-1, max_task_retries=0)(
            ModelActor
        )

    def run(self) -> None:
        """Pass commands and events until the server is gone."""
        threading.Thread(target=self._watch_nodes, daemon=True).start()
        while True:
            try:
                command: LinkCommand = receive(self._pipe)
            except (EOFError, OSError):
                os._exit(0)  # Ray ends the actors of a driver that is gone
            self._obey(command)

    def _obey(self, command: LinkCommand) -> None:
        hand = self._hands.get(command.worker)
        match command:
            case StartCall() | RunCall() if hand is None:
                self._tell(LostEvent(command.worker, command.call, "its node has left the cluster"))
            case StartCall():
                threading.Thread(target=self._start, args=(hand, command), daemon=True).start()
            case RunCall():
                threading.Thread(target=self._run, args=(hand, command), daemon=True).start()
            case _ if hand is None:
                return
            case CancelCall(job=job):
                _control(hand.actor.cancel).remote(job)
            case YieldCall(job=job):
                _control(hand.actor.request_yield).remote(job)
            case StopCall():
                _control(hand.actor.interrupt).remote()
                hand.actor.end.remote()

    # --- the work

    def _start(self, hand: _Hand, call: StartCall) -> None:
        """Have models loaded; an actor that Ray is about to begin anew is waited for."""
        deadline = time.monotonic() + _RESTART
        while True:
            try:
                report = self._ray.get(hand.actor.start.remote(call.setup))
            except Exception as error:
                restarting = isinstance(error, self._ray.exceptions.ActorUnavailableError)
                if restarting and time.monotonic() < deadline and not hand.gone.wait(_PAUSE):
                    continue
                self._tell_loss(hand, call, error)
            else:
                self._tell(ReportEvent(hand.place.id, call.call, report))
            return

    def _run(self, hand: _Hand, call: RunCall) -> None:
        try:
            stream = hand.actor.run.options(num_returns="streaming").remote(call.command)
            for report in stream:
                self._tell(ReportEvent(hand.place.id, call.call, self._ray.get(report)))
        except Exception as error:
            self._tell_loss(hand, call, error)

    def _tell_loss(self, hand: _Hand, call: StartCall | RunCall, error: Exception) -> None:
        reason = f"the worker on {hand.place.host} was lost ({_first_line(error)})"
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            hand.died = reason
        self._tell(LostEvent(hand.place.id, call.call, reason))

    def _tell(self, event: LinkEvent) -> None:
        with self._send_lock:
            try:
                send(self._pipe, event)
            except OSError:
                os._exit(0)  # the server is gone

    # --- nodes and their workers

    def _watch_nodes(self) -> None:
        try:
            while True:
                nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
                for hand in list(self._hands.values()):
                    if hand.place.node not in nodes:
                        self._bury(hand, f"the node {hand.place.host} has left the cluster")
                    elif hand.died:
                        self._bury(hand, hand.died)
                    elif hand.refused_at is not None and time.monotonic() > hand.refused_at + _ASK_AGAIN:
                        self._ray.kill(hand.actor)
                        self._bury(hand, "its host was refused")
                statuses = [self._tend(node) for node in nodes.values()]
                self._tell(NodesEvent(tuple(statuses)))
                time.sleep(_TURN)
        except Exception as error:  # without it nobody would see nodes come and go
            log.exception("the nodes of the cluster cannot be watched")
            self._tell(RefusedEvent(_first_line(error)))
            os._exit(1)

    def _bury(self, hand: _Hand, reason: str) -> None:
        """Forget an actor; another one takes its place where its node is there."""
        del self._hands[hand.place.id]
        hand.gone.set()
        if hand.joined:
            self._tell(LeftEvent(hand.place.id, reason))

    def _tend(self, node: dict[str, Any]) -> NodeStatus:
        """Have the node's workers there."""
        number, resources = node["NodeID"], node["Resources"]
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        each = self._plan.worker_cpus
        wanted = gpus or (cpus // each if each else 0)
        present = [hand for hand in self._hands.values() if hand.place.node == number]
        for _ in range(wanted - len(present)):
            present.append(self._engage(node, on_gpu=gpus > 0))
        for hand in present:
            if hand.joined:
                _control(hand.actor.beat).remote()
            else:
                self._greet(hand)
        joined = sum(hand.joined for hand in present)
        problem = next((hand.problem for hand in present if hand.problem), "")
        return NodeStatus(
            number,
            node["NodeManagerHostname"],
            node["NodeManagerAddress"],
            gpus,
            cpus,
            joined,
            wanted,
            problem,
        )

    def _engage(self, node: dict[str, Any], *, on_gpu: bool) -> _Hand:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        number = node["NodeID"]
        count = self._numbers[number] = self._numbers.get(number, 0) + 1
        device = {"num_gpus": 1} if on_gpu else {"num_cpus": self._plan.worker_cpus}
        actor = self._actor.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(number, soft=False), **device
        ).remote(self._plan, on_gpu)
        place = WorkerPlace(
            id=f"{number[:12]}-{count}",
            node=number,
            host=node["NodeManagerHostname"],
            device="cuda" if on_gpu else "cpu",
            cpus=0 if on_gpu else self._plan.worker_cpus,
            sees_data=False,
        )
        # As a stream, as each job's reports are: an actor whose reports do not arrive is to be given no job.
        facts = actor.facts.options(concurrency_group="control", num_returns="streaming").remote()
        hand = self._hands[place.id] = _Hand(actor, place, facts)
        return hand

    def _greet(self, hand: _Hand) -> None:
        """Let the server give an actor work, once it has come up and its host has what it needs."""
        if hand.facts is None:
            return
        ready, _ = self._ray.wait([hand.facts], timeout=0)
        if not ready:
            if time.monotonic() > hand.engaged_at + _STARTING:
                hand.problem = (
                    f"a worker has not come up; other work on the cluster may have its device, or {_UNHEARD}"
                )
            return
        try:
            facts: ActorFacts = self._ray.get(next(hand.facts))
        except Exception as error:
            reason = _first_line(error)
            if isinstance(error, self._ray.exceptions.ActorUnavailableError):
                reason += f"; perhaps {_UNHEARD}"
            log.error("a worker on %s could not be started: %s", hand.place.host, reason)
            hand.problem, hand.facts = f"the worker could not be started: {reason}", None
            hand.refused_at = time.monotonic()
            return
        hand.facts, hand.problem = None, facts.error
        if not facts.error and facts.version != self._plan.version:
            hand.problem = (
                f"the host has {facts.version}, the server {self._plan.version}: install the same there"
            )
        if hand.problem:
            hand.refused_at = time.monotonic()
            return
        place = hand.place
        hand.place = WorkerPlace(place.id, place.node, place.host, place.device, place.cpus, facts.sees_data)
        hand.joined = True
        self._tell(JoinedEvent(hand.place))


def _control(method: Any) -> Any:
    """An actor's method, to be called in the thread that does not work."""
    return method.options(concurrency_group="control")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
