"""Where models live: one spawned process per device, fed by a priority queue and replaced when it dies.

The server never loads a model and never waits for one while it answers ``/health``. What crosses the process
border is small and picklable: a request, progress, and one result or one typed error.
"""

from __future__ import annotations

import enum
import faulthandler
import heapq
import itertools
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

import steerseg.errors
from ml_backend.models.messages import ModelAnswer, ModelRequest
from steerseg.errors import Cancelled, ModelError, SteerSegError

log = logging.getLogger(__name__)

# How often a dispatcher looks up from its pipe for a shutdown or a stall, in seconds.
_POLL = 0.25
# Progress of one stage crosses the pipe at most this often, in seconds.
_PROGRESS_INTERVAL = 0.1

# Threads of a model that wait for each other sleep, in place of spinning: on a machine whose cores are shared,
# with Label Studio for instance, spinning makes everything several times slower, the model itself included.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

# The server's threads go first: it has to answer within a second while this process uses every core.
_NICENESS = 5

Progress = Callable[[str, float], None]
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
Request_contra = TypeVar("Request_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class ProcessLostError(Exception):
    """A handler's process can do no more work. It ends, and the request is tried again in a new one."""


class Handler(Protocol[Request_contra, Result_co]):
    """What a worker process does with a request. Built once per process; holds the models."""

    def __call__(self, request: Request_contra, progress: Progress) -> Result_co:
        """Answer one request.

        Args:
            request: What to do; picklable.
            progress: To be called often, from this thread, with the stage and its fraction in [0, 1].
                Raises :class:`~steerseg.errors.Cancelled` once the request was cancelled. Work that can be put
                down asks :func:`should_yield` with it between its steps.

        Raises:
            SteerSegError: Crosses to the caller with its type and message.
            ProcessLostError: See there.
        """
        ...


def should_yield(progress: Progress) -> bool:
    """Whether a more urgent request waits for the one that is told of by ``progress``."""
    return bool(getattr(progress, "should_yield", False))


def tell_frames(progress: Progress, frames: int) -> None:
    """Say how many frames the video has that the work told of by ``progress`` is about."""
    tell = getattr(progress, "tell_frames", None)
    if tell is not None:
        tell(frames)


class Priority(enum.IntEnum):
    """Who goes first; the lowest number does."""

    INTERACTIVE = 0
    BATCH = 1
    REFINEMENT = 2


class WorkerState(enum.StrEnum):
    """What a worker process is doing."""

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


class ModelJob(Generic[RequestT, ResultT]):
    """One submitted request. Ends exactly once: by a result, an error, or a cancellation.

    Attributes:
        future: Where the end arrives; add callbacks to it or wait on it, but do not cancel it: use
            :meth:`Executor.cancel`.
        priority: Its place in the queue.
        stage: Name of the stage it is in; empty before the first.
        fraction: Part of that stage that is done, in [0, 1].
        frames: How many frames the video has; ``None`` until the work has told.
        attempts: How many times a worker has begun it.
    """

    def __init__(
        self, number: int, request: RequestT, priority: Priority, on_progress: Progress | None
    ) -> None:
        self.number = number
        self.request = request
        self.priority = priority
        self.future: Future[ResultT] = Future()
        self.stage = ""
        self.fraction = 0.0
        self.frames: int | None = None
        self.attempts = 0
        self.cancelled = False
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def result(self, timeout: float | None = None) -> ResultT:
        """Wait for the result.

        Raises:
            SteerSegError: The request failed or was cancelled.
            TimeoutError: It has not ended within ``timeout`` seconds; it goes on.
        """
        return self.future.result(timeout)

    def _note(self, stage: str, fraction: float) -> None:
        self.stage, self.fraction = stage, fraction
        if self._on_progress is not None:
            try:
                self._on_progress(stage, fraction)
            except Exception:
                # A listener's fault must not stop the work it listens to.
                log.exception("a progress listener failed")

    def _succeed(self, result: ResultT) -> None:
        with self._lock:
            if not self.future.done():
                self.future.set_result(result)

    def _fail(self, error: SteerSegError) -> None:
        with self._lock:
            if not self.future.done():
                self.future.set_exception(error)


class Executor(Generic[RequestT, ResultT]):
    """Feeds requests to worker processes, the most urgent first.

    Args:
        factories: One per worker process; a picklable callable that builds the process's handler. It runs
            inside the process and may take as long as loading models takes.
        warm: Start the processes at once and keep them started, instead of at the first request.
        max_attempts: How often a request is begun in all when its process dies under it.
        stall_timeout: Seconds without a message after which a busy process counts as dead.
        log_level: Level of the root logger inside the processes.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], Handler[RequestT, ResultT]]],
        *,
        warm: bool = False,
        max_attempts: int = 2,
        stall_timeout: float = 1800.0,
        log_level: str = "INFO",
    ) -> None:
        if not factories:
            raise ValueError("an executor needs at least one worker factory, got none")
        self._max_attempts = max_attempts
        self._numbers = itertools.count(1)
        self._pushes = itertools.count()  # keeps the heap from comparing tickets
        self._changed = threading.Condition()
        # Entries of tickets whose priority was raised or that were cancelled stay behind and are skipped.
        self._queue: list[tuple[Priority, int, int, ModelJob[RequestT, ResultT]]] = []
        self._waiting: set[int] = set()
        self._closing = False
        self._slots = [
            _Slot(self, index, factory, warm, stall_timeout, log_level)
            for index, factory in enumerate(factories)
        ]
        for slot in self._slots:
            slot.thread.start()

    def submit(
        self, request: RequestT, *, priority: Priority = Priority.BATCH, on_progress: Progress | None = None
    ) -> ModelJob[RequestT, ResultT]:
        """Queue a request and return at once.

        Args:
            request: Picklable.
            priority: Its place in the queue; equals keep their order.
            on_progress: Called with stage and fraction, from another thread; should return quickly.

        Raises:
            Cancelled: The executor is closing.
        """
        with self._changed:
            if self._closing:
                raise Cancelled("the server is stopping; try again when it is back")
            ticket: ModelJob[RequestT, ResultT] = ModelJob(
                next(self._numbers), request, priority, on_progress
            )
            self._push(ticket)
        self._make_way(priority)
        return ticket

    def promote(self, ticket: ModelJob[RequestT, ResultT], priority: Priority) -> None:
        """Move a waiting ticket forward; one that runs or is as urgent already stays as it is."""
        with self._changed:
            if priority >= ticket.priority:
                return
            ticket.priority = priority
            if ticket.number not in self._waiting:
                return
            self._push(ticket)
        self._make_way(priority)

    def cancel(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        """End a ticket with :class:`Cancelled`: at once if it waits, at its next progress if it runs."""
        with self._changed:
            ticket.cancelled = True
            waiting = ticket.number in self._waiting
            self._waiting.discard(ticket.number)
        if waiting:
            ticket._fail(Cancelled("cancelled before it began"))
        else:
            for slot in self._slots:
                slot.cancel(ticket)

    @property
    def queue_length(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def statuses(self) -> list[WorkerStatus]:
        """Each worker's state, without waiting for any of them."""
        return [slot.status for slot in self._slots]

    def close(self, timeout: float = 5.0) -> None:
        """Stop the processes and end the tickets that are left with :class:`Cancelled`. May be repeated."""
        with self._changed:
            self._closing = True
            left = [entry[-1] for entry in self._queue if entry[-1].number in self._waiting]
            self._queue.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in left:
            ticket._fail(Cancelled("the server is stopping"))
        deadline = time.monotonic() + timeout
        for slot in self._slots:
            slot.thread.join(max(0.1, deadline - time.monotonic()))

    # --- for the slots

    def _make_way(self, priority: Priority) -> None:
        """Ask work that is less urgent to be put down, if it can be."""
        for slot in self._slots:
            slot.ask_to_yield(priority)

    def _waits_before(self, priority: Priority) -> bool:
        """Whether anything more urgent waits."""
        with self._changed:
            return any(entry[0] < priority and entry[1] in self._waiting for entry in self._queue)

    def _push(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        heapq.heappush(self._queue, (ticket.priority, ticket.number, next(self._pushes), ticket))
        self._waiting.add(ticket.number)
        self._changed.notify()

    def _requeue(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        with self._changed:
            if not self._closing:
                self._push(ticket)
                return
        ticket._fail(Cancelled("the server is stopping"))

    def _next(self, timeout: float) -> ModelJob[RequestT, ResultT] | None:
        """The most urgent waiting ticket, or ``None`` after ``timeout`` seconds without one."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(timeout)
            while self._queue:
                _, number, _, ticket = heapq.heappop(self._queue)
                if number in self._waiting:
                    self._waiting.discard(number)
                    return ticket
            return None


class _WorkerDied(Exception):  # noqa: N818 - an event for the dispatcher, no error for a caller
    """The process ended without an answer. Carries the words for it."""


class _Slot(Generic[RequestT, ResultT]):
    """One worker process and the thread that feeds it."""

    def __init__(
        self,
        executor: Executor[RequestT, ResultT],
        index: int,
        factory: Callable[[], Handler[RequestT, ResultT]],
        warm: bool,
        stall_timeout: float,
        log_level: str,
    ) -> None:
        self._executor = executor
        self._factory = factory
        self._warm = warm
        self._stall_timeout = stall_timeout
        self._log_level = log_level
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._send_lock = threading.Lock()
        self._current: ModelJob[RequestT, ResultT] | None = None
        self._state = WorkerState.STOPPED
        self._error: str | None = None
        self._restarts = 0
        self._retry_warm_at = 0.0
        self.thread = threading.Thread(target=self._run, name=f"executor-{index}", daemon=True)

    @property
    def status(self) -> WorkerStatus:
        process = self._process
        return WorkerStatus(
            state=self._state,
            pid=None if process is None else process.pid,
            restarts=self._restarts,
            error=self._error,
        )

    def cancel(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        with self._send_lock:
            if self._current is ticket and self._pipe is not None:
                try:
                    _send(self._pipe, ("cancel", ticket.number))
                except OSError:
                    # The process has just died; the dispatcher sees that and looks at `ticket.cancelled`.
                    log.debug("no process left to tell of a cancellation")

    def ask_to_yield(self, priority: Priority) -> None:
        with self._send_lock:
            current = self._current
            if current is not None and current.priority > priority and self._pipe is not None:
                try:
                    _send(self._pipe, ("yield", current.number))
                except OSError:
                    log.debug("no process left to ask to make way")

    # --- the dispatcher thread

    def _run(self) -> None:
        try:
            while not self._executor._closing:
                if self._warm and self._process is None and time.monotonic() >= self._retry_warm_at:
                    self._warm_up()
                ticket = self._executor._next(_POLL)
                if ticket is not None:
                    self._serve(ticket)
                elif self._process is not None and not self._process.is_alive():
                    self._bury("while it was idle")
        finally:
            self._stop()

    def _warm_up(self) -> None:
        try:
            self._ensure_process()
        except (SteerSegError, _WorkerDied) as error:
            if not self._executor._closing:
                log.error("the models could not be loaded: %s", error)
        except Exception:  # this thread feeds every later request
            log.exception("the models could not be loaded")
        else:
            return
        # Asking for a prediction tries again at once; without one, not in a tight loop.
        self._retry_warm_at = time.monotonic() + 60

    def _serve(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        try:
            self._ensure_process()
            ticket.attempts += 1
            self._state = WorkerState.BUSY
            self._converse(ticket)
            self._state = WorkerState.READY
        except SteerSegError as error:
            ticket._fail(error)
        except _WorkerDied as death:
            if self._executor._closing or ticket.cancelled:
                ticket._fail(Cancelled("cancelled while the model process was ending"))
            elif ticket.attempts < self._executor._max_attempts:
                # Dying while loading is not the request's fault, but must not be retried forever either.
                ticket.attempts += self._state is WorkerState.FAILED
                log.warning("%s; the request is tried again", death)
                self._executor._requeue(ticket)
            else:
                ticket._fail(
                    ModelError(
                        f"{death}, {ticket.attempts} times on this request; a shorter or smaller video needs "
                        "less memory, and the server's log has the details"
                    )
                )
        except Exception as error:
            # This thread feeds every later request too, so that nothing may end it.
            log.exception("a request could not be handed to the model process")
            ticket._fail(
                SteerSegError(f"unexpected {type(error).__name__}; the server's log has the details")
            )

    def _converse(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        """Hand a request to the process and pass on what it says until it ends.

        Raises:
            _WorkerDied: The process ended, stalled, or the executor is closing.
        """
        if ticket.cancelled:
            ticket._fail(Cancelled("cancelled before it began"))
            return
        self._send_request(ticket)
        try:
            while True:
                message = self._receive()
                match message:
                    case ("progress", number, stage, fraction) if number == ticket.number:
                        ticket._note(stage, fraction)
                    case ("frames", number, frames) if number == ticket.number:
                        ticket.frames = frames
                    case ("result", number, result) if number == ticket.number:
                        ticket._succeed(result)
                        return
                    case ("error", number, kind, text) if number == ticket.number:
                        ticket._fail(_rebuild(kind, text))
                        return
        finally:
            with self._send_lock:
                self._current = None

    def _send_request(self, ticket: ModelJob[RequestT, ResultT]) -> None:
        assert self._pipe is not None
        with self._send_lock:
            try:
                _send(self._pipe, ("run", ticket.number, ticket.request))
                self._current = ticket
                gone = False
            except OSError:
                gone = True
        if gone:
            raise self._death()
        if ticket.cancelled:  # between the look above and the sending
            self.cancel(ticket)
        if self._executor._waits_before(ticket.priority):  # came in between
            self.ask_to_yield(Priority(ticket.priority - 1))

    def _receive(self) -> tuple[Any, ...]:
        """The process's next message.

        Raises:
            _WorkerDied: None came.
        """
        assert self._pipe is not None
        assert self._process is not None
        deadline = time.monotonic() + self._stall_timeout
        while not self._pipe.poll(0):
            if self._executor._closing:
                self._stop()
                raise _WorkerDied("the server is stopping")
            if time.monotonic() > deadline:
                log.error("no sign of life from the model process for %.0f s", self._stall_timeout)
                self._process.kill()
                deadline = float("inf")
            wait([self._pipe, self._process.sentinel], timeout=_POLL)
            if not self._process.is_alive() and not self._pipe.poll(0):
                raise self._death()
        try:
            message = _receive(self._pipe)
        except (EOFError, OSError) as error:
            raise self._death() from error
        return message

    def _ensure_process(self) -> None:
        """Have a process with loaded models.

        Raises:
            SteerSegError: The models cannot be loaded.
            _WorkerDied: It died while loading.
        """
        if self._process is not None:
            if self._process.is_alive():
                return
            self._bury("while it was idle")
        self._state, self._error = WorkerState.LOADING, None
        start = time.monotonic()
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(there, self._factory, self._log_level), name="steerseg-models", daemon=True
        )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read when the process loads torch
        try:
            process.start()
        except OSError as refusal:
            here.close()
            there.close()
            self._state = WorkerState.FAILED
            self._error = (
                f"the model process could not be started ({refusal.strerror}); the machine is short of memory, "
                "processes or open files"
            )
            raise ModelError(self._error) from refusal
        there.close()
        with self._send_lock:
            self._process, self._pipe = process, here
        try:
            message = self._receive()
        except _WorkerDied as death:
            self._state, self._error = WorkerState.FAILED, str(death)
            raise
        match message:
            case ("ready",):
                self._state = WorkerState.READY
                log.info("the model process is ready after %.0f s", time.monotonic() - start)
            case ("unready", kind, text):
                self._stop()
                error = _rebuild(kind, text)
                self._state, self._error = WorkerState.FAILED, str(error)
                raise error
            case _:
                raise AssertionError(f"a starting worker said {message[0]!r}")

    def _death(self) -> _WorkerDied:
        return _WorkerDied(self._bury("while it worked"))

    def _bury(self, when: str) -> str:
        """Forget a dead process and say in words how it ended."""
        process = self._process
        assert process is not None
        process.join(2.0)
        code = process.exitcode
        self._stop()
        self._restarts += 1
        how = f"the model process died {when} ({_exit_words(code)})"
        log.error("%s", how)
        return how

    def _stop(self) -> None:
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


def _exit_words(code: int | None) -> str:
    if code is None:
        return "it did not end"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
    return f"signal {name}" + (", perhaps for lack of memory" if -code == signal.SIGKILL else "")


def _rebuild(kind: str, text: str) -> SteerSegError:
    """The error that a process reported, as its type where it is one of the library's."""
    found = getattr(steerseg.errors, kind, None)
    if isinstance(found, type) and issubclass(found, SteerSegError):
        return found(text)
    return SteerSegError(text)


def _send(pipe: Connection, message: tuple[Any, ...]) -> None:
    # Not `pipe.send`: torch teaches that to pass tensors as shared memory, which dies with its process.
    pipe.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def _receive(pipe: Connection) -> tuple[Any, ...]:
    message: tuple[Any, ...] = pickle.loads(pipe.recv_bytes())
    return message


# --- inside the worker process


def _work(pipe: Connection, factory: Callable[[], Handler[Any, Any]], log_level: str) -> None:
    """Main function of a worker process: build the handler, then answer requests until the pipe closes."""
    # Ctrl-C reaches the whole foreground group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    os.nice(_NICENESS)
    logging.basicConfig(
        level=log_level, format="%(asctime)s %(levelname)s models %(name)s: %(message)s", force=True
    )
    requests: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    cancelled: set[int] = set()
    yielding: set[int] = set()
    threading.Thread(target=_listen, args=(pipe, requests, cancelled, yielding), daemon=True).start()

    try:
        handler = factory()
    except Exception as error:
        _send(pipe, ("unready", *_describe(error, "loading the models")))
        return
    _send(pipe, ("ready",))

    while True:
        number, request = requests.get()
        answer: tuple[Any, ...]
        try:
            answer = ("result", number, handler(request, _Reporter(pipe, number, cancelled, yielding)))
        except ProcessLostError as error:
            log.error("this process ends: %s", error, exc_info=error.__cause__)
            os._exit(1)  # tearing down what is broken may hang
        except Exception as error:
            answer = ("error", number, *_describe(error, "working on the request"))
        cancelled.discard(number)
        yielding.discard(number)
        try:
            _send(pipe, answer)
        except OSError:
            return  # the server is gone
        except Exception as error:  # the result does not pickle: nothing was sent yet
            _send(pipe, ("error", number, *_describe(error, "sending the result")))


def _listen(
    pipe: Connection,
    requests: queue.SimpleQueue[tuple[int, Any]],
    cancelled: set[int],
    yielding: set[int],
) -> None:
    """Sort what the server says; end the process at once when the server is gone, whatever it is doing."""
    while True:
        try:
            message = _receive(pipe)
        except (EOFError, OSError):
            os._exit(0)  # nothing here needs to be put in order, and tearing down torch takes seconds
        except Exception:
            log.exception("a request could not be read")
            os._exit(1)
        match message:
            case ("run", number, request):
                requests.put((number, request))
            case ("cancel", number):
                cancelled.add(number)
            case ("yield", number):
                yielding.add(number)


class _Reporter:
    """The ``progress`` of one request."""

    def __init__(self, pipe: Connection, number: int, cancelled: set[int], yielding: set[int]) -> None:
        self._pipe = pipe
        self._number = number
        self._cancelled = cancelled
        self._yielding = yielding
        self._stage: str | None = None
        self._time = 0.0

    @property
    def should_yield(self) -> bool:
        return self._number in self._yielding

    def tell_frames(self, frames: int) -> None:
        _send(self._pipe, ("frames", self._number, frames))

    def __call__(self, stage: str, fraction: float) -> None:
        if self._number in self._cancelled:
            raise Cancelled(f"cancelled during {stage}")
        now = time.monotonic()
        if stage != self._stage or fraction >= 1.0 or now - self._time >= _PROGRESS_INTERVAL:
            self._stage, self._time = stage, now
            fraction = min(max(float(fraction), 0.0), 1.0)
            _send(self._pipe, ("progress", self._number, stage, fraction))


def _describe(error: Exception, doing: str) -> tuple[str, str]:
    """An error's type and message for the server; anything unexpected stays in this process's log."""
    if isinstance(error, SteerSegError):
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == SteerSegError.__module__)
        if not isinstance(error, Cancelled):
            log.warning("%s while %s: %s", type(error).__name__, doing, error, exc_info=error.__cause__)
        return kind, str(error)
    log.error("unexpected %s while %s", type(error).__name__, doing, exc_info=error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "ModelError", f"out of memory while {doing}; try a shorter or smaller video"
    return "ModelError", f"unexpected {type(error).__name__} while {doing}; the server's log has the details"


ModelExecutor = Executor[ModelRequest, ModelAnswer]
