"""Jobs that answer clicks, boxes and paint: most urgent, one for the same question, the latest answers kept."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.tables import JobState
from ml_backend.jobs.progress import ProgressNotes
from ml_backend.jobs.store import JobStore
from ml_backend.metrics import Metrics
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import ModelAnswer, ModelRequest, SteerAnswer, SteerRequest
from ml_backend.models.queue import ModelJob, Priority
from steerseg.errors import Cancelled, SteerSegError
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

KIND = "steer"
_KEPT_ANSWERS = 64


@dataclass
class PendingSteering:
    """An answer that is there or on its way.

    Attributes:
        future: Where it or its error arrives.
        job_id: Number of the job that makes it.
        model_job: Its work; ``None`` before it was handed to the executor.
    """

    future: Future[SteerAnswer]
    job_id: int
    model_job: ModelJob[ModelRequest, ModelAnswer] | None = None

    @property
    def progress(self) -> str:
        """Its progress, for an annotator who waits."""
        if self.model_job is None or not self.model_job.stage:
            return "waiting for the model"
        return f"{self.model_job.stage}, {self.model_job.fraction:.0%}"


class SteeringJobs:
    """Answers steering requests by jobs of the model process. Safe to share between threads.

    Args:
        database: Keeps jobs.
        executor: Runs the models.
        metrics: Counts answers.
    """

    def __init__(self, database: Database, executor: ModelExecutor, metrics: Metrics) -> None:
        self._database = database
        self._job_store = JobStore(database)
        self._executor = executor
        self._metrics = metrics
        self._lock = threading.RLock()
        self._pending: LruCache[str, PendingSteering] = LruCache(_KEPT_ANSWERS)

    def request(self, digest: str, request: SteerRequest, *, owner: tuple[int, int]) -> PendingSteering:
        """Ask for an answer; returns at once.

        Args:
            digest: What the answer follows from; equal ones share a job, and its answer.
            request: What is asked for.
            owner: Project and task.

        Raises:
            StoreError: The database cannot be used.
            Cancelled: The server is stopping.
        """
        with self._lock:
            known = self._pending.get(digest)
            if known is not None:
                self._metrics.proposals.labels("cached" if known.future.done() else "joined").inc()
                return known
            return self._start(digest, request, owner)

    def cancel(self, job_id: int) -> bool:
        """End a job: at once where it waits, at its next sign of progress where it runs.

        Whoever waits for it learns that it was cancelled; asking again begins it anew.

        Returns:
            Whether it is under way here; ``False`` where it has ended, or is no steering.
        """
        with self._lock:
            pending = next((one for _, one in self._pending.items() if one.job_id == job_id), None)
        if pending is None or pending.model_job is None or pending.future.done():
            return False
        self._executor.cancel(pending.model_job)
        return True

    def _start(self, digest: str, request: SteerRequest, owner: tuple[int, int]) -> PendingSteering:
        """Begin a job. The lock is held, so that its end cannot come before its beginning is noted."""
        job_id = self._job_store.add(
            KIND, digest, project_id=owner[0], task_id=owner[1], priority=Priority.INTERACTIVE
        )
        pending = PendingSteering(Future(), job_id)
        notes = ProgressNotes(self._database, job_id)
        try:
            model_job = self._executor.submit(request, priority=Priority.INTERACTIVE, on_progress=notes)
        except Cancelled as error:
            self._job_store.finish(job_id, JobState.CANCELLED, error=str(error))
            raise
        pending.model_job = notes.model_job = model_job
        self._pending.put(digest, pending)
        model_job.future.add_done_callback(lambda future: self._end(digest, pending, future))
        return pending

    def _end(self, digest: str, pending: PendingSteering, future: Future[ModelAnswer]) -> None:
        error = future.exception()
        answer = None if error is not None else future.result()
        if error is None and not isinstance(answer, SteerAnswer):
            error = SteerSegError(f"the model process answered with {type(answer).__name__}, not a tracklet")
        try:
            self._note_end(pending.job_id, error)
        except StoreError as trouble:
            # The answer itself is fine: whoever waits gets it.
            log.error("the end of job %d could not be noted: %s", pending.job_id, trouble)
        if isinstance(answer, SteerAnswer):
            pending.future.set_result(answer)
            return
        with self._lock:
            self._pending.pop(digest)  # asked for again, it is tried again
        pending.future.set_exception(error or SteerSegError("the model process gave no answer"))

    def _note_end(self, job_id: int, error: BaseException | None) -> None:
        if error is None:
            self._job_store.finish(job_id, JobState.DONE)
            self._metrics.proposals.labels("computed").inc()
            return
        cancelled = isinstance(error, Cancelled)
        self._metrics.proposals.labels("cancelled" if cancelled else "failed").inc()
        message = str(error) if isinstance(error, SteerSegError) else type(error).__name__
        self._job_store.finish(job_id, JobState.CANCELLED if cancelled else JobState.FAILED, error=message)
