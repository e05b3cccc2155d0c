"""The actor on a host of the cluster: it owns a model process, and has media and soft prompts there before it works.

It holds no model itself: to cancel a job, and to end one that hangs, it must be able to listen. Ray calls its methods
in two threads, one for the work and one for what is said about it meanwhile.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ml_backend.logs import LoggingSetup, request_scope
from ml_backend.models.fingerprint import preset_version
from ml_backend.models.fleet.messages import (
    ActorFacts,
    ClusterPlan,
    LossReport,
    MediaSource,
    PackedRequest,
    details_of,
)
from ml_backend.models.fleet.node_files import NodeFiles
from ml_backend.models.messages import ErrorReport, LoadFailureReport, ReadyReport, RunCommand
from ml_backend.models.process import Handler
from ml_backend.models.workers import ProcessWorker, WorkerLostError
from steerseg.errors import Cancelled, SteerSegError

log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds without a sign of the server after which an actor ends its work: another one may have begun the same."""


@dataclass(frozen=True)
class ActorSetup:
    """What an actor works with.

    Attributes:
        factory: Builds the handler in the model process.
        source: Where media come from; ``None`` where requests bring none.
        stall_timeout: Seconds without a report after which a busy model process counts as dead.
        logging_setup: Configures logging, of the actor and of the model process.
    """

    factory: Callable[[], Handler[Any, Any]]
    source: MediaSource | None
    stall_timeout: float
    logging_setup: LoggingSetup


class ModelActor:
    """A worker on a host of the cluster.

    Args:
        plan: What the server asks of each host.
        on_gpu: Whether it has a GPU.
    """

    def __init__(self, plan: ClusterPlan, on_gpu: bool) -> None:
        if on_gpu:
            # Ray sets it to 1 for whatever asks for no cores; the models' work between two kernels needs more.
            os.environ.pop("OMP_NUM_THREADS", None)
        self._plan = plan
        self._worker: ProcessWorker[Any, Any] | None = None
        self._files: NodeFiles | None = None
        self._cancelled: set[int] = set()
        self._beat_at = time.monotonic()
        threading.Thread(target=self._watch_lease, daemon=True).start()

    # --- the work, in one thread

    def start(self, setup: bytes) -> bytes:
        """Have loaded models.

        Args:
            setup: A pickled :class:`ActorSetup`.

        Returns:
            A pickled report: ready, failed to load, or lost.
        """
        given: ActorSetup = pickle.loads(setup)
        self.end()
        given.logging_setup.apply()
        self._files = None if given.source is None else NodeFiles(given.source)
        self._worker = ProcessWorker(
            given.factory, stall_timeout=given.stall_timeout, logging_setup=given.logging_setup
        )
        try:
            self._worker.start()
        except WorkerLostError as loss:
            return pickle.dumps(LossReport(str(loss), loss.blameless))
        except SteerSegError as error:
            return pickle.dumps(LoadFailureReport(details_of(error)))
        return pickle.dumps(ReadyReport(self._worker.status.switched_off))

    def run(self, command: bytes) -> Iterator[bytes]:
        """Answer a request.

        Args:
            command: A pickled :class:`~ml_backend.models.messages.RunCommand`.

        Yields:
            Pickled reports as they come; the last one is the result, an error, or the loss of the model process.
        """
        given: RunCommand[Any] = pickle.loads(command)
        worker = self._worker
        if worker is None:
            yield pickle.dumps(LossReport("the worker was started anew while it was idle", blameless=True))
            return
        try:
            with request_scope(given.request_id):
                yield from self._run(worker, given)
        except WorkerLostError as loss:
            yield pickle.dumps(LossReport(str(loss), loss.blameless))
        except SteerSegError as error:
            yield pickle.dumps(ErrorReport(given.job, details_of(error)))
        finally:
            self._cancelled.discard(given.job)

    def _run(self, worker: ProcessWorker[Any, Any], given: RunCommand[Any]) -> Iterator[bytes]:
        worker.check()
        if worker.status.pid is None:
            raise WorkerLostError("the model process died while it was idle", blameless=True)
        if not isinstance(given.request, PackedRequest):
            yield from self._answer(worker, given.job, given.request, given.request_id)
            return
        if self._files is None:
            raise AssertionError("a packed request came to an actor without a source of media")

        def go_on() -> None:
            if given.job in self._cancelled:
                raise Cancelled("cancelled while its media were fetched")

        with self._files.lend(given.request, go_on) as request:
            yield from self._answer(worker, given.job, request, given.request_id)

    def _answer(
        self, worker: ProcessWorker[Any, Any], job: int, request: Any, request_id: str
    ) -> Iterator[bytes]:
        worker.begin(job, request, request_id)
        for report in worker.follow(job):
            yield pickle.dumps(report, protocol=pickle.HIGHEST_PROTOCOL)

    def end(self) -> None:
        """End the model process, if there is one."""
        if self._worker is not None:
            self._worker.stop()
        self._worker = None

    # --- what is said meanwhile, in another thread

    def facts(self) -> Iterator[ActorFacts]:
        """Yields what the host has, once."""
        version = error = ""
        try:
            version = preset_version(self._plan.preset) if self._plan.version else ""
        except SteerSegError as refusal:
            error = str(refusal)
        try:
            sees_data = self._plan.shared.read_text(encoding="utf-8") == self._plan.shared_word
        except (OSError, ValueError):
            sees_data = False
        yield ActorFacts(version, error, sees_data)

    def beat(self) -> None:
        """Note that the server is there."""
        self._beat_at = time.monotonic()

    def cancel(self, job: int) -> None:
        """Ask for the end of a job."""
        self._cancelled.add(job)
        worker = self._worker
        if worker is not None:
            worker.cancel(job)

    def request_yield(self, job: int) -> None:
        """Ask a job to make way."""
        worker = self._worker
        if worker is not None:
            worker.request_yield(job)

    def interrupt(self) -> None:
        """Let the model process end, whatever it does."""
        worker = self._worker
        if worker is not None:
            worker.interrupt()

    def _watch_lease(self) -> None:
        while time.monotonic() - self._beat_at < LEASE:
            time.sleep(1.0)
        log.error("no sign of the server for %.0f s: this worker ends", LEASE)
        os._exit(1)  # Ray begins it anew where the server is there after all
