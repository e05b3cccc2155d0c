"""Jobs that answer clicks, boxes and paint: most urgent, one for the same question, the latest answers kept."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
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

log = logging.getLogger(__name__)

KIND = "steer"
_KEPT_ANSWERS = 64


@dataclass
class PendingSteering:
    """An answer that is there or on its way.

    Attributes:
        future: Where it or its error arrives.
        job: Number of the job that makes it.
        ticket: Its work; ``None`` before it was handed to the executor.
    """

    future: Future[SteerAnswer]
    job: int
    ticket: ModelJob[ModelRequest, ModelAnswer] | None = None

    @property
    def progress(self) -> str:
        """In words, for an annotator who waits."""
        if self.ticket is None or not self.ticket.stage:
            return "waiting for the model"
        return f"{self.ticket.stage}, {self.ticket.fraction:.0%}"


class SteeringJobs:
    """Answers steering requests by jobs of the model process.

    Args:
        store: Where jobs are noted.
        executor: What runs the models.
        metrics: What counts.
    """

    def __init__(self, database: Database, executor: ModelExecutor, metrics: Metrics) -> None:
        self._database = database
        self._job_store = JobStore(database)
        self._executor = executor
        self._metrics = metrics
        self._lock = threading.RLock()
        self._wishes: OrderedDict[str, PendingSteering] = OrderedDict()

    def request(self, digest: str, request: SteerRequest, *, owner: tuple[int, int]) -> PendingSteering:
        """Ask for an answer; returns at once.

        Args:
            digest: What the answer follows from; equal ones share a job, and its answer.
            request: What is asked.
            owner: Project and task.

        Raises:
            StoreError: The database cannot be used.
            Cancelled: The server is stopping.
        """
        with self._lock:
            known = self._wishes.get(digest)
            if known is not None:
                self._wishes.move_to_end(digest)
                self._metrics.proposals.labels("cached" if known.future.done() else "joined").inc()
                return known
            return self._start(digest, request, owner)

    def cancel(self, job_id: int) -> bool:
        """End a job: at once where it waits, at its next sign of progress where it runs.

        Whoever waits for it is told that it was cancelled; asking again begins it anew.

        Returns:
            Whether it is under way here; ``False`` where it has ended, or is no steering.
        """
        with self._lock:
            wish = next((wish for wish in self._wishes.values() if wish.job == job_id), None)
        if wish is None or wish.ticket is None or wish.future.done():
            return False
        self._executor.cancel(wish.ticket)
        return True

    def _start(self, digest: str, request: SteerRequest, owner: tuple[int, int]) -> PendingSteering:
        """Begin a job. The lock is held, so that its end cannot come before its beginning is noted."""
        job = self._job_store.add(
            KIND, digest, project_id=owner[0], task_id=owner[1], priority=Priority.INTERACTIVE
        )
        wish = PendingSteering(Future(), job)
        notes = ProgressNotes(self._database, job)
        try:
            wish.ticket = self._executor.submit(request, priority=Priority.INTERACTIVE, on_progress=notes)
        except Cancelled as error:
            self._job_store.finish(job, JobState.CANCELLED, error=str(error))
            raise
        notes.ticket = wish.ticket
        self._wishes[digest] = wish
        while len(self._wishes) > _KEPT_ANSWERS:
            self._wishes.popitem(last=False)
        wish.ticket.future.add_done_callback(lambda future: self._end(digest, job, wish, future))
        return wish

    def _end(self, digest: str, job: int, wish: PendingSteering, future: Future[ModelAnswer]) -> None:
        error = future.exception()
        answer = None if error is not None else future.result()
        if error is None and not isinstance(answer, SteerAnswer):
            error = SteerSegError(f"the model process answered with {type(answer).__name__}, not a track")
        try:
            if error is None:
                self._job_store.finish(job, JobState.DONE)
                self._metrics.proposals.labels("computed").inc()
            else:
                cancelled = isinstance(error, Cancelled)
                self._metrics.proposals.labels("cancelled" if cancelled else "failed").inc()
                message = str(error) if isinstance(error, SteerSegError) else type(error).__name__
                self._job_store.finish(
                    job, JobState.CANCELLED if cancelled else JobState.FAILED, error=message
                )
        except StoreError as trouble:
            # The answer itself is fine: whoever waits gets it.
            log.error("the end of job %d could not be noted: %s", job, trouble)
        if isinstance(answer, SteerAnswer):
            wish.future.set_result(answer)
            return
        with self._lock:
            self._wishes.pop(digest, None)  # asked for again, it is tried again
        wish.future.set_exception(error or SteerSegError("the model process gave no answer"))
