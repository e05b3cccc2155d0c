"""One worker and the thread that feeds it from the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic

from ml_backend.logs import request_scope
from ml_backend.models.activity import WorkerActivity, WorkLog
from ml_backend.models.affinity import VideoAffinity
from ml_backend.models.job_observer import JobEnd, JobObserver, SilentObserver
from ml_backend.models.messages import (
    JobReport,
    ProgressReport,
    ProposeRequest,
    RequestT,
    ResultT,
    Yielded,
)
from ml_backend.models.queue import JobQueue, ModelJob, Priority
from ml_backend.models.workers import Worker, WorkerLostError, WorkerState, WorkerStatus
from steerseg.errors import Cancelled, ModelError, SteerSegError

log = logging.getLogger(__name__)

_MOST_UPCOMING = 3
"""Jobs that a worker is told of while it works on another: with that, as many as are reasoned together."""

_MOST_YIELDS = 3
"""How often a proposal makes way, so that it ends however often an annotator clicks (our choice)."""

# How often an idle dispatcher looks up for a shutdown or the death of its worker, in seconds.
_POLL = 0.25

_MOST_LOSSES = 20
"""How often a job may lose its worker through no fault of its own, before that counts as its fault (our choice)."""

# How long a worker that could not load its models waits, without a request, to try again, in seconds.
_RETRY_WARM_UP = 60.0

# How long one that was lost waits for its cluster, before it is started again, in seconds.
_RETRY_LOST = 1.0


class Dispatcher(Generic[RequestT, ResultT]):
    """One worker and the thread that feeds it from the queue; other threads may call every method.

    Args:
        queue: Where jobs wait.
        worker: The worker.
        index: Its number among the workers, from 0.
        affinity: Learns which videos the worker sees.
        warm: Whether the worker is started at once and kept started.
        max_attempts: How often a job is begun in all when its worker dies under it.
        make_way: Called when the worker has begun a job: something more urgent may wait.
        others_fit: Whether a worker other than that of an index may be able to work.
        others_accept: Whether a worker other than that of an index may be able to work on a request.

    Attributes:
        observer: Learns what becomes of each job.
        thread: The thread; its owner starts it.
    """

    def __init__(
        self,
        queue: JobQueue[RequestT, ResultT],
        worker: Worker[RequestT, ResultT],
        index: int,
        *,
        affinity: VideoAffinity,
        warm: bool,
        max_attempts: int,
        make_way: Callable[[], None],
        others_fit: Callable[[int], bool],
        others_accept: Callable[[int, RequestT], bool],
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._index = index
        self._affinity = affinity
        self._warm = warm
        self._max_attempts = max_attempts
        self._make_way = make_way
        self._others_fit = others_fit
        self._others_accept = others_accept
        self._retired = threading.Event()
        self._log = WorkLog()
        self._lock = threading.Lock()
        self._current: ModelJob[RequestT, ResultT] | None = None  # what the worker has begun
        self._asked_to_yield = False  # whether that was asked to
        self._taken = False  # whether it begins a job in a moment
        self._restarts = 0
        self._retry_warm_at = 0.0
        self.observer: JobObserver = SilentObserver()
        self.thread = threading.Thread(target=self._run, name=f"executor-{index}", daemon=True)

    @property
    def status(self) -> WorkerStatus:
        """How the worker stands."""
        return self._worker.status

    @property
    def activity(self) -> WorkerActivity:
        """What the worker does, and what it has done lately."""
        return self._log.activity(self._index, self._worker.status, self._current)

    @property
    def fit(self) -> bool:
        """Whether the worker may be able to work: nothing says that it cannot load its models."""
        return self._worker.status.state is not WorkerState.FAILED

    @property
    def idle(self) -> bool:
        """Whether the worker begins the next job at once."""
        free = self._current is None and not self._taken
        return free and self._worker.status.state is WorkerState.READY

    @property
    def current(self) -> ModelJob[RequestT, ResultT] | None:
        """The job that the worker has begun."""
        return self._current

    def accepts(self, request: RequestT) -> bool:
        """Whether the worker may be able to work on a request."""
        return self.fit and self._worker.accepts(request)

    def yields(self, job: ModelJob[RequestT, ResultT]) -> bool:
        """Whether a job is the worker's and was asked to yield."""
        with self._lock:
            return self._current is job and self._asked_to_yield

    def may_yield(self, job: ModelJob[RequestT, ResultT]) -> bool:
        """Whether a job is the worker's, and makes way or would if it were asked to."""
        with self._lock:
            return self._current is job and (self._asked_to_yield or job.yields < _MOST_YIELDS)

    def cancel(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Ask for the end of a job, if it is the worker's."""
        with self._lock:
            if self._current is job:
                self._worker.cancel(job.number)

    def request_yield(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Ask a job to make way, if it is the worker's and was not asked before."""
        with self._lock:
            if self._current is job and not self._asked_to_yield and job.yields < _MOST_YIELDS:
                self._asked_to_yield = True
                self._worker.request_yield(job.number)

    def interrupt(self) -> None:
        """Let the thread leave whatever it waits for: the executor is closing."""
        self._worker.interrupt()

    def retire(self) -> None:
        """Let the thread end: the worker is gone, and takes no further job."""
        self._retired.set()
        self._worker.interrupt()

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._queue.closed and not self._retired.is_set():
                self._take_turn()
        finally:
            self._affinity.forget(self._index)
            self._worker.stop()

    def _take_turn(self) -> None:
        """Start the worker where it is to be, and serve a job if one comes soon."""
        unfit = not self.fit and self._others_fit(self._index)
        if (self._warm or unfit) and time.monotonic() >= self._retry_warm_at:
            self._warm_up()
            unfit = not self.fit and self._others_fit(self._index)
        if unfit:
            self._queue.wait(_POLL)  # the others take the jobs
            return
        job = self._queue.take(self._index, _POLL, self._may_take)
        if job is None:
            self._worker.check()
        else:
            self._taken = True
            try:
                with request_scope(job.request_id):
                    self._serve(job)
            finally:
                self._taken = False
        self._forget_lost_videos()

    def _may_take(self, request: RequestT) -> bool:
        """Whether a request is for this worker: one that no worker can work on is refused by any of them."""
        if self._retired.is_set():
            return False
        return self._worker.accepts(request) or not self._others_accept(self._index, request)

    def _warm_up(self) -> None:
        if self._worker.status.state not in (WorkerState.STOPPED, WorkerState.FAILED):
            return
        try:
            self._worker.start()
        except (SteerSegError, WorkerLostError) as error:
            if not self._queue.closed and not self._retired.is_set():
                log.error("the models could not be loaded: %s", error)
        except Exception:  # this thread feeds every later job
            log.exception("the models could not be loaded")
        else:
            return
        # Asking for a prediction tries again at once; without one, not in a tight loop.
        self._retry_warm_at = time.monotonic() + _RETRY_WARM_UP

    def _forget_lost_videos(self) -> None:
        restarts = self._worker.status.restarts
        if restarts != self._restarts:
            self._restarts = restarts
            self._affinity.forget(self._index)

    def _serve(self, job: ModelJob[RequestT, ResultT]) -> None:
        """Have the worker answer a job, and end it or put it back."""
        begun = False
        try:
            if not self._start_for(job):
                return
            job.attempts += 1
            begun = True
            answer = self._answer(job)
            if isinstance(answer, Yielded) and isinstance(job.request, ProposeRequest):
                job.attempts -= 1  # nobody asks again for it, as a refinement does for its slices
                job.yields += 1
                self._queue.put_back(job)
            else:
                job.succeed(answer)
        except SteerSegError as error:
            job.fail(error)
        except WorkerLostError as loss:
            self._retry(job, loss, begun=begun)
        except Exception as error:
            # This thread feeds every later job too, so that nothing may end it.
            log.exception("a request could not be handed to the model process")
            job.fail(SteerSegError(f"unexpected {type(error).__name__}; the server's log has the details"))

    def _start_for(self, job: ModelJob[RequestT, ResultT]) -> bool:
        """Have the worker's models loaded; where they cannot be, leave the job to another worker, if one may do it.

        Returns:
            Whether the worker is to begin the job.
        """
        try:
            self._worker.start()
        except (SteerSegError, WorkerLostError) as error:
            lost = isinstance(error, WorkerLostError) and error.blameless
            if self._queue.closed or (not lost and not self._others_fit(self._index)):
                raise
            log.error("worker %d could not be started, its job goes to another: %s", self._index, error)
            self._retry_warm_at = time.monotonic() + (0.0 if lost else _RETRY_WARM_UP)
            self._queue.put_back(job)
            if lost:  # its cluster brings it back or takes it away; until then, not in a tight loop
                self._retired.wait(_RETRY_LOST)
            return False
        return True

    def _answer(self, job: ModelJob[RequestT, ResultT]) -> ResultT:
        """Hand a job to the worker and keep what it reports until it ends.

        Raises:
            SteerSegError: The job failed or was cancelled.
            WorkerLostError: The worker died, stalled, or the executor is closing.
        """
        if job.cancelled:
            raise Cancelled("cancelled before it began")
        with self._observed(job) as clock:
            urgent = job.priority is Priority.INTERACTIVE
            self._worker.begin(job.number, job.request, job.request_id, self._upcoming(), urgent=urgent)
            try:
                with self._lock:
                    self._current, self._asked_to_yield, self._taken = job, False, False
                if job.cancelled:  # between the look above and now
                    self.cancel(job)
                if len(self._queue):  # came in between
                    self._make_way()
                answer = self._worker.outcome(job.number, lambda report: self._note(job, report, clock))
                clock.yielded = isinstance(answer, Yielded)
                return answer
            finally:
                with self._lock:
                    self._current = None

    def _upcoming(self) -> tuple[RequestT, ...]:
        """What the worker is probably given next, of what it reads ahead for."""
        following = self._queue.expect_next(
            self._index,
            lambda request: self._worker.reads_ahead(request) and self._may_take(request),
            most=_MOST_UPCOMING,
        )
        return tuple(job.request for job in following)

    def _note(self, job: ModelJob[RequestT, ResultT], report: JobReport, clock: _StageClock) -> None:
        if isinstance(report, ProgressReport):
            clock.enter(report.stage)
        job.note(report)

    @contextmanager
    def _observed(self, job: ModelJob[RequestT, ResultT]) -> Iterator[_StageClock]:
        """Tell the observer of a job's beginning, its stages and its end."""
        waited = self._queue.waited(job)
        self.observer.began(job, self._index, waited, self._affinity.note(self._index, job.video))
        self._log.begin()
        began = time.monotonic()
        clock = _StageClock(lambda stage, seconds: self.observer.spent(job, stage, seconds))
        end = JobEnd.FAILED
        try:
            yield clock
            end = JobEnd.YIELDED if clock.yielded else JobEnd.DONE
        except Cancelled:
            end = JobEnd.CANCELLED
            raise
        except WorkerLostError:
            end = JobEnd.LOST
            raise
        finally:
            clock.enter(None)
            self._log.end(answered=end is JobEnd.DONE)
            self.observer.ended(job, self._index, end, time.monotonic() - began)

    def _retry(self, job: ModelJob[RequestT, ResultT], loss: WorkerLostError, *, begun: bool) -> None:
        """Let a job whose worker was lost wait again, or give it up.

        Args:
            job: The job.
            loss: How the worker was lost.
            begun: Whether that counts as one of the job's attempts so far.
        """
        self._forget_lost_videos()  # before another worker may leave the job to this one
        blameless = loss.blameless and job.losses < _MOST_LOSSES
        if self._queue.closed or job.cancelled:
            job.fail(Cancelled("cancelled while the model process was ending"))
        elif blameless:
            job.losses += 1
            job.attempts = max(0, job.attempts - begun)
            log.warning("%s; the request goes to another worker", loss)
            self._queue.put_back(job)
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


class _StageClock:
    """Times the stages of one job by the moments when its progress changes its name.

    Args:
        spent: Called with each stage that was left, and its seconds.

    Attributes:
        yielded: Whether the job ended by making way.
    """

    def __init__(self, spent: Callable[[str, float], None]) -> None:
        self._spent = spent
        self.yielded = False
        self._stage: str | None = None
        self._since = 0.0

    def enter(self, stage: str | None) -> None:
        """Note that ``stage`` goes on; ``None`` at the end."""
        if stage == self._stage:
            return
        now = time.monotonic()
        if self._stage is not None:
            self._spent(self._stage, now - self._since)
        self._stage, self._since = stage, now
