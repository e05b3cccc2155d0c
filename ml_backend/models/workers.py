"""Workers, and the one on this machine: a spawned process that owns a device and its models."""

from __future__ import annotations

import enum
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, Protocol

import steerseg.errors
from ml_backend.models.messages import (
    CancelCommand,
    ErrorDetails,
    ErrorReport,
    FrameCountReport,
    JobReport,
    LoadFailureReport,
    ModelAnswer,
    ModelRequest,
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
from ml_backend.models.process import Handler, Request_contra, Result_co, receive, run_process, send
from steerseg.errors import ModelError, SteerSegError
from steerseg.runtime.startup import uncollected
from steerseg.video import VideoLimits

log = logging.getLogger(__name__)

# How often one looks up from the pipe for a shutdown or a stall, in seconds.
_POLL = 0.25

# Threads of a model that wait for each other sleep, in place of spinning: on a machine whose cores are shared,
# with Label Studio for instance, spinning makes everything several times slower, the model itself included.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerState(enum.StrEnum):
    """The state of a worker."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as ``/health`` and the status page show it.

    Attributes:
        state: What it is doing.
        pid: Its process, while there is one.
        restarts: How often it was replaced after it died.
        error: Why it could not load its models, in state ``failed``.
    """

    state: WorkerState
    pid: int | None
    restarts: int
    error: str | None


class WorkerLostError(Exception):
    """A worker ended without an answer. The message says how; a new one may answer the same request."""


class Worker(Protocol[Request_contra, Result_co]):
    """Owns a device and its models, and works on one job at a time.

    One thread starts it, begins jobs and waits for their outcome; ``status``, ``cancel``, ``request_yield`` and
    ``interrupt`` may be called from any thread, and return at once.
    """

    @property
    def status(self) -> WorkerStatus:
        """How it stands."""
        ...

    def start(self) -> None:
        """Have loaded models; returns at once where they are.

        Raises:
            SteerSegError: The models cannot be loaded.
            WorkerLostError: It died while loading.
        """
        ...

    def begin(self, job: int, request: Request_contra) -> None:
        """Begin a job.

        Args:
            job: Number of the job.
            request: The request.

        Raises:
            WorkerLostError: It has died.
        """
        ...

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> Result_co:
        """Wait for the end of the job that was begun.

        Args:
            job: Number of the job.
            on_report: Called with each report on the job meanwhile.

        Raises:
            SteerSegError: The job failed or was cancelled.
            WorkerLostError: It died, stalled, or was interrupted.
        """
        ...

    def cancel(self, job: int) -> None:
        """Ask for the end of a job that was begun."""
        ...

    def request_yield(self, job: int) -> None:
        """Ask a job that was begun to make way."""
        ...

    def check(self) -> None:
        """See whether it died while it was idle; a dead one is started anew by the next job."""
        ...

    def interrupt(self) -> None:
        """Let whoever waits in ``start`` or ``outcome`` get a :class:`WorkerLostError`: the server is stopping."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class ProcessWorker(Generic[RequestT, ResultT]):
    """A worker that is a spawned process on this machine; see :class:`Worker`.

    Args:
        factory: Picklable; builds the process's handler. It runs inside the process and may take as long as
            loading models takes.
        stall_timeout: Seconds without a report after which a busy process counts as dead.
        log_level: Level of the root logger inside the process.
    """

    def __init__(
        self,
        factory: Callable[[], Handler[RequestT, ResultT]],
        *,
        stall_timeout: float = 1800.0,
        log_level: str = "INFO",
    ) -> None:
        self._factory = factory
        self._stall_timeout = stall_timeout
        self._log_level = log_level
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._send_lock = threading.Lock()
        self._interrupted = threading.Event()
        self._state = WorkerState.STOPPED
        self._error: str | None = None
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
        )

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

    def begin(self, job: int, request: RequestT) -> None:
        """See :meth:`Worker.begin`."""
        try:
            self._send(RunCommand(job, request))
        except OSError as error:
            raise self._loss() from error
        self._state = WorkerState.BUSY

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> ResultT:
        """See :meth:`Worker.outcome`."""
        while True:
            match self._receive():
                case ProgressReport() | FrameCountReport() as report if report.job == job:
                    on_report(report)
                case ResultReport(job=number, result=result) if number == job:
                    self._state = WorkerState.READY
                    return result
                case ErrorReport(job=number, error=error) if number == job:
                    self._state = WorkerState.READY
                    raise _rebuild(error)

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
            args=(there, self._factory, self._log_level),
            name="steerseg-models",
            daemon=True,
        )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read when the process loads torch
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
            case ReadyReport():
                return
            case LoadFailureReport(error=details):
                self.stop()
                raise _rebuild(details)
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


def _rebuild(details: ErrorDetails) -> SteerSegError:
    """The error that a process reported, as its type where it is one of the library's."""
    kind = getattr(steerseg.errors, details.kind, None)
    if isinstance(kind, type) and issubclass(kind, SteerSegError):
        return kind(details.message)
    return SteerSegError(details.message)


def with_import_advice(limits: VideoLimits) -> VideoLimits:
    """Limits whose messages say how a task's video comes within them."""
    advice = (
        "Import it again with `steerseg-backend import --stride {stride}`, or in parts with --split-pages, each of "
        "which is a task."
    )
    return replace(limits, advice=advice)


@dataclass(frozen=True)
class ModelFactory:
    """Loads a preset and builds the handler that answers with it. Picklable: the server never calls it.

    Attributes:
        preset: Name or folder.
        device: Where the models run.
        limits: Limits of the videos.
        memory_bytes: Bytes of videos and of the segmenter's features of them that are kept for further requests;
            a quarter as much again is kept of decoded frames.
        prefix_bytes: Bytes of the text model's work on a video that are kept; see
            :class:`steerseg.pipeline.SteerSeg`.
        compiled: Whether the segmenter is compiled first.
    """

    preset: str
    device: str
    limits: VideoLimits
    memory_bytes: int = 4 << 30
    prefix_bytes: int | None = None
    compiled: bool = False

    def __call__(self) -> Handler[ModelRequest, ModelAnswer]:
        """Load the models, and warm them up where that pays.

        Raises:
            SteerSegError: The preset or its models cannot be used.
        """
        with uncollected():
            # Only the model process imports torch, transformers and sam2.
            from ml_backend.models.handler import load_handler

            handler = load_handler(
                self.preset,
                self.device,
                with_import_advice(self.limits),
                memory_bytes=self.memory_bytes,
                prefix_bytes=self.prefix_bytes,
            )
        handler.warm_up(compiled=self.compiled)
        return handler
