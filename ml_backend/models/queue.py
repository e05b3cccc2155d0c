"""The queue of model jobs, the most urgent first, each to the worker that has its video where that one is free soon."""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic

from ml_backend.logs import current_request_id
from ml_backend.models.affinity import VideoAffinity
from ml_backend.models.messages import FrameCountReport, JobReport, ProgressReport, RequestT, ResultT
from steerseg.errors import Cancelled, SteerSegError
from steerseg.video import Progress

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds for which a job that could begin elsewhere waits for a worker that has its video (our choice). To decode
and encode a video anew takes seconds; a longer wait would be felt by whoever clicks."""

_LOOK_AHEAD = 32
"""Jobs that a free worker leaves to others, at most, before it looks no further."""


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
        video: What a worker that has seen it works on in less time; ``None`` where there is no such thing.
        queued_at: When it began to wait, by the queue's clock.
        request_id: Id of the request that asked for it; empty where none did.
        stage: Name of the stage it is in; empty before the first.
        fraction: Part of that stage that is done, in [0, 1].
        frames: How many frames the video has; ``None`` until the work has reported it.
        attempts: How many times a worker has begun it, without those in :attr:`losses`.
        losses: How many times a worker was lost under it through no fault of its own.
        yields: How many times it has made way for a more urgent one.
        cancelled: Whether somebody asked for its end.
    """

    def __init__(
        self,
        number: int,
        request: RequestT,
        priority: Priority,
        on_progress: Progress | None,
        *,
        video: Hashable | None = None,
        queued_at: float = 0.0,
    ) -> None:
        self.number = number
        self.request = request
        self.priority = priority
        self.video = video
        self.queued_at = queued_at
        self.request_id = current_request_id()
        self.future: Future[ResultT] = Future()
        self.stage = ""
        self.fraction = 0.0
        self.frames: int | None = None
        self.attempts = 0
        self.losses = 0
        self.yields = 0
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

    def wait_again(self) -> None:
        """Be in no stage, and tell so: a worker has left it."""
        self.stage, self.fraction = "", 0.0
        self._pass_on("", 0.0)

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


_Entry = tuple[Priority, int, int, ModelJob[RequestT, ResultT]]


class JobQueue(Generic[RequestT, ResultT]):
    """The jobs that wait. Safe to share between threads.

    A job whose video a worker has seen lately waits for that one, for at most ``patience`` seconds in which another
    one could have begun it. Meanwhile one worker stays in reserve for it, and takes nothing that is less urgent: with
    few workers, the job would have to wait for the end of that. After that time any worker begins it, unless as urgent
    a job waits whose video that worker has. A job whose video a worker only reads ahead waits for nobody: a free worker
    begins the last of them where nothing else is as urgent.

    Args:
        affinity: Which workers have seen which videos.
        patience: See above.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        affinity: VideoAffinity,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._affinity = affinity
        self._patience = patience
        self._clock = clock
        self._numbers = itertools.count(1)
        self._pushes = itertools.count()  # keeps the heap from comparing jobs
        self._changed = threading.Condition()
        # Entries of jobs whose priority was raised or that were cancelled stay behind and are skipped.
        self._heap: list[_Entry[RequestT, ResultT]] = []
        self._waiting: dict[int, Priority] = {}
        self._counts: Counter[Priority] = Counter()
        self._left_at: dict[int, float] = {}  # by job, when a free worker left it to another one first
        self._reserves: dict[
            int, int
        ] = {}  # by job that is left to another worker, the one in reserve for it
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether it accepts no more jobs."""
        return self._closed

    def submit(
        self,
        request: RequestT,
        priority: Priority,
        on_progress: Progress | None,
        video: Hashable | None = None,
    ) -> ModelJob[RequestT, ResultT]:
        """Add a job for a request.

        Raises:
            Cancelled: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Cancelled("the server is stopping; try again when it is back")
            job: ModelJob[RequestT, ResultT] = ModelJob(
                next(self._numbers), request, priority, on_progress, video=video, queued_at=self._clock()
            )
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
            self._remove(job.number)
            self._push(job)
        return True

    def withdraw(self, job: ModelJob[RequestT, ResultT]) -> bool:
        """Mark a job as cancelled, and take it out where it waits.

        Returns:
            Whether it waited.
        """
        with self._changed:
            job.cancelled = True
            return self._remove(job.number)

    def put_back(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Let a job wait again, at its old position; end it where the queue is closed or the job cancelled."""
        job.wait_again()  # before another worker may begin it
        with self._changed:
            if not self._closed and not job.cancelled:
                job.queued_at = self._clock()
                self._push(job)
                return
        job.fail(Cancelled("cancelled before it began anew" if job.cancelled else "the server is stopping"))

    def take(
        self, worker: int, timeout: float, accepts: Callable[[RequestT], bool] = lambda _: True
    ) -> ModelJob[RequestT, ResultT] | None:
        """Take the most urgent job that is not left to another worker; ``None`` after ``timeout`` seconds.

        Args:
            worker: Index of the worker that is free.
            timeout: Seconds; 0 looks once.
            accepts: Whether it may take a request at all; asked often, and with the queue locked.
        """
        with self._changed:
            end = self._clock() + timeout
            while not self._closed:
                job, until = self._choose(worker, accepts)
                if job is not None:
                    return job
                seconds = min(end, until) - self._clock()
                if seconds <= 0:
                    return None
                self._changed.wait(seconds)
            return None

    def expect_next(
        self, worker: int, accepts: Callable[[RequestT], bool] = lambda _: True, *, most: int = 1
    ) -> list[ModelJob[RequestT, ResultT]]:
        """The jobs that a worker probably begins next: the first whose videos no other worker has or reads ahead.

        They stay queued; that the worker reads their videos ahead is noted.

        Args:
            worker: Index of the worker.
            most: How many at most.
            accepts: Whether it may take a request at all, and reads ahead for it; asked with the queue locked.
        """
        with self._changed:
            looked_at: list[_Entry[RequestT, ResultT]] = []
            jobs = (job for job in self._look_ahead(looked_at) if accepts(job.request))
            found = list(itertools.islice((job for job in jobs if self._knowing(job) <= {worker}), most))
            for entry in looked_at:
                heapq.heappush(self._heap, entry)
            if found:
                self._affinity.expect(worker, [job.video for job in found if job.video is not None])
        return found

    def waited(self, job: ModelJob[RequestT, ResultT]) -> float:
        """Seconds since a job was queued, or put back."""
        return self._clock() - job.queued_at

    def wait(self, timeout: float) -> None:
        """Wait until the queue changes, for at most ``timeout`` seconds."""
        with self._changed:
            if not self._closed:
                self._changed.wait(timeout)

    @property
    def lengths(self) -> dict[Priority, int]:
        """How many jobs of each priority wait."""
        with self._changed:
            return {priority: self._counts[priority] for priority in Priority}

    def count_before(self, priority: Priority) -> int:
        """How many jobs wait that are more urgent."""
        with self._changed:
            return sum(self._counts[urgent] for urgent in Priority if urgent < priority)

    def close(self) -> None:
        """Accept no more jobs, and end those that wait with :class:`Cancelled`. May be repeated."""
        with self._changed:
            self._closed = True
            left = {entry[-1].number: entry[-1] for entry in self._heap if entry[-1].number in self._waiting}
            self._heap.clear()
            self._waiting.clear()
            self._counts.clear()
            self._changed.notify_all()
        for job in left.values():
            job.fail(Cancelled("the server is stopping"))

    def _choose(
        self, worker: int, accepts: Callable[[RequestT], bool]
    ) -> tuple[ModelJob[RequestT, ResultT] | None, float]:
        """The job that a free worker begins; without one, the time at which to look again."""
        looked_at: list[_Entry[RequestT, ResultT]] = []
        jobs = (job for job in self._look_ahead(looked_at) if accepts(job.request))
        chosen, until = self._pick(worker, jobs)
        for entry in looked_at:
            if entry[-1] is not chosen:
                heapq.heappush(self._heap, entry)
        if chosen is not None:
            self._remove(chosen.number)
            for number in [number for number, reserve in self._reserves.items() if reserve == worker]:
                del self._reserves[number]
        return chosen, until

    def _look_ahead(
        self, looked_at: list[_Entry[RequestT, ResultT]]
    ) -> Iterator[ModelJob[RequestT, ResultT]]:
        """The first jobs in their order; their entries are taken out of the heap, and added to ``looked_at``."""
        while self._heap and len(looked_at) < _LOOK_AHEAD:
            entry = heapq.heappop(self._heap)
            if self._waiting.get(entry[-1].number) == entry[0]:
                looked_at.append(entry)
                yield entry[-1]

    def _pick(
        self, worker: int, jobs: Iterable[ModelJob[RequestT, ResultT]]
    ) -> tuple[ModelJob[RequestT, ResultT] | None, float]:
        """See :meth:`_choose`; the jobs come in their order."""
        overdue: ModelJob[RequestT, ResultT] | None = None  # it has waited for another worker long enough
        read_elsewhere: ModelJob[RequestT, ResultT] | None = None
        until = float("inf")
        least = Priority.REFINEMENT  # the least urgent that the worker may begin
        now = self._clock()
        for job in jobs:
            if job.priority > least:
                break
            knowing = self._knowing(job)
            if worker in knowing:
                return job, until
            if not knowing:
                return overdue or job, until
            if not self._affinity.holders(job.video):
                # The last one: whoever reads them ahead begins the others.
                read_elsewhere, least = job, job.priority
                continue
            leave_until = self._left_at.setdefault(job.number, now) + self._patience
            if leave_until > now:
                until = min(until, leave_until)
                if self._reserves.setdefault(job.number, worker) == worker:
                    least = job.priority
            elif overdue is None:
                overdue, least = job, job.priority
        return overdue or read_elsewhere, until

    def _knowing(self, job: ModelJob[RequestT, ResultT]) -> frozenset[int]:
        """The workers that have seen the video of a job, or read it ahead."""
        return self._affinity.holders(job.video) | self._affinity.readers(job.video)

    def _push(self, job: ModelJob[RequestT, ResultT]) -> None:
        heapq.heappush(self._heap, (job.priority, job.number, next(self._pushes), job))
        self._waiting[job.number] = job.priority
        self._counts[job.priority] += 1
        # All, since the one that has its video is to take it.
        self._changed.notify_all()

    def _remove(self, number: int) -> bool:
        """Let a job wait no more; whether it did."""
        priority = self._waiting.pop(number, None)
        if priority is None:
            return False
        self._counts[priority] -= 1
        self._left_at.pop(number, None)
        self._reserves.pop(number, None)
        return True
