"""What each worker does now, and how much it has done lately."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_backend.models.messages import JOB_KINDS
from ml_backend.models.queue import ModelJob
from ml_backend.models.workers import WorkerStatus

WINDOW = 600.0
"""Seconds over which throughput is counted (our choice): long enough for a few proposals of a slow device."""


@dataclass(frozen=True)
class CurrentJob:
    """A job that a worker works on.

    Attributes:
        number: Its number in the queue.
        kind: What the work is called; see :data:`~ml_backend.models.messages.JOB_KINDS`.
        priority: How urgent it is, in lower case.
        stage: Name of the stage it is in; empty before the first.
        fraction: Part of that stage that is done, in [0, 1].
        seconds: Time since it began.
    """

    number: int
    kind: str
    priority: str
    stage: str
    fraction: float
    seconds: float


@dataclass(frozen=True)
class WorkerActivity:
    """A worker with its work.

    Attributes:
        index: Its number among the workers.
        status: How it stands.
        job: What it works on; ``None`` for nothing.
        done: Jobs that it has answered in the last ten minutes.
        busy: Part of the last ten minutes, or of the time since it came, in which it worked, in [0, 1].
    """

    index: int
    status: WorkerStatus
    job: CurrentJob | None
    done: int
    busy: float


class WorkLog:
    """The latest work of one worker. Safe to share between threads.

    Args:
        clock: Gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._ended: deque[tuple[float, float, bool]] = deque()
        self._began: float | None = None

    def begin(self) -> None:
        """Note that a job begins."""
        with self._lock:
            self._began = self._clock()

    def end(self, *, answered: bool) -> None:
        """Note that the job ends.

        Args:
            answered: Whether it has a result.
        """
        with self._lock:
            now = self._clock()
            if self._began is not None:
                self._ended.append((self._began, now, answered))
            self._began = None

    def activity(self, index: int, status: WorkerStatus, job: ModelJob[Any, Any] | None) -> WorkerActivity:
        """The worker as it is now.

        Args:
            index: Its number among the workers.
            status: How it stands.
            job: What it works on.
        """
        with self._lock:
            now = self._clock()
            start = max(self._since, now - WINDOW)
            while self._ended and self._ended[0][1] < start:
                self._ended.popleft()
            busy = sum(end - max(begin, start) for begin, end, _ in self._ended)
            began = self._began
            if began is not None:
                busy += now - max(began, start)
            done = sum(answered for _, _, answered in self._ended)
        current = None
        if job is not None:
            current = CurrentJob(
                number=job.number,
                kind=JOB_KINDS.get(type(job.request), "other"),
                priority=job.priority.name.lower(),
                stage=job.stage,
                fraction=job.fraction,
                seconds=now - (now if began is None else began),
            )
        return WorkerActivity(index, status, current, done, min(1.0, busy / max(now - start, 1e-9)))
