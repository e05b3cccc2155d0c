"""The end of a task's state: its annotator submits the task, or the task is deleted."""

from __future__ import annotations

from ml_backend.database.events import StoredEvent
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages, id_of

_SUBMITTED = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED"})


class StateLifecycle:
    """Ends the states of tasks as Label Studio's events ask for.

    A state belongs to the annotation that an event brings, so it ends before the annotation is read.

    Args:
        states: The states of tasks.
        pages: Changes annotations in Label Studio, which is no submission; is told of each submission.
    """

    def __init__(self, states: TaskStateStore, pages: SubmittedPages) -> None:
        self._states = states
        self._pages = pages

    def __call__(self, event: StoredEvent) -> None:
        """End the state of a task that somebody submits, and delete all states of a task that is deleted.

        Raises:
            StoreError: The database cannot be used.
        """
        if event.project_id is None:
            return
        if event.action in _SUBMITTED:
            self._submit(event, event.project_id)
        elif event.action == "TASKS_DELETED":
            tasks = event.payload.get("tasks")
            for task in tasks if isinstance(tasks, list) else ():
                task_id = id_of(task)
                if task_id is not None:
                    self._states.forget(event.project_id, task_id)

    def _submit(self, event: StoredEvent, project_id: int) -> None:
        annotation = event.payload.get("annotation")
        if not isinstance(annotation, dict):
            return
        number, task_id = annotation.get("id"), annotation.get("task")
        if not isinstance(number, int) or not isinstance(task_id, int):
            return
        if self._pages.is_own_change(annotation):
            return
        for person in {id_of(annotation.get(role)) for role in ("completed_by", "updated_by")}:
            if person is not None:
                self._states.submit(number, project_id, task_id, person)
                self._pages.note_submission(number, project_id, task_id, person)
