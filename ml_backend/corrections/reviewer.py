"""Reviews carried out: kept here, and shown to annotators in Label Studio."""

from __future__ import annotations

import logging

from ml_backend.corrections.reviews import ReviewStore
from ml_backend.database.database import Database
from ml_backend.database.projects import Project
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import REVIEW_KEY
from steerseg.errors import SteerSegError

log = logging.getLogger(__name__)


class Reviewer:
    """Accepts and returns annotations. Safe to share between threads.

    Label Studio's community edition has neither reviews nor comments. So a note is written into the data of the task,
    which the Data Manager shows as a column.

    Args:
        database: The database.
        connections: Connections to Label Studio.
    """

    def __init__(self, database: Database, connections: Connections) -> None:
        self.reviews = ReviewStore(database)
        self._connections = connections

    def accept(self, project: Project, task_id: int, annotation_id: int, *, by: str) -> None:
        """Accept an annotation, and take the note of an earlier return away.

        Args:
            project: The project.
            task_id: The annotation's task.
            annotation_id: The annotation.
            by: Names the reviewer.

        Raises:
            StoreError: The database cannot be used.
        """
        before = self.reviews.of([annotation_id]).get(annotation_id)
        self.reviews.accept(annotation_id, by=by)
        log.info("project %d: annotation %d is accepted by %s", project.id, annotation_id, by)
        if before is not None and before.note:
            self._write(project, task_id, annotation_id, None)

    def give_back(self, project: Project, task_id: int, annotation_id: int, note: str, *, by: str) -> None:
        """Return an annotation with a note.

        Args:
            project: The project.
            task_id: The annotation's task.
            annotation_id: The annotation.
            note: What is to be mended.
            by: Names the reviewer.

        Raises:
            StoreError: The database cannot be used.
        """
        self.reviews.give_back(annotation_id, note, by=by)
        log.info("project %d: annotation %d is returned by %s", project.id, annotation_id, by)
        self._write(project, task_id, annotation_id, f"returned: {note}")

    def _write(self, project: Project, task_id: int, annotation_id: int, text: str | None) -> None:
        """Write a note into a task's data; where that fails, the review stands and the page says so."""
        try:
            client = self._connections.client(project)
            if client is None:
                raise SteerSegError(
                    "no token for Label Studio is known yet; open the project's model settings"
                )
            client.tasks.set_value(task_id, REVIEW_KEY, text)
        except SteerSegError as error:
            log.warning(
                "project %d: the note of annotation %d was not written: %s", project.id, annotation_id, error
            )
            self.reviews.note_problem(annotation_id, str(error))
