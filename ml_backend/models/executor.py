"""The dispatcher: it hands jobs to the workers, the most urgent first, and sees them to their end.

The server never loads a model and never waits for one while it answers ``/health``. What crosses the border to a
worker is plain data; :mod:`ml_backend.models.messages` lists all of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Self

from ml_backend.models.messages import ModelAnswer, ModelRequest, RequestT, ResultT
from ml_backend.models.process import Handler
from ml_backend.models.queue import JobQueue, ModelJob, Priority
from ml_backend.models.workers import ProcessWorker, Worker, WorkerLostError, WorkerState, WorkerStatus
from steerseg.errors import Cancelled, ModelError, SteerSegError
from steerseg.video import Progress

log = logging.getLogger(__name__)

# How often an idle dispatcher looks up for a shutdown or the death of its worker, in seconds.
_POLL = 0.25

# How long a worker that could not load its models waits, without a request, to try again, in seconds.
_RETRY_WARM_UP = 60.0


class Executor(Generic[RequestT, ResultT]):
    """Feeds jobs to workers, the most urgent first.

    Args:
        workers: What works; each is fed by a thread of its own.
        warm: Start the workers at once and keep them started, instead of at the first job.
        max_attempts: How often a job is begun in all when its worker dies under it.
    """

    def __init__(
        self,
        workers: Sequence[Worker[RequestT, ResultT]],
        *,
        warm: bool = False,
        max_attempts: int = 2,
    ) -> None:
        if not workers:
            raise ValueError("an executor needs at least one worker, got none")
        self._queue: JobQueue[RequestT, ResultT] = JobQueue()
        self._dispatchers = [
            _Dispatcher(self._queue, worker, f"executor-{index}", warm=warm, max_attempts=max_attempts)
            for index, worker in enumerate(workers)
        ]
        for dispatcher in self._dispatchers:
            dispatcher.thread.start()

    @classmethod
    def local(
        cls,
        factories: Sequence[Callable[[], Handler[RequestT, ResultT]]],
        *,
        warm: bool = False,
        max_attempts: int = 2,
        stall_timeout: float = 1800.0,
        log_level: str = "INFO",
    ) -> Self:
        """An executor whose workers are processes on this machine.

        Args:
            factories: One per process; see :class:`~ml_backend.models.workers.ProcessWorker`.
            warm: See :class:`Executor`.
            max_attempts: See :class:`Executor`.
            stall_timeout: Seconds without a report after which a busy process counts as dead.
            log_level: Level of the root logger inside the processes.
        """
        workers = [
            ProcessWorker(factory, stall_timeout=stall_timeout, log_level=log_level) for factory in factories
        ]
        return cls(workers, warm=warm, max_attempts=max_attempts)

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
        job = self._queue.submit(request, priority, on_progress)
        self._make_way(priority)
        return job

    def promote(self, job: ModelJob[RequestT, ResultT], priority: Priority) -> None:
        """Move a waiting job forward; one that runs or is as urgent already stays as it is."""
        if self._queue.promote(job, priority):
            self._make_way(priority)

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
    def statuses(self) -> list[WorkerStatus]:
        """Each worker's state, without waiting for any of them."""
        return [dispatcher.status for dispatcher in self._dispatchers]

    def close(self, timeout: float = 5.0) -> None:
        """Stop the workers and end the jobs that are left with :class:`Cancelled`. May be repeated."""
        self._queue.close()
        for dispatcher in self._dispatchers:
            dispatcher.interrupt()
        deadline = time.monotonic() + timeout
        for dispatcher in self._dispatchers:
            dispatcher.thread.join(max(0.1, deadline - time.monotonic()))

    def _make_way(self, priority: Priority) -> None:
        """Ask work that is less urgent to yield, if it can."""
        for dispatcher in self._dispatchers:
            dispatcher.make_way(priority)


class _Dispatcher(Generic[RequestT, ResultT]):
    """One worker and the thread that feeds it from the queue."""

    def __init__(
        self,
        queue: JobQueue[RequestT, ResultT],
        worker: Worker[RequestT, ResultT],
        name: str,
        *,
        warm: bool,
        max_attempts: int,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._warm = warm
        self._max_attempts = max_attempts
        self._lock = threading.Lock()
        self._current: ModelJob[RequestT, ResultT] | None = None  # what the worker has begun
        self._retry_warm_at = 0.0
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def status(self) -> WorkerStatus:
        return self._worker.status

    def cancel(self, job: ModelJob[RequestT, ResultT]) -> None:
        with self._lock:
            if self._current is job:
                self._worker.cancel(job.number)

    def make_way(self, priority: Priority) -> None:
        with self._lock:
            if self._current is not None and self._current.priority > priority:
                self._worker.request_yield(self._current.number)

    def interrupt(self) -> None:
        self._worker.interrupt()

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._queue.closed:
                if self._warm and time.monotonic() >= self._retry_warm_at:
                    self._warm_up()
                job = self._queue.take(_POLL)
                if job is not None:
                    self._serve(job)
                else:
                    self._worker.check()
        finally:
            self._worker.stop()

    def _warm_up(self) -> None:
        if self._worker.status.state not in (WorkerState.STOPPED, WorkerState.FAILED):
            return
        try:
            self._worker.start()
        except (SteerSegError, WorkerLostError) as error:
            if not self._queue.closed:
                log.error("the models could not be loaded: %s", error)
        except Exception:  # this thread feeds every later job
            log.exception("the models could not be loaded")
        else:
            return
        # Asking for a prediction tries again at once; without one, not in a tight loop.
        self._retry_warm_at = time.monotonic() + _RETRY_WARM_UP

    def _serve(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Have the worker answer a job, and end it or put it back."""
        try:
            self._worker.start()
            job.attempts += 1
            job.succeed(self._answer(job))
        except SteerSegError as error:
            job.fail(error)
        except WorkerLostError as loss:
            self._retry(job, loss)
        except Exception as error:
            # This thread feeds every later job too, so that nothing may end it.
            log.exception("a request could not be handed to the model process")
            job.fail(SteerSegError(f"unexpected {type(error).__name__}; the server's log has the details"))

    def _answer(self, job: ModelJob[RequestT, ResultT]) -> ResultT:
        """Hand a job to the worker and keep what it reports until it ends.

        Raises:
            SteerSegError: The job failed or was cancelled.
            WorkerLostError: The worker died, stalled, or the executor is closing.
        """
        if job.cancelled:
            raise Cancelled("cancelled before it began")
        self._worker.begin(job.number, job.request)
        try:
            with self._lock:
                self._current = job
            if job.cancelled:  # between the look above and now
                self.cancel(job)
            if self._queue.waits_before(job.priority):  # came in between
                self.make_way(Priority(job.priority - 1))
            return self._worker.outcome(job.number, job.note)
        finally:
            with self._lock:
                self._current = None

    def _retry(self, job: ModelJob[RequestT, ResultT], loss: WorkerLostError) -> None:
        """Let a job whose worker was lost wait again, or give it up."""
        if self._queue.closed or job.cancelled:
            job.fail(Cancelled("cancelled while the model process was ending"))
        elif job.attempts < self._max_attempts:
            # Dying while loading is not the request's fault, but must not be retried forever either.
            job.attempts += self._worker.status.state is WorkerState.FAILED
            log.warning("%s; the request is tried again", loss)
            self._queue.put_back(job)
        else:
            job.fail(
                ModelError(
                    f"{loss}, {job.attempts} times on this request; a shorter or smaller video needs less "
                    "memory, and the server's log has the details"
                )
            )


ModelExecutor = Executor[ModelRequest, ModelAnswer]
