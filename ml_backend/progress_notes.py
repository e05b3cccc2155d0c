"""How far a job is, noted in the database while it runs."""

from __future__ import annotations

import time
from typing import Any

from ml_backend.executor import Ticket
from ml_backend.store import Store

_INTERVAL = 1.0  # seconds: one stage is noted at most this often


class ProgressNotes:
    """Notes the progress of one job. Called with stage and fraction, from the executor's thread.

    Args:
        store: The database.
        job: The job's number.

    Attributes:
        ticket: The job's work, once it is known: it counts the attempts.
    """

    def __init__(self, store: Store, job: int) -> None:
        self._store = store
        self._job = job
        self._stage: str | None = None
        self._time = 0.0
        self.ticket: Ticket[Any, Any] | None = None

    def __call__(self, stage: str, fraction: float) -> None:
        """Note a stage and its fraction in [0, 1], unless the same stage was noted a moment ago."""
        now = time.monotonic()
        if stage == self._stage and now - self._time < _INTERVAL:
            return
        self._stage, self._time = stage, now
        attempts = 1 if self.ticket is None else self.ticket.attempts
        self._store.update_job(self._job, stage=stage, fraction=fraction, attempts=attempts)
