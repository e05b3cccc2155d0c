"""Tasks without annotations predicted anew after their project's version has changed, the least certain first."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from ml_backend.background import BackgroundLoop
from ml_backend.database.database import Database
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import Task
from ml_backend.predictions.late import Deliverer
from ml_backend.predictions.model_versions import ModelVersions
from steerseg.errors import SteerSegError

log = logging.getLogger(__name__)

_TICK = 2.0  # seconds between two looks at the projects' versions
_RETRY = 60.0  # seconds until a project that could not be read is tried again
_AT_ONCE = 2  # tasks that are asked for at the same time, so that other batches get their turn


class Repredictor:
    """Follows the projects' versions; a refinement, a person and a rollback that change one have the same effect.

    Args:
        database: The database.
        connections: Connections to Label Studio.
        versions: The versions of predictions.
        deliverer: Has tasks predicted and their predictions stored.
    """

    def __init__(
        self,
        database: Database,
        connections: Connections,
        versions: ModelVersions,
        deliverer: Deliverer,
    ) -> None:
        self._proposals = ProposalStore(database)
        self._projects = ProjectStore(database)
        self._connections = connections
        self._versions = versions
        self._deliverer = deliverer
        self._not_before: dict[int, float] = {}  # projects that could not be read, by the monotonic clock
        self.loop = BackgroundLoop("repredict", self._look, pause=_TICK)

    def start(self) -> None:
        """Begin, with what an earlier process has left."""
        self.loop.start()

    def close(self) -> None:
        """Stop; what is left is taken up at the next start. May be repeated."""
        self.loop.close()

    def _look(self) -> float:
        """Follow the versions of all projects; return the seconds until the next look."""
        for project in self._projects.all():
            if not self.loop.closing:
                self._look_at(project)
        return _TICK

    def _look_at(self, project: Project) -> None:
        version = self._versions.current(project.id).name
        # The prompt version alone counts: a new release or preset is Label Studio's to ask for.
        prompts = version.partition("+")[2]
        if prompts == (project.repredicted or "") or time.monotonic() < self._not_before.get(project.id, 0.0):
            return
        # Also after an unexpected error, so that the other projects have their turn.
        self._not_before[project.id] = time.monotonic() + _RETRY
        try:
            done = self._repredict(project, version)
        except SteerSegError as error:
            log.warning("project %d: its tasks are not predicted anew yet: %s", project.id, error)
            done = False
        if done:
            self._projects.note_repredicted(project.id, prompts)
            log.info("project %d: its tasks without annotations were predicted by %s", project.id, version)
            del self._not_before[project.id]

    def _repredict(self, project: Project, version: str) -> bool:
        """Predict a project's tasks; return whether all had their turn.

        Raises:
            LabelStudioError: Its tasks cannot be read.
        """
        client = self._connections.client(project)
        if client is None:
            return False
        certainty = self._proposals.certainties(project.id)
        tasks = [task for task in client.tasks.of_project(project.id) if wants_prediction(task)]
        tasks.sort(key=lambda task: (certainty.get(int(task["id"]), 0.0), int(task["id"])))
        running: set[Future[Any]] = set()
        for task in tasks:
            while len(running) >= _AT_ONCE and not self.loop.closing:
                _, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            if self.loop.closing:
                return False
            if self._versions.current(project.id).name != version:
                return True  # a newer one has its own turn at once
            begun = self._deliverer.predict_again(project, Task(int(task["id"]), task["data"]), version)
            if begun is not None:
                running.add(begun)
        while running and not self.loop.closing:
            _, running = wait(running, timeout=_TICK)
        return not self.loop.closing


def wants_prediction(task: Mapping[str, Any]) -> bool:
    """Whether a task was predicted before and nobody has annotated it; others Label Studio asks for when opened."""
    return (
        not task.get("total_annotations")
        and not task.get("is_labeled")
        and bool(task.get("total_predictions"))
    )
