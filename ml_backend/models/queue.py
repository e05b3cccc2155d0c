"""The queue of model jobs, the most urgent first."""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import threading
from concurrent.futures import Future
from typing import Generic

from ml_backend.models.messages import FrameCountReport, JobReport, ProgressReport, RequestT, ResultT
from steerseg.errors import Cancelled, SteerSegError
from steerseg.video import Progress

log = logging.getLogger(__name__)


class Priority(enum.IntEnum):
    """The urgency of a job; the lowest number goes first."""

    INTERACTIVE = 0
    BATCH = 1
    REFINEMENT = 2


class ModelJob(Generic[RequestT, ResultT]):
    """One submitted request. Ends exactly once: by a result, an error, or a cancellation.

    Attributes:
        number: Its number, in the order of submission.
        request: The request.
        future: Where the end arrives; add callbacks to it or wait on it, but do not cancel it: use
            :meth:`ml_backend.models.executor.Executor.cancel`.
        priority: How urgent it is.
        stage: Name of the stage it is in; empty before the first.
        fraction: Part of that stage that is done, in [0, 1].
        frames: How many frames the video has; ``None`` until the work has reported it.
        attempts: How many times a worker has begun it.
        cancelled: Whether somebody asked for its end.
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

    def note(self, report: JobReport) -> None:
        """Keep a report of its worker, and pass progress on."""
        match report:
            case ProgressReport(stage=stage, fraction=fraction):
                self.stage, self.fraction = stage, fraction
                self._pass_on(stage, fraction)
            case FrameCountReport(frames=frames):
                self.frames = frames

    def succeed(self, result: ResultT) -> None:
        """End by a result, unless it has ended."""
        with self._lock:
            if not self.future.done():
                self.future.set_result(result)

    def fail(self, error: SteerSegError) -> None:
        """End by an error, unless it has ended."""
        with self._lock:
            if not self.future.done():
                self.future.set_exception(error)

    def _pass_on(self, stage: str, fraction: float) -> None:
        if self._on_progress is not None:
            try:
                self._on_progress(stage, fraction)
            except Exception:
                # A listener's fault must not stop the work it listens to.
                log.exception("a progress listener failed")


class JobQueue(Generic[RequestT, ResultT]):
    """The jobs that wait. Safe to share between threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._pushes = itertools.count()  # keeps the heap from comparing jobs
        self._changed = threading.Condition()
        # Entries of jobs whose priority was raised or that were cancelled stay behind and are skipped.
        self._heap: list[tuple[Priority, int, int, ModelJob[RequestT, ResultT]]] = []
        self._waiting: set[int] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether it accepts no more jobs."""
        return self._closed

    def submit(
        self, request: RequestT, priority: Priority, on_progress: Progress | None
    ) -> ModelJob[RequestT, ResultT]:
        """Add a job for a request.

        Raises:
            Cancelled: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Cancelled("the server is stopping; try again when it is back")
            job: ModelJob[RequestT, ResultT] = ModelJob(next(self._numbers), request, priority, on_progress)
            self._push(job)
        return job

    def promote(self, job: ModelJob[RequestT, ResultT], priority: Priority) -> bool:
        """Raise the priority of a job, which moves it forward where it waits.

        Returns:
            Whether it was moved; a job that runs or is as urgent already was not.
        """
        with self._changed:
            if priority >= job.priority:
                return False
            job.priority = priority
            if job.number not in self._waiting:
                return False
            self._push(job)
        return True

    def withdraw(self, job: ModelJob[RequestT, ResultT]) -> bool:
        """Mark a job as cancelled, and take it out where it waits.

        Returns:
            Whether it waited.
        """
        with self._changed:
            job.cancelled = True
            waited = job.number in self._waiting
            self._waiting.discard(job.number)
        return waited

    def put_back(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Let a job wait again, at its old position; end it where the queue is closed."""
        with self._changed:
            if not self._closed:
                self._push(job)
                return
        job.fail(Cancelled("the server is stopping"))

    def take(self, timeout: float) -> ModelJob[RequestT, ResultT] | None:
        """Take the most urgent job; ``None`` after ``timeout`` seconds without one."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(timeout)
            while self._heap:
                _, number, _, job = heapq.heappop(self._heap)
                if number in self._waiting:
                    self._waiting.discard(number)
                    return job
            return None

    def waits_before(self, priority: Priority) -> bool:
        """Whether anything more urgent waits."""
        with self._changed:
            return any(entry[0] < priority and entry[1] in self._waiting for entry in self._heap)

    def close(self) -> None:
        """Accept no more jobs, and end those that wait with :class:`Cancelled`. May be repeated."""
        with self._changed:
            self._closed = True
            left = [entry[-1] for entry in self._heap if entry[-1].number in self._waiting]
            self._heap.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job.fail(Cancelled("the server is stopping"))

    def _push(self, job: ModelJob[RequestT, ResultT]) -> None:
        heapq.heappush(self._heap, (job.priority, job.number, next(self._pushes), job))
        self._waiting.add(job.number)
        self._changed.notify()
