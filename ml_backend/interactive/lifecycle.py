"""The end of a task's state: its annotator submits the task, or the task is deleted.

An annotator may submit without the proposal that was on its way. It is stored as a prediction of the task then: the
annotation stays as it was submitted, and nobody learns from a proposal that nobody saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_backend.database.events import StoredEvent
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages, id_of
from ml_backend.label_studio.task import Task

Promise = Callable[[int, Task, str], None]
"""Has the prediction of a project's task and a typed expression stored once it is ready."""

_SUBMITTED = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED"})


class StateLifecycle:
    """Ends the states of tasks as Label Studio's events ask for.

    A state belongs to the annotation that an event brings, so it ends before the annotation is read.

    Args:
        states: The states of tasks.
        pages: Changes annotations in Label Studio, which is no submission; is told of each submission.
        promise: Takes the expressions of whoever submits without their proposals.
    """

    def __init__(self, states: TaskStateStore, pages: SubmittedPages, promise: Promise) -> None:
        self._states = states
        self._pages = pages
        self._promise = promise

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
                for expression in self._states.unanswered(project_id, task_id, person):
                    self._promise(project_id, Task(task_id, _data_of(event)), expression)
                self._states.submit(number, project_id, task_id, person)
                self._pages.note_submission(number, project_id, task_id, person)


def _data_of(event: StoredEvent) -> dict[str, Any]:
    """The data of an event's task; empty where it has none."""
    task = event.payload.get("task")
    data = task.get("data") if isinstance(task, dict) else None
    return data if isinstance(data, dict) else {}
