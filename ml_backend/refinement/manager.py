"""When a project's champion is refined, and who carries it on: triggers, one run a project, after a kill as well."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import ProjectStore
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Loader
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import ModelAnswer, ModelRequest
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.refinement.folders import FEATURES, FOLDER, evict_features
from ml_backend.refinement.media import MediaPendingError
from ml_backend.refinement.run import RefinementRun, RefinementSettings
from ml_backend.refinement.status import RefinementStatus
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.triggers import RefinementTriggers
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Schedule
from steerseg.errors import ArtefactError, Cancelled, ModelError, SteerSegError
from steerseg.runtime.artefacts import remove_partials

log = logging.getLogger(__name__)

_TICK = 1.0  # seconds between two looks at what waits
_SCHEDULE_TICK = 20.0  # seconds between two looks at the clock
_RETRY = 30.0  # seconds until what could not be carried on is tried again
_PATIENCE = 20  # times that media which cannot be had are waited for
_FAILURES = 3  # times in a row that the model process may fail without any progress
_AT_ONCE = 2  # refinements of different projects that are carried on at the same time


@dataclass
class _Carried:
    """A refinement that a thread carries on, or will again."""

    thread: threading.Thread | None = None
    ticket: ModelJob[ModelRequest, ModelAnswer] | None = None  # of the slice that it waits for
    ended: bool = False  # nothing more is to be asked for it
    not_before: float = 0.0
    waits: int = 0
    failures: int = 0
    progress: tuple[str, int] = ("", 0)

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class RefinementManager:
    """Carries on the refinements of every project. Safe to share between threads.

    Of several processes with one data folder, one carries refinements on; the others only take requests.

    Args:
        settings: What all refinements have in common.
        triggers: What asks for refinements.
        schedule: When projects with new corrections are refined by themselves; ``None`` for never.
        database: The database.
        line: The prompt versions.
        media: What fetches media.
        connections: Connections to Label Studio.
        executor: What runs the models.
        refresh: Brings a project's corrections up to date.
    """

    def __init__(
        self,
        settings: RefinementSettings,
        *,
        triggers: RefinementTriggers,
        schedule: Schedule | None,
        database: Database,
        line: PromptLine,
        media: Loader,
        connections: Connections,
        executor: ModelExecutor,
        refresh: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._triggers = triggers
        self._schedule = schedule
        self._database = database
        self._project_store = ProjectStore(database)
        self._line = line
        self._media = media
        self._connections = connections
        self._executor = executor
        self._refresh = refresh
        self._refinements = RefinementStore(database)
        self._corrections = CorrectionStore(database)
        self._folder = settings.data_dir / FOLDER
        self._carried_lock = threading.Lock()
        self._carried: dict[int, _Carried] = {}
        self._looked_at_clock = 0.0
        self._lock: int | None = None
        self._tidied = False
        self.loop = BackgroundLoop("refinement", self._look, pause=_TICK)

    def start(self) -> None:
        """Carry on what an earlier process has left, and begin what is asked for from now on."""
        self.loop.start()

    def close(self) -> None:
        """Stop; what runs is carried on at the next start. The executor is to be closed before. May be repeated."""
        self.loop.close()  # it begins no more, so that the others are all there
        for thread in [one.thread for one in list(self._carried.values()) if one.thread]:
            if thread.is_alive():
                thread.join(2.0)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- requests

    def request(self, project_id: int, trigger: str) -> Refinement:
        """Ask for a refinement and begin it at once; see :meth:`RefinementTriggers.request`."""
        refinement = self._triggers.request(project_id, trigger)
        self.loop.notify()
        return refinement

    def cancel(self, refinement_id: int) -> bool:
        """End a refinement, also in the middle of a slice; the champion stays as it is.

        What it has prepared and trained is removed. A trigger that it remembers becomes a refinement of its own.

        Returns:
            Whether there was something to end.

        Raises:
            StoreError: The database cannot be written.
        """
        if not self._refinements.cancel(refinement_id, "cancelled on request; the champion stays as it is"):
            return False
        log.info("refinement %d is cancelled on request", refinement_id)
        self._halt(refinement_id)
        self.loop.notify()
        return True

    def _halt(self, refinement_id: int) -> None:
        """End the slice of a refinement that has ended, and let it ask for none any more."""
        with self._carried_lock:
            carried = self._carried.get(refinement_id)
            if carried is None:
                return
            carried.ended = True
            ticket = carried.ticket
        if ticket is not None:
            self._executor.cancel(ticket)

    # --- what a person sees

    def status(self, project_id: int) -> RefinementStatus:
        """How a project's refinements stand.

        Raises:
            StoreError: The database cannot be read.
        """
        latest = self._refinements.latest(project_id)
        champion = self._line.champion(project_id)
        return RefinementStatus(
            project_id=project_id,
            champion=None if champion is None else champion.name,
            new_corrections=self._triggers.new_corrections(project_id),
            refine_after=self._triggers.threshold(project_id),
            current=latest[0] if latest and latest[0].active else None,
            history=tuple(refinement for refinement in latest if not refinement.active),
        )

    def latest(self, limit: int = 10) -> list[Refinement]:
        """The newest refinements of all projects, newest first."""
        return self._refinements.latest(limit=limit)

    # --- carrying on

    @property
    def elsewhere(self) -> bool:
        """Whether another process carries the refinements of this data folder on."""
        return self._lock is None

    def _look(self) -> float:
        """Begin what waits, where no other process does; return the seconds until the next look."""
        if self._lock is None:
            self._lock = _take(self._folder / "lock")
        if self._lock is not None:
            if not self._tidied:
                self._tidy()
                self._tidied = True
            self._begin_what_waits()
            self._look_at_clock()
        return _TICK

    def _tidy(self) -> None:
        """Remove what refinements have left that ended while they were being removed."""
        active = {str(refinement.id) for refinement in self._refinements.active()}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name.isdigit() and folder.name not in active:
                shutil.rmtree(folder, ignore_errors=True)
        remove_partials(self._folder / FEATURES)
        for folder in self._folder.glob("*/"):
            remove_partials(folder)

    def _begin_what_waits(self) -> None:
        active = self._refinements.active()
        known = {refinement.id for refinement in active}
        for number in [number for number in self._carried if number not in known]:
            self._halt(number)  # another process may have cancelled it
            if not self._carried[number].alive:
                self._carried.pop(number)
                shutil.rmtree(self._folder / str(number), ignore_errors=True)
        busy = [one for one in self._carried.values() if one.alive]
        for refinement in active:
            with self._carried_lock:
                carried = self._carried.setdefault(refinement.id, _Carried())
            if carried.alive or len(busy) >= _AT_ONCE or time.monotonic() < carried.not_before:
                continue
            if not busy:
                evict_features(self._settings.data_dir, self._settings.feature_bytes)
            carried.thread = threading.Thread(
                target=self._carry_on,
                args=(refinement, carried),
                name=f"refinement-{refinement.id}",
                daemon=True,
            )
            carried.thread.start()
            busy.append(carried)

    def _carry_on(self, refinement: Refinement, carried: _Carried) -> None:
        run = RefinementRun(
            refinement,
            self._settings,
            database=self._database,
            line=self._line,
            media=self._media,
            connections=self._connections,
            ask=partial(self._ask, carried),
            refresh=self._refresh,
            patient=carried.waits < _PATIENCE,
        )
        try:
            run.run()
        except Cancelled as error:
            log.info("refinement %d stops here: %s", refinement.id, error)
        except MediaPendingError as error:
            carried.waits += 1
            carried.not_before = time.monotonic() + _RETRY
            self._note(refinement, str(error))
        except StoreError as error:
            carried.not_before = time.monotonic() + _RETRY
            log.error("refinement %d is tried again: %s", refinement.id, error)
        except ModelError as error:
            if self._failed_in_a_row(refinement, carried) < _FAILURES:
                carried.not_before = time.monotonic() + _TICK
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
        self.loop.notify()

    def _ask(self, carried: _Carried, request: ModelRequest) -> ModelAnswer:
        with self._carried_lock:
            if self.loop.closing:
                raise Cancelled("the server is stopping; it is carried on at the next start")
            if carried.ended:
                raise Cancelled("it was cancelled")
        ticket = self._executor.submit(request, priority=Priority.REFINEMENT)
        with self._carried_lock:
            carried.ticket = ticket
            ended = carried.ended  # between the look above and now
        if ended:
            self._executor.cancel(ticket)
        return ticket.result()

    def _failed_in_a_row(self, refinement: Refinement, carried: _Carried) -> int:
        now = self._refinements.get(refinement.id) or refinement
        progress = (now.phase, now.done)
        carried.failures = 1 if progress != carried.progress else carried.failures + 1
        carried.progress = progress
        return carried.failures

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

    # --- the clock

    def _look_at_clock(self) -> None:
        if self._schedule is None or time.monotonic() - self._looked_at_clock < _SCHEDULE_TICK:
            return
        self._looked_at_clock = time.monotonic()
        for project in self._project_store.all():
            latest = self._refinements.latest(project.id, limit=1)
            if latest and latest[0].active:
                continue
            # Failed ones count as well here: what fails is tried again at the next time, not at once.
            since = latest[0].created_at if latest else None
            if self._schedule.due(since, datetime.now(UTC)) and self._triggers.new_corrections(project.id):
                self.request(project.id, "the schedule")


def _take(path: Path) -> int | None:
    """Take the lock of a data folder; ``None`` where another process has it. A process that ends gives it back.

    Raises:
        ArtefactError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written: {error.strerror}; check STEERSEG_DATA_DIR") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
