"""The refinements of all projects: asked for, begun by the one process that may, cancelled, and shown."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ml_backend.background import BackgroundLoop
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import RefinementState
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Loader
from ml_backend.models.executor import ModelExecutor
from ml_backend.refinement.folders import FOLDER, lock_file
from ml_backend.refinement.run import RefinementSettings
from ml_backend.refinement.status import RefinementStatus
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.threads import RefinementThreads
from ml_backend.refinement.triggers import RefinementTriggers
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Schedule

log = logging.getLogger(__name__)

_TICK = 1.0  # seconds between two looks at what waits
_SCHEDULE_TICK = 20.0  # seconds between two looks at the clock


class RefinementManager:
    """Carries on the refinements of every project. Safe to share between threads.

    Of several processes with one data folder, one carries refinements on; the others only take requests.

    Args:
        settings: Settings of all refinements.
        triggers: Asks for refinements.
        schedule: When projects with new corrections are refined by themselves; ``None`` for never.
        database: The database.
        line: The prompt versions.
        media: Fetches media.
        connections: Connections to Label Studio.
        executor: Runs the models.
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
        self._triggers = triggers
        self._schedule = schedule
        self._project_store = ProjectStore(database)
        self._line = line
        self._refinements = RefinementStore(database)
        self._lock_file = settings.data_dir / FOLDER / "lock"
        self._lock: int | None = None
        self._tidied = False
        self._looked_at_clock = 0.0
        self._counts: Mapping[RefinementState, int] = {}
        self.loop = BackgroundLoop("refinement", self._look, pause=_TICK)
        self._threads = RefinementThreads(
            settings,
            database=database,
            line=line,
            media=media,
            connections=connections,
            executor=executor,
            refresh=refresh,
            on_end=self.loop.notify,
        )

    def start(self) -> None:
        """Carry on what an earlier process has left, and begin what is asked for from now on."""
        self.loop.start()

    def close(self) -> None:
        """Stop; what runs is carried on at the next start. The executor is to be closed before. May be repeated."""
        self._threads.stop()
        self.loop.close()  # it begins no more, so that the threads are all there
        self._threads.join()
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
        self._threads.halt(refinement_id)
        self.loop.notify()
        return True

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
    def counts(self) -> Mapping[RefinementState, int]:
        """How many refinements were in each state at the last look. Does not touch the database."""
        return self._counts

    @property
    def elsewhere(self) -> bool:
        """Whether another process carries the refinements of this data folder on."""
        return self._lock is None

    def _look(self) -> float:
        """Begin what waits, where no other process does; return the seconds until the next look."""
        if self._lock is None:
            self._lock = lock_file(self._lock_file)
        if self._lock is not None:
            if not self._tidied:
                self._threads.tidy()
                self._tidied = True
            self._threads.begin()
            self._look_at_clock()
        self._counts = self._refinements.count_by_state()
        return _TICK

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
