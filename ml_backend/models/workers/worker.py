"""What a worker is: it owns a device and its models, and works on one job at a time."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ml_backend.models.messages import JobReport
from ml_backend.models.process import Request_contra, Result_co


class WorkerState(enum.StrEnum):
    """The state of a worker."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as ``/health`` and the status page show it.

    Attributes:
        state: What it is doing.
        pid: Its process, while there is one.
        restarts: How often it was replaced after it died.
        error: Why it could not load its models, in state ``failed``.
        device: Where its models run, as the settings name it.
        host: The machine that it is on, where that is a host of a cluster; empty on the server's own.
        switched_off: What its models' preset asks for and cannot have, for a person; empty where it has all.
    """

    state: WorkerState
    pid: int | None
    restarts: int
    error: str | None
    device: str = ""
    host: str = ""
    switched_off: str = ""


class WorkerLostError(Exception):
    """A worker ended without an answer. The message says how; a new one may answer the same request.

    Args:
        message: How it ended.
        blameless: Whether the request had no part in it, as where a host left its cluster.
    """

    def __init__(self, message: str, *, blameless: bool = False) -> None:
        super().__init__(message)
        self.blameless = blameless


class Worker(Protocol[Request_contra, Result_co]):
    """Owns a device and its models, and works on one job at a time.

    What every implementation keeps to is tested by ``tests/support/worker_suite.py``. Above all, a worker that
    raises :class:`WorkerLostError` does no more work on the job: another one may begin it at once.

    One thread starts it, begins jobs and waits for their outcome; ``status``, ``cancel``, ``request_yield`` and
    ``interrupt`` may be called from any thread, and return at once.
    """

    @property
    def status(self) -> WorkerStatus:
        """How it stands."""
        ...

    def accepts(self, request: Request_contra) -> bool:
        """Whether it can work on a request; returns at once. One that cannot refuses it in ``begin``."""
        ...

    def reads_ahead(self, request: Request_contra) -> bool:
        """Whether it reads the video of a request that is upcoming while it works; then that job is kept for it."""
        ...

    def start(self) -> None:
        """Have loaded models; returns at once where they are.

        Raises:
            SteerSegError: The models cannot be loaded.
            WorkerLostError: It died while loading.
        """
        ...

    def begin(
        self,
        job: int,
        request: Request_contra,
        request_id: str,
        upcoming: tuple[Request_contra, ...] = (),
        *,
        urgent: bool = False,
    ) -> None:
        """Begin a job.

        Args:
            job: Number of the job.
            request: The request.
            request_id: What the worker's log lines about the job carry; may be empty.
            upcoming: What it is probably given next, soonest first: it may read these videos meanwhile, or ignore them.
            urgent: Whether a person waits, so that nothing is done for what is upcoming that takes from this.

        Raises:
            SteerSegError: It cannot work on the request.
            WorkerLostError: It has died.
        """
        ...

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> Result_co:
        """Wait for the end of the job that was begun.

        Args:
            job: Number of the job.
            on_report: Called with each report on the job meanwhile.

        Raises:
            SteerSegError: The job failed or was cancelled.
            WorkerLostError: It died, stalled, or was interrupted.
        """
        ...

    def cancel(self, job: int) -> None:
        """Ask for the end of a job that was begun."""
        ...

    def request_yield(self, job: int) -> None:
        """Ask a job that was begun to make way."""
        ...

    def check(self) -> None:
        """See whether it died while it was idle; a dead one is started anew by the next job."""
        ...

    def interrupt(self) -> None:
        """Let whoever waits in ``start`` or ``outcome`` get a :class:`WorkerLostError`: the server is stopping."""
        ...

    def stop(self) -> None:
        """End it."""
        ...
