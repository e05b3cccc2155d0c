"""The worker on this machine: a spawned process that owns a device and its models."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic

import steerseg.errors
from ml_backend.logs import LoggingSetup
from ml_backend.models.messages import (
    CancelCommand,
    ErrorDetails,
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
    WorkerCommand,
    WorkerReport,
    YieldCommand,
)
from ml_backend.models.process import Handler, receive, run_process, send
from ml_backend.models.workers.worker import WorkerLostError, WorkerState, WorkerStatus
from steerseg.errors import ModelError, SteerSegError

log = logging.getLogger(__name__)

# How often one looks up from the pipe for a shutdown or a stall, in seconds.
_POLL = 0.25

# Threads of a model that wait for each other sleep, in place of spinning: on a machine whose cores are shared,
# with Label Studio for instance, spinning makes everything several times slower, the model itself included.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

# torch reads all of them. Segments of a GPU's memory that grow leave no gaps between them: where a card is nearly
# full, the allocator would else give everything back that it holds, again and again, which takes seconds.
_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ALLOCATOR = "expandable_segments:True"

_LOGGING = LoggingSetup(process="models")


class ProcessWorker(Generic[RequestT, ResultT]):
    """A worker that is a spawned process on this machine; see :class:`~ml_backend.models.workers.Worker`.

    Args:
        factory: Picklable; builds the process's handler. It runs inside the process and may take as long as
            loading models takes.
        stall_timeout: Seconds without a report after which a busy process counts as dead.
        logging_setup: Configures logging inside the process; picklable.
        device: Where the models run, for whoever looks at its status.
        reads_ahead: Whether the handler reads ahead for a request that is upcoming.
    """

    def __init__(
        self,
        factory: Callable[[], Handler[RequestT, ResultT]],
        *,
        stall_timeout: float = 1800.0,
        logging_setup: LoggingSetup = _LOGGING,
        device: str = "",
        reads_ahead: Callable[[RequestT], bool] = lambda _: False,
    ) -> None:
        self._factory = factory
        self._stall_timeout = stall_timeout
        self._logging_setup = logging_setup
        self._device = device
        self._reads_ahead = reads_ahead
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._send_lock = threading.Lock()
        self._interrupted = threading.Event()
        self._state = WorkerState.STOPPED
        self._error: str | None = None
        self._switched_off = ""
        self._restarts = 0

    @property
    def status(self) -> WorkerStatus:
        """How it stands."""
        process = self._process
        return WorkerStatus(
            state=self._state,
            pid=None if process is None else process.pid,
            restarts=self._restarts,
            error=self._error,
            device=self._device,
            switched_off=self._switched_off,
        )

    def accepts(self, request: RequestT) -> bool:
        """Every request: it sees what the server sees."""
        return True

    def reads_ahead(self, request: RequestT) -> bool:
        """See :meth:`Worker.reads_ahead`."""
        return self._reads_ahead(request)

    def start(self) -> None:
        """See :meth:`Worker.start`."""
        self.check()
        if self._process is not None:
            return
        self._error = None
        began = time.monotonic()
        try:
            self._spawn()
            self._await_models()
        except (SteerSegError, WorkerLostError) as error:
            self._state, self._error = WorkerState.FAILED, str(error)
            raise
        self._state = WorkerState.READY
        log.info("the model process is ready after %.0f s", time.monotonic() - began)

    def begin(
        self,
        job: int,
        request: RequestT,
        request_id: str,
        upcoming: tuple[RequestT, ...] = (),
        *,
        urgent: bool = False,
    ) -> None:
        """See :meth:`Worker.begin`."""
        self._state = WorkerState.BUSY
        try:
            self._send(RunCommand(job, request, request_id, upcoming, urgent))
        except OSError as error:
            raise self._loss() from error
        except BaseException:  # it does not pickle: nothing was sent
            self._state = WorkerState.READY
            raise

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> ResultT:
        """See :meth:`Worker.outcome`."""
        for report in self.follow(job):
            match report:
                case ProgressReport() | FrameCountReport():
                    on_report(report)
                case ResultReport(result=result):
                    return result
                case ErrorReport(error=error):
                    raise rebuild_error(error)
        raise AssertionError("a job's reports end with its result or its error")

    def follow(self, job: int) -> Iterator[JobReport | ResultReport[ResultT] | ErrorReport]:
        """The reports on the job that was begun, as they come; the last one is its result or its error.

        Args:
            job: Number of the job.

        Raises:
            WorkerLostError: See :meth:`Worker.outcome`.
        """
        while True:
            match self._receive():
                case ProgressReport() | FrameCountReport() as report if report.job == job:
                    yield report
                case ResultReport() | ErrorReport() as end if end.job == job:
                    self._state = WorkerState.READY
                    yield end
                    return

    def cancel(self, job: int) -> None:
        """See :meth:`Worker.cancel`."""
        try:
            self._send(CancelCommand(job))
        except OSError:
            # The process has just died: whoever waits for the job learns that, and sees that it was cancelled.
            log.debug("no process is left to cancel job %d", job)

    def request_yield(self, job: int) -> None:
        """See :meth:`Worker.request_yield`."""
        try:
            self._send(YieldCommand(job))
        except OSError:
            log.debug("no process is left to let job %d make way", job)

    def check(self) -> None:
        """See :meth:`Worker.check`."""
        if self._process is not None and not self._process.is_alive():
            self._bury("while it was idle")

    def interrupt(self) -> None:
        """See :meth:`Worker.interrupt`."""
        self._interrupted.set()

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        with self._send_lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        self._state = WorkerState.STOPPED
        if pipe is not None:
            pipe.close()  # the process ends itself when its pipe closes
        if process is not None:
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join(2.0)

    def _spawn(self) -> None:
        """Start a process.

        Raises:
            ModelError: The machine has no room for one.
        """
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=run_process,
            args=(there, self._factory, self._logging_setup),
            name="steerseg-models",
            daemon=True,
        )
        prepare_environment()
        try:
            process.start()
        except OSError as refusal:
            here.close()
            raise ModelError(
                f"the model process could not be started ({refusal.strerror}); the machine is short of memory, "
                "processes or open files"
            ) from refusal
        finally:
            there.close()
        with self._send_lock:
            self._process, self._pipe = process, here
        self._state = WorkerState.LOADING

    def _await_models(self) -> None:
        match self._receive():
            case ReadyReport(switched_off=switched_off):
                self._switched_off = switched_off
            case LoadFailureReport(error=details):
                self.stop()
                raise rebuild_error(details)
            case report:
                raise AssertionError(f"a starting worker sent {report!r}")

    def _send(self, command: WorkerCommand[RequestT]) -> None:
        with self._send_lock:
            if self._pipe is None:
                raise BrokenPipeError("there is no process")
            send(self._pipe, command)

    def _receive(self) -> WorkerReport[ResultT]:
        """The process's next report.

        Raises:
            WorkerLostError: None came.
        """
        assert self._pipe is not None
        assert self._process is not None
        deadline = time.monotonic() + self._stall_timeout
        while not self._pipe.poll(0):
            if self._interrupted.is_set():
                self.stop()
                raise WorkerLostError("the server is stopping")
            if time.monotonic() > deadline:
                log.error("no sign of life from the model process for %.0f s", self._stall_timeout)
                self._process.kill()
                deadline = float("inf")
            wait([self._pipe, self._process.sentinel], timeout=_POLL)
            if not self._process.is_alive() and not self._pipe.poll(0):
                raise self._loss()
        try:
            report: WorkerReport[ResultT] = receive(self._pipe)
        except (EOFError, OSError) as error:
            raise self._loss() from error
        return report

    def _loss(self) -> WorkerLostError:
        return WorkerLostError(self._bury("while it worked"))

    def _bury(self, when: str) -> str:
        """Forget a dead process and describe how it ended."""
        process = self._process
        assert process is not None
        process.join(2.0)
        code = process.exitcode
        self.stop()
        self._restarts += 1
        how = f"the model process died {when} ({_describe_exit(code)})"
        log.error("%s", how)
        return how


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it did not end"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
    return f"signal {name}" + (", perhaps for lack of memory" if -code == signal.SIGKILL else "")


def rebuild_error(details: ErrorDetails) -> SteerSegError:
    """The error that a worker reported, as its type where it is one of the library's."""
    kind = getattr(steerseg.errors, details.kind, None)
    if isinstance(kind, type) and issubclass(kind, SteerSegError):
        return kind(details.message)
    return SteerSegError(details.message)


def prepare_environment() -> None:
    """Set what a model process's libraries read when they are loaded, unless it is set already."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        os.environ[_ALLOCATOR_VARIABLES[0]] = _ALLOCATOR
