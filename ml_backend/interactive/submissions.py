"""What the submission of an annotation, or the end of a task, means for the memory of interactive calls."""

from __future__ import annotations

from ml_backend.database.events import StoredEvent
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages, id_of

_SUBMITTED = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED"})


class SubmissionHandler:
    """Hears of submissions and deleted tasks.

    What was answered belongs to the annotation that an event brings, so this comes before the annotation is read.

    Args:
        states: What annotators did and were answered.
        pages: What changes annotations in Label Studio, which is no submission.
    """

    def __init__(self, states: TaskStateStore, pages: SubmittedPages) -> None:
        self._states = states
        self._pages = pages

    def __call__(self, event: StoredEvent) -> None:
        """Begin anew with a task that somebody submits; forget everything of one that is gone.

        Raises:
            StoreError: The database cannot be used.
        """
        if event.project_id is None:
            return
        if event.action in _SUBMITTED:
            self._submit(event, event.project_id)
        elif event.action == "TASKS_DELETED":
            tasks = event.payload.get("tasks")
            for gone in tasks if isinstance(tasks, list) else ():
                number = id_of(gone)
                if number is not None:
                    self._states.forget(event.project_id, number)

    def _submit(self, event: StoredEvent, project_id: int) -> None:
        annotation = event.payload.get("annotation")
        if not isinstance(annotation, dict):
            return
        number, task = annotation.get("id"), annotation.get("task")
        if not isinstance(number, int) or not isinstance(task, int) or self._pages.is_own_change(annotation):
            return
        for person in {id_of(annotation.get(role)) for role in ("completed_by", "updated_by")}:
            if person is not None:
                self._states.submit(number, project_id, task, person)
