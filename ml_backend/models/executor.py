"""The dispatcher: it hands jobs to the workers, the most urgent first, and sees them to their end.

The server never loads a model and never waits for one while it answers ``/health``. What crosses the border to a
worker is plain data; :mod:`ml_backend.models.messages` lists all of it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Self

from ml_backend.logs import LoggingSetup
from ml_backend.models.activity import WorkerActivity
from ml_backend.models.affinity import VideoAffinity
from ml_backend.models.dispatcher import Dispatcher
from ml_backend.models.job_observer import JobObserver, SilentObserver
from ml_backend.models.messages import ModelAnswer, ModelRequest, RequestT, ResultT
from ml_backend.models.process import Handler
from ml_backend.models.queue import PATIENCE, JobQueue, ModelJob, Priority
from ml_backend.models.workers import ProcessWorker, Worker, WorkerStatus
from steerseg.errors import Cancelled
from steerseg.video import Progress


class Executor(Generic[RequestT, ResultT]):
    """Feeds jobs to workers, the most urgent first.

    Args:
        workers: What works; each is fed by a thread of its own. Others may come and go: see :meth:`add`.
        video_of: What a request is about: the job goes to a worker that has seen it lately, if one is free soon.
        patience: Seconds for which a job waits for that one while another one is free.
        warm: Start the workers at once and keep them started, instead of at the first job.
        max_attempts: How often a job is begun in all when its worker dies under it.
    """

    def __init__(
        self,
        workers: Sequence[Worker[RequestT, ResultT]],
        *,
        video_of: Callable[[RequestT], Hashable | None] = lambda _: None,
        patience: float = PATIENCE,
        warm: bool = False,
        max_attempts: int = 2,
    ) -> None:
        self._video_of = video_of
        self._warm = warm
        self._max_attempts = max_attempts
        self._affinity = VideoAffinity()
        self._queue: JobQueue[RequestT, ResultT] = JobQueue(self._affinity, patience=patience)
        self._lock = threading.Lock()  # one thread at a time decides who makes way
        self._observer: JobObserver = SilentObserver()
        self._indices = itertools.count()
        # Replaced as a whole, under the lock of its own, so that others read it without one.
        self._by_index: dict[int, Dispatcher[RequestT, ResultT]] = {}
        self._members = threading.Lock()
        for worker in workers:
            self.add(worker)

    @classmethod
    def local(
        cls,
        factories: Sequence[Callable[[], Handler[RequestT, ResultT]]],
        *,
        warm: bool = False,
        max_attempts: int = 2,
        stall_timeout: float = 1800.0,
        log_level: str = "INFO",
        reads_ahead: Callable[[RequestT], bool] = lambda _: False,
    ) -> Self:
        """An executor whose workers are processes on this machine.

        Args:
            factories: One per process; see :class:`~ml_backend.models.workers.ProcessWorker`.
            warm: See :class:`Executor`.
            max_attempts: See :class:`Executor`.
            stall_timeout: Seconds without a report after which a busy process counts as dead.
            log_level: Level of the root logger inside the processes.
            reads_ahead: See :class:`~ml_backend.models.workers.ProcessWorker`.
        """
        logging_setup = LoggingSetup(log_level, process="models")
        workers = [
            ProcessWorker(
                factory,
                stall_timeout=stall_timeout,
                logging_setup=logging_setup,
                reads_ahead=reads_ahead,
            )
            for factory in factories
        ]
        return cls(workers, warm=warm, max_attempts=max_attempts)

    @property
    def _dispatchers(self) -> list[Dispatcher[RequestT, ResultT]]:
        return list(self._by_index.values())

    def add(self, worker: Worker[RequestT, ResultT]) -> int:
        """Let a further worker take jobs.

        Returns:
            Its index, which no other worker has had.
        """
        with self._members:
            index = next(self._indices)
            dispatcher = Dispatcher(
                self._queue,
                worker,
                index,
                affinity=self._affinity,
                warm=self._warm,
                max_attempts=self._max_attempts,
                make_way=self._make_way,
                others_fit=self._others_fit,
                others_accept=self._others_accept,
            )
            dispatcher.observer = self._observer
            self._by_index = {**self._by_index, index: dispatcher}
        dispatcher.thread.start()
        return index

    def remove(self, index: int) -> None:
        """Let a worker that is gone take no further job; the one it has begun goes to another worker."""
        with self._members:
            dispatcher = self._by_index.get(index)
            self._by_index = {other: one for other, one in self._by_index.items() if other != index}
        if dispatcher is not None:
            dispatcher.retire()

    def observe(self, observer: JobObserver) -> None:
        """Let somebody know what becomes of each job from now on, in place of who knew before."""
        self._observer = observer
        for dispatcher in self._dispatchers:
            dispatcher.observer = observer

    def submit(
        self, request: RequestT, *, priority: Priority = Priority.BATCH, on_progress: Progress | None = None
    ) -> ModelJob[RequestT, ResultT]:
        """Queue a request and return at once.

        Args:
            request: Picklable.
            priority: How urgent it is; equals keep their order.
            on_progress: Called with stage and fraction, from another thread; should return quickly.

        Raises:
            Cancelled: The executor is closing.
        """
        job = self._queue.submit(request, priority, on_progress, self._video_of(request))
        self._call_for(job)
        self._make_way()
        return job

    def promote(self, job: ModelJob[RequestT, ResultT], priority: Priority) -> None:
        """Move a waiting job forward; one that runs or is as urgent already stays as it is."""
        if self._queue.promote(job, priority):
            self._call_for(job)
            self._make_way()

    def cancel(self, job: ModelJob[RequestT, ResultT]) -> None:
        """End a job with :class:`Cancelled`: at once if it waits, at its next progress if it runs."""
        if self._queue.withdraw(job):
            job.fail(Cancelled("cancelled before it began"))
        else:
            for dispatcher in self._dispatchers:
                dispatcher.cancel(job)

    @property
    def queue_length(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    @property
    def queue_lengths(self) -> dict[Priority, int]:
        """How many jobs of each priority wait."""
        return self._queue.lengths

    def free_for(self, priority: Priority) -> int:
        """How many workers would begin a new job of a priority at once: idle, and not awaited by one as urgent."""
        idle = sum(dispatcher.idle for dispatcher in self._dispatchers)
        before = sum(count for urgency, count in self._queue.lengths.items() if urgency <= priority)
        return max(0, idle - before)

    @property
    def statuses(self) -> list[WorkerStatus]:
        """Each worker's state, without waiting for any of them."""
        return [dispatcher.status for dispatcher in self._dispatchers]

    @property
    def numbered_statuses(self) -> dict[int, WorkerStatus]:
        """Each worker's state by its index."""
        return {index: dispatcher.status for index, dispatcher in self._by_index.items()}

    @property
    def activities(self) -> list[WorkerActivity]:
        """What each worker does, and what it has done lately."""
        return [dispatcher.activity for dispatcher in self._dispatchers]

    def close(self, timeout: float = 5.0) -> None:
        """Stop the workers and end the jobs that are left with :class:`Cancelled`. May be repeated."""
        self._queue.close()
        for dispatcher in self._dispatchers:
            dispatcher.interrupt()
        deadline = time.monotonic() + timeout
        for dispatcher in self._dispatchers:
            dispatcher.thread.join(max(0.1, deadline - time.monotonic()))

    def _make_way(self) -> None:
        """Where more urgent jobs wait than workers are free, ask as many of the least urgent to yield."""
        with self._lock:
            idle = sum(dispatcher.idle for dispatcher in self._dispatchers)
            running = [
                (job, dispatcher)
                for dispatcher in self._dispatchers
                if (job := dispatcher.current) is not None and dispatcher.may_yield(job)
            ]
            running.sort(key=lambda one: (-one[0].priority, not one[1].yields(one[0])))
            for position, (job, dispatcher) in enumerate(running):
                if self._queue.count_before(job.priority) > idle + position:
                    dispatcher.request_yield(job)

    def _call_for(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Ask for a worker that has the video of a job that waits, where all of these do what is less urgent.

        A batch goes on where another worker is free: a proposal that makes way loses more than the job would gain.
        """
        by_index = self._by_index
        holders = [by_index[index] for index in self._affinity.holders(job.video) if index in by_index]
        running = [(holder, current) for holder in holders if (current := holder.current) is not None]
        if len(running) < len(holders) or any(one.priority <= job.priority for _, one in running):
            return
        idle = any(dispatcher.idle for dispatcher in self._dispatchers)
        for holder, less_urgent in running:
            if holder.may_yield(less_urgent) and not (idle and less_urgent.priority is Priority.BATCH):
                holder.request_yield(less_urgent)
                return

    def _others_fit(self, index: int) -> bool:
        """Whether a worker other than this one may be able to work."""
        return any(one.fit for number, one in self._by_index.items() if number != index)

    def _others_accept(self, index: int, request: RequestT) -> bool:
        """Whether a worker other than this one may be able to work on a request."""
        return any(one.accepts(request) for number, one in self._by_index.items() if number != index)


ModelExecutor = Executor[ModelRequest, ModelAnswer]
