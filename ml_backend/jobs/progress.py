"""How far a job is, noted in the database while it runs."""

from __future__ import annotations

import time
from typing import Any

from ml_backend.database.database import Database
from ml_backend.jobs.store import JobStore
from ml_backend.models.queue import ModelJob

_INTERVAL = 1.0  # seconds: one stage is noted at most this often


def describe_progress(stage: str, fraction: float, frames: int | None) -> str:
    """Where a job is, for a person; by frames where it is frames that it goes through.

    Args:
        stage: Name of the stage.
        fraction: Part of it that is done, in [0, 1].
        frames: Of the video, where known.
    """
    if stage == "tracking" and frames is not None:
        return f"tracking, frame {round(fraction * frames)} of {frames}"
    return f"{stage}, {fraction:.0%}"


class ProgressNotes:
    """Notes the progress of one job. Called with stage and fraction, from the executor's thread.

    Args:
        store: The database.
        job: The job's number.
        before: Attempts by earlier processes of the server.

    Attributes:
        ticket: The job's work, once it is known: it counts the attempts, and knows how many frames there are.
    """

    def __init__(self, database: Database, job: int, before: int = 0) -> None:
        self._job_store = JobStore(database)
        self._job = job
        self._before = before
        self._stage: str | None = None
        self._time = 0.0
        self.ticket: ModelJob[Any, Any] | None = None

    def __call__(self, stage: str, fraction: float) -> None:
        """Note a stage and its fraction in [0, 1], unless the same stage was noted a moment ago."""
        now = time.monotonic()
        if stage == self._stage and now - self._time < _INTERVAL:
            return
        self._stage, self._time = stage, now
        ticket = self.ticket
        frames = None if ticket is None else ticket.frames
        self._job_store.update(
            self._job,
            stage=stage,
            fraction=fraction,
            attempts=self._before + (1 if ticket is None else ticket.attempts),
            frames=frames,
            message=describe_progress(stage, fraction, frames),
        )
