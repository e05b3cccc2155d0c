"""The main program of a model process: build the handler, then answer one request after the other."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from ml_backend.logs import LoggingSetup, request_scope
from ml_backend.models.messages import (
    CancelCommand,
    ErrorDetails,
    ErrorReport,
    FrameCountReport,
    LoadFailureReport,
    ProgressReport,
    ReadyReport,
    RequestT,
    ResultReport,
    ResultT,
    RunCommand,
    WorkerCommand,
    YieldCommand,
)
from ml_backend.models.reporter import Reporter
from steerseg.errors import Cancelled, SteerSegError

log = logging.getLogger(__name__)

# Progress of one stage crosses the pipe at most this often, in seconds.
_PROGRESS_INTERVAL = 0.1

# A free process is given what waits at once. After so many seconds without a command, nothing waits for it.
_IDLE = 1.0

# The server's threads go first: it has to answer within a second while this process uses every core.
_NICENESS = 5

Request_contra = TypeVar("Request_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class ProcessLostError(Exception):
    """A handler's process can do no more work. It ends, and the request is tried again in a new one."""


class Handler(Protocol[Request_contra, Result_co]):
    """Answers requests in a worker. Built once per process; holds the models."""

    def __call__(self, request: Request_contra, reporter: Reporter) -> Result_co:
        """Answer one request.

        Args:
            request: What to do; picklable.
            reporter: To be called often. Work that can make way looks at its ``should_yield`` between its steps.

        Raises:
            SteerSegError: Crosses to the caller with its type and message.
            ProcessLostError: See there.
        """
        ...


@runtime_checkable
class Reducible(Protocol):
    """A handler that may have to do without a part of what its preset asks for."""

    @property
    def switched_off(self) -> str:
        """What that is and why, for a person; empty where it has all."""
        ...


@runtime_checkable
class ReadsAhead(Protocol[Request_contra]):
    """A handler that can read the video of a request while it answers another one."""

    def read_ahead(
        self, request: Request_contra | None, upcoming: Sequence[Request_contra], *, urgent: bool = False
    ) -> None:
        """Begin to read what is upcoming, in a thread of its own; returns at once.

        What was read ahead for none of these need not be kept any more.

        Args:
            request: What is answered now; ``None`` where nothing is.
            upcoming: What is probably asked next, soonest first. It may never be asked.
            urgent: Whether a person waits, so that nothing is done for what is upcoming that takes from ``request``.
        """
        ...


def send(pipe: Connection, message: object) -> None:
    """Send one message, such as a command or a report, to the other end of the pipe.

    Raises:
        OSError: The other end is gone.
    """
    # Not `pipe.send`: torch teaches that to pass tensors as shared memory, which dies with its process.
    pipe.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def receive(pipe: Connection) -> Any:
    """Wait for the next message from the other end of the pipe.

    Raises:
        EOFError: The other end is closed.
        OSError: The other end is gone.
    """
    return pickle.loads(pipe.recv_bytes())


def run_process(
    pipe: Connection, factory: Callable[[], Handler[RequestT, ResultT]], logging_setup: LoggingSetup
) -> None:
    """Be a model process until the pipe closes.

    Args:
        pipe: Where commands come from and reports go to.
        factory: Builds the handler, which may take as long as loading models takes.
        logging_setup: Configures logging.
    """
    # Ctrl-C reaches the whole foreground group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    os.nice(_NICENESS)
    logging_setup.apply()
    inbox: _Inbox[RequestT] = _Inbox(pipe)
    threading.Thread(target=inbox.listen, daemon=True).start()
    try:
        handler = factory()
    except Exception as error:
        send(pipe, LoadFailureReport(_describe(error, "loading the models")))
        return
    send(pipe, ReadyReport(handler.switched_off if isinstance(handler, Reducible) else ""))
    while True:
        command = _next_command(inbox, handler)
        if isinstance(handler, ReadsAhead):
            handler.read_ahead(command.request, command.upcoming, urgent=command.urgent)
        with request_scope(command.request_id):
            report = _answer(handler, command, _PipeReporter(pipe, command.job, inbox))
        inbox.forget(command.job)
        try:
            send(pipe, report)
        except OSError:
            return  # the server is gone
        except Exception as error:  # the result does not pickle: nothing was sent yet
            send(pipe, ErrorReport(command.job, _describe(error, "sending the result")))


def _next_command(inbox: _Inbox[RequestT], handler: Handler[RequestT, ResultT]) -> RunCommand[RequestT]:
    """Wait for a command. Where none comes soon, another worker has what was read ahead for."""
    try:
        return inbox.commands.get(timeout=_IDLE)
    except queue.Empty:
        if isinstance(handler, ReadsAhead):
            handler.read_ahead(None, ())
        return inbox.commands.get()


def _answer(
    handler: Handler[RequestT, ResultT], command: RunCommand[RequestT], reporter: Reporter
) -> ResultReport[ResultT] | ErrorReport:
    try:
        return ResultReport(command.job, handler(command.request, reporter))
    except ProcessLostError as error:
        log.error("this process ends: %s", error, exc_info=error.__cause__)
        os._exit(1)  # tearing down what is broken may hang
    except Exception as error:
        return ErrorReport(command.job, _describe(error, "working on the request"))


class _Inbox(Generic[RequestT]):
    """The commands of the server, sorted.

    Attributes:
        commands: Requests to run.
        cancelled: Numbers of jobs that are to end.
        yielding: Numbers of jobs that are to make way.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.commands: queue.SimpleQueue[RunCommand[RequestT]] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.yielding: set[int] = set()

    def listen(self) -> None:
        """Sort what comes; end the process at once when the server is gone, whatever it is doing."""
        while True:
            try:
                command: WorkerCommand[RequestT] = receive(self._pipe)
            except (EOFError, OSError):
                os._exit(0)  # nothing here needs to be put in order, and tearing down torch takes seconds
            except Exception:
                log.exception("a request could not be read")
                os._exit(1)
            match command:
                case RunCommand():
                    self.commands.put(command)
                case CancelCommand(job=job):
                    self.cancelled.add(job)
                case YieldCommand(job=job):
                    self.yielding.add(job)

    def forget(self, job: int) -> None:
        """Drop the commands about a job that has ended."""
        self.cancelled.discard(job)
        self.yielding.discard(job)


class _PipeReporter:
    """Reports on one job through the pipe."""

    def __init__(self, pipe: Connection, job: int, inbox: _Inbox[Any]) -> None:
        self._pipe = pipe
        self._job = job
        self._inbox = inbox
        self._stage: str | None = None
        self._time = 0.0

    @property
    def should_yield(self) -> bool:
        return self._job in self._inbox.yielding

    def frames(self, count: int) -> None:
        send(self._pipe, FrameCountReport(self._job, count))

    def progress(self, stage: str, fraction: float) -> None:
        if self._job in self._inbox.cancelled:
            raise Cancelled(f"cancelled during {stage}")
        now = time.monotonic()
        if stage != self._stage or fraction >= 1.0 or now - self._time >= _PROGRESS_INTERVAL:
            self._stage, self._time = stage, now
            send(self._pipe, ProgressReport(self._job, stage, min(max(float(fraction), 0.0), 1.0)))


def _describe(error: Exception, doing: str) -> ErrorDetails:
    """An error for the server; the details of an unexpected one stay in this process's log."""
    if isinstance(error, SteerSegError):
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == SteerSegError.__module__)
        if not isinstance(error, Cancelled):
            log.warning("%s while %s: %s", type(error).__name__, doing, error, exc_info=error.__cause__)
        return ErrorDetails(kind, str(error))
    log.error("unexpected %s while %s", type(error).__name__, doing, exc_info=error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ErrorDetails("ModelError", f"out of memory while {doing}; try a shorter or smaller video")
    return ErrorDetails(
        "ModelError",
        f"unexpected {type(error).__name__} while {doing}; the server's log has the details",
    )
