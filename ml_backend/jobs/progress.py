"""How far a job is, noted in the database while it runs, and when it waits again."""

from __future__ import annotations

import time

from ml_backend.database.database import Database
from ml_backend.jobs.store import JobStore
from ml_backend.models.messages import ModelAnswer, ModelRequest
from ml_backend.models.queue import ModelJob

_INTERVAL = 1.0  # seconds: one stage is noted at most this often


def describe_progress(stage: str, fraction: float, frames: int | None) -> str:
    """A job's stage and progress, for a person; by frames where the stage goes through them.

    Args:
        stage: Name of the stage.
        fraction: Part of it that is done, in [0, 1].
        frames: Number of frames of the video, where known.
    """
    if stage == "tracking" and frames is not None:
        return f"tracking, frame {round(fraction * frames)} of {frames}"
    return f"{stage}, {fraction:.0%}"


class ProgressNotes:
    """Notes the progress of one job. Called with stage and fraction, from the executor's thread.

    Args:
        database: The database.
        job_id: The job's number.
        earlier_attempts: Attempts by earlier processes of the server.

    Attributes:
        model_job: The job's work, once it is known: it counts the attempts, and knows how many frames there are.
    """

    def __init__(self, database: Database, job_id: int, earlier_attempts: int = 0) -> None:
        self._job_store = JobStore(database)
        self._job_id = job_id
        self._earlier_attempts = earlier_attempts
        self._stage: str | None = None
        self._time = 0.0
        self.model_job: ModelJob[ModelRequest, ModelAnswer] | None = None

    def __call__(self, stage: str, fraction: float) -> None:
        """Note a stage and its fraction in [0, 1], unless the same stage was noted a moment ago.

        No stage says that the job waits again: it made way, or its worker was lost.
        """
        now = time.monotonic()
        if stage == self._stage and now - self._time < _INTERVAL:
            return
        self._stage, self._time = stage, now
        job = self.model_job
        attempts = self._earlier_attempts + (1 if job is None else job.attempts)
        if not stage:
            self._job_store.requeue(self._job_id, attempts=attempts)
            return
        frames = None if job is None else job.frames
        self._job_store.update(
            self._job_id,
            stage=stage,
            fraction=fraction,
            attempts=attempts,
            frames=frames,
            message=describe_progress(stage, fraction, frames),
        )
