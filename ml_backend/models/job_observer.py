"""Who learns what becomes of each job of the workers."""

from __future__ import annotations

import enum
from typing import Any, Protocol

from ml_backend.models.affinity import Sighting
from ml_backend.models.queue import ModelJob


class JobEnd(enum.StrEnum):
    """How a job left a worker."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # the worker died under it
    YIELDED = "yielded"  # it made way for something more urgent


class JobObserver(Protocol):
    """Is told of each job, in the thread that feeds its worker; should return quickly and raise nothing."""

    def began(self, job: ModelJob[Any, Any], worker: int, waited: float, sighting: Sighting) -> None:
        """A worker begins a job.

        Args:
            job: The job.
            worker: Index of the worker.
            waited: Seconds that the job has waited since it was queued, or put back.
            sighting: Whether its video was seen before.
        """
        ...

    def spent(self, job: ModelJob[Any, Any], stage: str, seconds: float) -> None:
        """A job has left a stage.

        Args:
            job: The job.
            stage: Name of the stage.
            seconds: Time from its first sign to the next stage's, or to the end.
        """
        ...

    def ended(self, job: ModelJob[Any, Any], worker: int, end: JobEnd, seconds: float) -> None:
        """A job has left a worker.

        Args:
            job: The job.
            worker: Index of the worker.
            end: How.
            seconds: Time since it began.
        """
        ...


class SilentObserver:
    """An observer that keeps nothing."""

    def began(self, job: ModelJob[Any, Any], worker: int, waited: float, sighting: Sighting) -> None:
        """Keep nothing."""

    def spent(self, job: ModelJob[Any, Any], stage: str, seconds: float) -> None:
        """Keep nothing."""

    def ended(self, job: ModelJob[Any, Any], worker: int, end: JobEnd, seconds: float) -> None:
        """Keep nothing."""
