"""The threads that carry refinements on: one for each, a few at a time, and again after a passing trouble."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Loader
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import ModelAnswer, ModelRequest, TrainRequest
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.models.shared_training import RowCosts, SharedTraining
from ml_backend.refinement.folders import FEATURES, FOLDER, evict_features
from ml_backend.refinement.media import MediaPendingError
from ml_backend.refinement.run import RefinementRun, RefinementSettings
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.versions import PromptLine
from steerseg.errors import Cancelled, ModelError, SteerSegError
from steerseg.runtime.artefacts import remove_partials

log = logging.getLogger(__name__)

_RETRY = 30.0  # seconds until what could not be carried on is tried again
_RETRY_MODEL = 1.0  # the same after the model process failed, which is new by then
_PATIENCE = 20  # times that media which cannot be had are waited for
_FAILURES = 3  # times in a row that the model process may fail without any progress
_AT_ONCE = 2  # refinements of different projects that go on at the same time


@dataclass
class _ActiveRun:
    """A refinement that a thread carries on, or will again.

    Attributes:
        thread: The thread; ``None`` before the first.
        model_jobs: What it waits for: a slice, or the shares of a step.
        ended: Whether nothing more is to be asked for it.
        not_before: When the next thread may begin, by this process's clock.
        waits: How often its media could not be had.
        failures: How often in a row the model process failed without any progress.
        progress: Phase and steps at the last failure.
    """

    thread: threading.Thread | None = None
    model_jobs: Sequence[ModelJob[ModelRequest, ModelAnswer]] = ()
    ended: bool = False
    not_before: float = 0.0
    waits: int = 0
    failures: int = 0
    progress: tuple[str, int] = ("", 0)

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class RefinementThreads:
    """Carries refinements on. One thread begins them; the other methods may be called from any.

    Args:
        settings: Settings of all refinements.
        database: The database.
        line: The prompt versions.
        media: Fetches media.
        connections: Connections to Label Studio.
        executor: Runs the models.
        refresh: Brings a project's corrections up to date.
        on_end: Called when a thread ends, whether its refinement has ended or goes on later.
    """

    def __init__(
        self,
        settings: RefinementSettings,
        *,
        database: Database,
        line: PromptLine,
        media: Loader,
        connections: Connections,
        executor: ModelExecutor,
        refresh: Callable[[int], None],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._line = line
        self._media = media
        self._connections = connections
        self._executor = executor
        self._refresh = refresh
        self._on_end = on_end
        self._refinements = RefinementStore(database)
        self._costs = RowCosts()
        self._folder = settings.data_dir / FOLDER
        self._lock = threading.Lock()
        self._runs: dict[int, _ActiveRun] = {}
        self._closing = False

    def tidy(self) -> None:
        """Remove what refinements have left that ended while they were being removed; nothing may go on yet."""
        active = {str(refinement.id) for refinement in self._refinements.active()}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name.isdigit() and folder.name not in active:
                shutil.rmtree(folder, ignore_errors=True)
        remove_partials(self._folder / FEATURES)
        for folder in self._folder.glob("*/"):
            remove_partials(folder)

    def begin(self) -> None:
        """Begin the refinements that wait, as far as there is room, and forget those that ended.

        Raises:
            StoreError: The database cannot be read.
            ArtefactError: Vision features cannot be removed.
        """
        active = self._refinements.active()
        known = {refinement.id for refinement in active}
        for number in [number for number in self._runs if number not in known]:
            self.halt(number)  # another process may have cancelled it
            if not self._runs[number].alive:
                self._runs.pop(number)
                shutil.rmtree(self._folder / str(number), ignore_errors=True)
        busy = [run for run in self._runs.values() if run.alive]
        for refinement in active:
            with self._lock:
                run = self._runs.setdefault(refinement.id, _ActiveRun())
            if run.alive or len(busy) >= _AT_ONCE or time.monotonic() < run.not_before:
                continue
            if not busy:
                evict_features(self._settings.data_dir, self._settings.feature_bytes)
            run.thread = threading.Thread(
                target=self._carry_on,
                args=(refinement, run),
                name=f"refinement-{refinement.id}",
                daemon=True,
            )
            run.thread.start()
            busy.append(run)

    def halt(self, refinement_id: int) -> None:
        """End the slice of a refinement that has ended, and let it ask for none any more."""
        with self._lock:
            run = self._runs.get(refinement_id)
            if run is None:
                return
            run.ended = True
            model_jobs = list(run.model_jobs)
        for model_job in model_jobs:
            self._executor.cancel(model_job)

    def stop(self) -> None:
        """Let no refinement ask for a further slice. Returns at once."""
        with self._lock:
            self._closing = True

    def join(self, timeout: float = 2.0) -> None:
        """Wait for the threads, each for at most ``timeout`` seconds."""
        for thread in [run.thread for run in list(self._runs.values()) if run.thread]:
            if thread.is_alive():
                thread.join(timeout)

    # --- one refinement, in its thread

    def _carry_on(self, refinement: Refinement, active: _ActiveRun) -> None:
        run = RefinementRun(
            refinement,
            self._settings,
            database=self._database,
            line=self._line,
            media=self._media,
            connections=self._connections,
            ask=partial(self._ask, active),
            refresh=self._refresh,
            patient=active.waits < _PATIENCE,
        )
        try:
            run.run()
        except Cancelled as error:
            log.info("refinement %d stops here: %s", refinement.id, error)
        except MediaPendingError as error:
            active.waits += 1
            active.not_before = time.monotonic() + _RETRY
            self._note(refinement, str(error))
        except StoreError as error:
            active.not_before = time.monotonic() + _RETRY
            log.error("refinement %d is tried again: %s", refinement.id, error)
        except ModelError as error:
            if self._count_failures(refinement, active) < _FAILURES:
                active.not_before = time.monotonic() + _RETRY_MODEL
                log.warning("refinement %d is carried on after: %s", refinement.id, error)
            else:
                self._give_up(refinement, run, str(error))
        except SteerSegError as error:
            self._give_up(refinement, run, str(error))
        except Exception as error:
            log.exception("refinement %d: unexpected error", refinement.id)
            self._give_up(
                refinement, run, f"unexpected {type(error).__name__}; the server's log has the details"
            )
        self._on_end()

    def _ask(self, active: _ActiveRun, request: ModelRequest) -> ModelAnswer:
        """Have a slice answered; one of a training by all workers that are idle."""
        if isinstance(request, TrainRequest) and self._idle() > 1:
            return SharedTraining(partial(self._ask_all, active), self._idle, self._costs).train(request)
        return self._ask_all(active, [request])[0]

    def _idle(self) -> int:
        return self._executor.free_for(Priority.REFINEMENT)

    def _ask_all(self, active: _ActiveRun, requests: Sequence[ModelRequest]) -> list[ModelAnswer]:
        """Have requests answered side by side; where one fails or is cancelled, so are the others."""
        with self._lock:
            if self._closing:
                raise Cancelled("the server is stopping; it is carried on at the next start")
            if active.ended:
                raise Cancelled("it was cancelled")
        jobs = [self._executor.submit(request, priority=Priority.REFINEMENT) for request in requests]
        with self._lock:
            active.model_jobs = jobs
            ended = active.ended  # between the look above and now
        try:
            if ended:
                raise Cancelled("it was cancelled")
            return [job.result() for job in jobs]
        except SteerSegError:
            for job in jobs:
                self._executor.cancel(job)
            raise

    def _count_failures(self, refinement: Refinement, active: _ActiveRun) -> int:
        """How often the model process has failed in a row without any progress of the refinement."""
        now = self._refinements.get(refinement.id) or refinement
        progress = (now.phase, now.done)
        active.failures = 1 if progress != active.progress else active.failures + 1
        active.progress = progress
        return active.failures

    def _give_up(self, refinement: Refinement, run: RefinementRun, reason: str) -> None:
        # The files first: on a full disk they are the room that noting the end needs.
        run.remove_files()
        log.error("refinement %d of project %d failed: %s", refinement.id, refinement.project_id, reason)
        try:
            self._refinements.fail(refinement.id, reason)
        except StoreError as error:
            log.error("the end of refinement %d could not be noted: %s", refinement.id, error)

    def _note(self, refinement: Refinement, note: str) -> None:
        log.warning("refinement %d: %s", refinement.id, note)
        try:
            self._refinements.add_note(refinement.id, note)
        except StoreError as error:
            log.error("refinement %d: %s", refinement.id, error)
