"""The worker that is an actor on a host of a Ray cluster, as the server sees it."""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol

from ml_backend.models.fleet.actor import ActorSetup
from ml_backend.models.fleet.messages import (
    CancelCall,
    LeftEvent,
    LinkCommand,
    LossReport,
    LostEvent,
    ReportEvent,
    RunCall,
    StartCall,
    StopCall,
    WorkerPlace,
    YieldCall,
)
from ml_backend.models.messages import (
    ErrorReport,
    FrameCountReport,
    JobReport,
    LoadFailureReport,
    ProgressReport,
    ReadyReport,
    RequestT,
    ResultReport,
    ResultT,
    RunCommand,
)
from ml_backend.models.workers import WorkerLostError, WorkerState, WorkerStatus
from ml_backend.models.workers.local import rebuild_error
from steerseg.errors import ConfigError, SteerSegError

_POLL = 0.25  # seconds between two looks for a shutdown

_calls = itertools.count(1)
"""Numbers of calls, which no two workers of a server share: an actor may tell late what a former one has asked."""

WorkerEvent = ReportEvent | LostEvent | LeftEvent


class Line(Protocol):
    """A line to the link, which may break."""

    def send(self, command: LinkCommand) -> None:
        """Send a command.

        Raises:
            OSError: The link is gone.
        """
        ...


class RayWorker(Generic[RequestT, ResultT]):
    """A worker on a host of a cluster; see :class:`~ml_backend.models.workers.Worker`.

    Args:
        line: Leads to it.
        place: Where it is.
        setup: What it works with.
        pack: Makes a request ready for another host.
        accepts: Whether it may be given a request.
    """

    def __init__(
        self,
        line: Line,
        place: WorkerPlace,
        setup: ActorSetup,
        *,
        pack: Callable[[RequestT], Any] = lambda request: request,
        accepts: Callable[[RequestT], bool] = lambda _: True,
    ) -> None:
        self._line = line
        self._place = place
        self._setup = setup
        self._pack = pack
        self._accepts = accepts
        self._events: queue.SimpleQueue[WorkerEvent] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._call = 0
        self._ready = False
        self._state = WorkerState.STOPPED
        self._error: str | None = None
        self._switched_off = ""
        self._restarts = 0

    @property
    def place(self) -> WorkerPlace:
        """Where it is."""
        return self._place

    @property
    def status(self) -> WorkerStatus:
        """How it stands; its process is another host's."""
        return WorkerStatus(
            state=self._state,
            pid=None,
            restarts=self._restarts,
            error=self._error,
            device=self._place.device,
            host=self._place.host,
            switched_off=self._switched_off,
        )

    def receive(self, event: WorkerEvent) -> None:
        """Take what the link tells about this worker; called from another thread."""
        self._events.put(event)

    def accepts(self, request: RequestT) -> bool:
        """See :meth:`Worker.accepts`."""
        return self._accepts(request)

    def reads_ahead(self, request: RequestT) -> bool:
        """None: media of what is upcoming may be on no other host yet."""
        return False

    def start(self) -> None:
        """See :meth:`Worker.start`."""
        if self._ready:
            return
        self._error, self._state = None, WorkerState.LOADING
        self._call = next(_calls)
        try:
            self._send(StartCall(self._place.id, self._call, pickle.dumps(self._setup)))
            match self._receive():
                case ReadyReport(switched_off=switched_off):
                    self._ready, self._state = True, WorkerState.READY
                    self._switched_off = switched_off
                case LoadFailureReport(error=error):
                    raise rebuild_error(error)
                case report:
                    raise AssertionError(f"a starting worker sent {report!r}")
        except (SteerSegError, WorkerLostError) as error:
            self._state, self._error = WorkerState.FAILED, str(error)
            raise

    def begin(
        self,
        job: int,
        request: RequestT,
        request_id: str,
        upcoming: tuple[RequestT, ...] = (),
        *,
        urgent: bool = False,
    ) -> None:
        """See :meth:`Worker.begin`; what is upcoming stays here."""
        if not self._accepts(request):
            raise _refusal(self._place.host)
        command = RunCommand(job, self._pack(request), request_id)
        self._call = next(_calls)
        self._send(RunCall(self._place.id, self._call, pickle.dumps(command, pickle.HIGHEST_PROTOCOL)))
        self._state = WorkerState.BUSY

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> ResultT:
        """See :meth:`Worker.outcome`."""
        while True:
            match self._receive():
                case ProgressReport() | FrameCountReport() as report:
                    on_report(report)
                case ResultReport(result=result):
                    self._state = WorkerState.READY
                    answer: ResultT = result
                    return answer
                case ErrorReport(error=error):
                    self._state = WorkerState.READY
                    raise rebuild_error(error)

    def cancel(self, job: int) -> None:
        """See :meth:`Worker.cancel`."""
        self._say(CancelCall(self._place.id, job))

    def request_yield(self, job: int) -> None:
        """See :meth:`Worker.request_yield`."""
        self._say(YieldCall(self._place.id, job))

    def check(self) -> None:
        """See :meth:`Worker.check`; the link tells by itself."""

    def interrupt(self) -> None:
        """See :meth:`Worker.interrupt`."""
        self._interrupted.set()

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        self._say(StopCall(self._place.id))
        self._ready, self._state = False, WorkerState.STOPPED

    def _say(self, command: LinkCommand) -> None:
        """Send what nobody waits for; where the link is gone, whoever waits for the job learns that."""
        try:
            self._line.send(command)
        except OSError:
            self._ready = False

    def _send(self, command: LinkCommand) -> None:
        try:
            self._line.send(command)
        except OSError as error:
            raise self._lost("the cluster is out of reach", blameless=True) from error

    def _receive(self) -> Any:
        """The next report on the present call.

        Raises:
            WorkerLostError: There will be none.
        """
        while True:
            if self._interrupted.is_set():
                self.stop()
                raise self._lost("the worker is not to be waited for any more", blameless=True)
            try:
                event = self._events.get(timeout=_POLL)
            except queue.Empty:
                continue
            match event:
                case LeftEvent(reason=reason):
                    raise self._lost(reason, blameless=True)
                case LostEvent(call=call, reason=reason) if call == self._call:
                    raise self._lost(reason, blameless=True)
                case ReportEvent(call=call, report=report) if call == self._call:
                    found = pickle.loads(report)
                    if isinstance(found, LossReport):
                        raise self._lost(found.reason, blameless=found.blameless)
                    return found

    def _lost(self, reason: str, *, blameless: bool) -> WorkerLostError:
        self._ready, self._state = False, WorkerState.STOPPED
        self._restarts += 1
        return WorkerLostError(reason, blameless=blameless)


def _refusal(host: str) -> SteerSegError:
    """The refusal of a request that needs the server's data folder on a host that does not see it."""
    return ConfigError(
        f"refinements need the server's data folder on the host that works on them, and {host} does not see it; mount "
        "it there under the same path (docs/fleet.md), or let the server work itself (STEERSEG_DEVICE)"
    )
