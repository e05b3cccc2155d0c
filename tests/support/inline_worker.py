"""A worker without a process: its handler runs in the thread that waits for the outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ml_backend.models.messages import FrameCountReport, JobReport, ProgressReport
from ml_backend.models.process import Handler, ProcessLostError, Reducible
from ml_backend.models.workers import WorkerLostError, WorkerState, WorkerStatus
from steerseg.errors import Cancelled, ConfigError, ModelError, SteerSegError


class _InterruptedError(Exception):
    pass


class InlineWorker:
    """For tests and simulations of what is above the workers. A handler that raises ``ProcessLostError`` dies.

    One with ``refuses`` takes no request whose first word that is. To interrupt one is no fault of its job.
    """

    def __init__(
        self,
        factory: Callable[[], Handler[Any, Any]],
        *,
        device: str = "",
        refuses: str = "",
        reads_ahead: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        self._factory = factory
        self._refuses = refuses
        self._reads_ahead = reads_ahead
        self._device = device
        self._handler: Handler[Any, Any] | None = None
        self._request: Any = None
        self._state = WorkerState.STOPPED
        self._error: str | None = None
        self._restarts = 0
        self._cancelled: set[int] = set()
        self._yielding: set[int] = set()
        self._interrupted = threading.Event()

    @property
    def status(self) -> WorkerStatus:
        switched_off = self._handler.switched_off if isinstance(self._handler, Reducible) else ""
        return WorkerStatus(
            self._state, None, self._restarts, self._error, self._device, switched_off=switched_off
        )

    def accepts(self, request: Any) -> bool:
        return not self._refuses or request[0] != self._refuses

    def reads_ahead(self, request: Any) -> bool:
        return self._reads_ahead(request)

    def start(self) -> None:
        if self._handler is not None:
            return
        self._state, self._error = WorkerState.LOADING, None
        try:
            self._handler = self._factory()
        except SteerSegError as error:
            self._state, self._error = WorkerState.FAILED, str(error)
            raise
        self._state = WorkerState.READY

    def begin(
        self, job: int, request: Any, request_id: str, upcoming: tuple[Any, ...] = (), *, urgent: bool = False
    ) -> None:
        if not self.accepts(request):
            raise ConfigError(f"it does not {self._refuses}")
        self._request = request
        self._state = WorkerState.BUSY

    def outcome(self, job: int, on_report: Callable[[JobReport], None]) -> Any:
        assert self._handler is not None
        try:
            return self._handler(self._request, _InlineReporter(self, job, on_report))
        except (ProcessLostError, _InterruptedError) as error:
            self._handler = None
            self._restarts += 1
            blameless = isinstance(error, _InterruptedError)
            raise WorkerLostError(f"the worker was lost ({error})", blameless=blameless) from error
        except SteerSegError:
            raise
        except Exception as error:
            raise ModelError(f"unexpected {type(error).__name__} while working on the request") from error
        finally:
            self._state = WorkerState.STOPPED if self._handler is None else WorkerState.READY
            self._cancelled.discard(job)
            self._yielding.discard(job)

    def cancel(self, job: int) -> None:
        self._cancelled.add(job)

    def request_yield(self, job: int) -> None:
        self._yielding.add(job)

    def check(self) -> None:
        pass

    def interrupt(self) -> None:
        self._interrupted.set()

    def stop(self) -> None:
        self._handler = None
        self._state = WorkerState.STOPPED


class _InlineReporter:
    def __init__(self, worker: InlineWorker, job: int, on_report: Callable[[JobReport], None]) -> None:
        self._worker = worker
        self._job = job
        self._on_report = on_report

    @property
    def should_yield(self) -> bool:
        return self._job in self._worker._yielding

    def frames(self, count: int) -> None:
        self._on_report(FrameCountReport(self._job, count))

    def progress(self, stage: str, fraction: float) -> None:
        if self._worker._interrupted.is_set():
            raise _InterruptedError("the server is stopping")
        if self._job in self._worker._cancelled:
            raise Cancelled(f"cancelled during {stage}")
        self._on_report(ProgressReport(self._job, stage, fraction))
