"""What asks for a refinement: a person, an event, the schedule, or enough corrections."""

from __future__ import annotations

import logging

from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import ProjectStore
from ml_backend.refinement.store import Refinement, RefinementStore

log = logging.getLogger(__name__)


class RefinementTriggers:
    """Asks for refinements, which :class:`ml_backend.refinement.manager.RefinementManager` begins a moment later.

    Args:
        database: The database.
        refine_after: Accepted corrections after which a project is refined by itself; 0 for never.
        trainable: Whether there is a language model to train soft prompts for; without one, no project is refined by
            itself.
    """

    def __init__(self, database: Database, refine_after: int, *, trainable: bool = True) -> None:
        self._refine_after = refine_after
        self._trainable = trainable
        self._projects = ProjectStore(database)
        self._refinements = RefinementStore(database)
        self._corrections = CorrectionStore(database)

    def request(self, project_id: int, trigger: str) -> Refinement:
        """Ask for a refinement; one that runs remembers it for afterwards. Returns at once.

        Args:
            project_id: The project; it must be known.
            trigger: What asked for it, for a person.

        Raises:
            StoreError: The database cannot be used.
        """
        refinement = self._refinements.request(project_id, trigger)
        log.info("project %d: a refinement was asked for by %s", project_id, trigger)
        return refinement

    def corrected(self, project_id: int) -> None:
        """Note that a correction became usable: enough of them ask for a refinement."""
        try:
            threshold = self.threshold(project_id)
            if threshold and self.new_corrections(project_id) >= threshold:
                active = self._refinements.active(project_id)
                if not active or not (active[0].remembered or active[0].started_at is None):
                    self.request(project_id, f"{threshold} corrections")
        except StoreError as error:
            log.error("project %d: its corrections could not be counted: %s", project_id, error)

    def threshold(self, project_id: int) -> int:
        """After how many accepted corrections a project is refined by itself; 0 for never.

        Label Studio's own number comes first where it is one: its switch "start training on annotation
        submission" only says 1, which means that the setting decides.

        Raises:
            StoreError: The database cannot be read.
        """
        if not self._trainable:
            return 0
        project = self._projects.find(project_id)
        own = 0 if project is None else project.min_annotations or 0
        if own > 1:
            return own
        return self._refine_after or own

    def new_corrections(self, project_id: int) -> int:
        """How many corrections became usable since the last refinement began.

        Raises:
            StoreError: The database cannot be read.
        """
        return self._corrections.count_since(project_id, self._refinements.last_begun(project_id))
