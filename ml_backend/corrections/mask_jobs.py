"""The model's work on corrections: masks of boxes, and the frames that nobody decided."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ml_backend.corrections.comparison import UnusableError
from ml_backend.corrections.completion_store import PendingCorrection
from ml_backend.corrections.records import Problem
from ml_backend.database.database import Database
from ml_backend.database.tables import JobState
from ml_backend.jobs.progress import ProgressNotes
from ml_backend.jobs.store import JobStore
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import MaskAnswer, MaskRequest, ModelAnswer, ModelRequest
from ml_backend.models.queue import ModelJob, Priority
from steerseg.errors import Cancelled, SteerSegError, VideoError

KIND = "masks"


class GivenUpError(SteerSegError):
    """A person cancelled the model's work on a correction."""


@dataclass
class _MaskJob:
    """The model's work on a correction.

    Attributes:
        id: Number of the job.
        model_job: What was asked last.
        cancelled: Whether a person cancelled it.
    """

    id: int
    model_job: ModelJob[ModelRequest, ModelAnswer] | None = None
    cancelled: bool = False


class MaskJobs:
    """Asks the model process, one request at a time, each as a job that a person may cancel.

    Args:
        database: The database, which keeps the jobs.
        executor: What runs the models.
    """

    def __init__(self, database: Database, executor: ModelExecutor) -> None:
        self._database = database
        self._store = JobStore(database)
        self._executor = executor
        self._current: _MaskJob | None = None
        self._lock = threading.Lock()

    def ask(self, pending: PendingCorrection, request: MaskRequest) -> MaskAnswer:
        """Have boxes made masks, and masks propagated.

        Args:
            pending: The correction that it is for.
            request: What is asked.

        Raises:
            UnusableError: The media cannot be decoded.
            GivenUpError: A person cancelled it.
            SteerSegError: The model process could not answer.
        """
        number = self._store.add(
            KIND,
            f"correction {pending.id}",
            project_id=pending.project_id,
            task_id=pending.task_id,
            priority=Priority.REFINEMENT,
            expression=pending.decision.expression,
        )
        job = self._current = _MaskJob(number)
        try:
            answer = self._answer(job, request)
        except SteerSegError as error:
            state = JobState.CANCELLED if isinstance(error, Cancelled) else JobState.FAILED
            self._store.finish(number, state, error=str(error))
            if isinstance(error, Cancelled) and job.cancelled:
                raise GivenUpError(
                    "the model's work on it was cancelled on request; it is tried again when the project's "
                    "annotations are read anew"
                ) from error
            if isinstance(error, VideoError):
                raise UnusableError(Problem.MEDIA_GONE, str(error)) from error
            raise
        finally:
            self._current = None
        self._store.finish(number, JobState.DONE)
        return answer

    def _answer(self, job: _MaskJob, request: MaskRequest) -> MaskAnswer:
        """Ask the model process, again and again while it puts the request down for something more urgent."""
        notes = ProgressNotes(self._database, job.id)
        while True:
            model_job = self._executor.submit(request, priority=Priority.REFINEMENT, on_progress=notes)
            notes.model_job = model_job
            with self._lock:
                job.model_job = model_job
                cancelled = job.cancelled  # while it was put down
            if cancelled:
                self._executor.cancel(model_job)
            answer = model_job.result()
            if isinstance(answer, MaskAnswer):
                return answer

    def cancel(self, job_id: int) -> bool:
        """End a job, also in the middle.

        Returns:
            Whether it is under way here; ``False`` where it has ended, or is no work on a correction.
        """
        with self._lock:
            job = self._current
            if job is None or job.id != job_id:
                return False
            job.cancelled = True
            model_job = job.model_job
        if model_job is not None:
            self._executor.cancel(model_job)
        return True
