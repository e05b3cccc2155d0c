"""What Label Studio's events say about training."""

from __future__ import annotations

from collections.abc import Callable

from ml_backend.database.events import StoredEvent
from ml_backend.database.projects import ProjectStore


class TrainingHandler:
    """Hears that training should begin, and after how many annotations.

    Args:
        projects: The known projects.
        request: Asks for a refinement of a project by its number and what asked for it.
    """

    def __init__(self, projects: ProjectStore, request: Callable[[int, str], object]) -> None:
        self._projects = projects
        self._request = request

    def __call__(self, event: StoredEvent) -> None:
        """Note the number of annotations that an event names, and begin the training that it asks for.

        Raises:
            StoreError: The database cannot be used.
        """
        project = None if event.project_id is None else self._projects.find(event.project_id)
        if project is None:
            return
        described = event.payload.get("project")
        number = described.get("min_annotations_to_start_training") if isinstance(described, dict) else None
        if isinstance(number, int) and number != project.min_annotations:
            self._projects.note_min_annotations(project.id, number)
        if event.action == "START_TRAINING":
            self._request(project.id, "Start training")
