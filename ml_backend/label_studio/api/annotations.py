"""Annotations and predictions of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.label_studio.api.session import Session
from ml_backend.label_studio.errors import LabelStudioError


class Annotations:
    """The annotations of tasks.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, annotation: int) -> dict[str, Any]:
        """One annotation, skipped or not."""
        return self._session.get_object(f"/api/annotations/{annotation}/", f"read annotation {annotation}")

    def of_task(self, task: int) -> list[dict[str, Any]]:
        """The annotations of one task, without skipped ones, which Label Studio leaves out of the list."""
        return self._session.get_items(
            f"/api/tasks/{task}/annotations/", f"list the annotations of task {task}"
        )

    def update(self, annotation: int, result: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Give an annotation other results."""
        body = {"result": list(result)}
        action = f"change annotation {annotation}"
        return self._session.write("PATCH", f"/api/annotations/{annotation}/", body, action)


class Predictions:
    """The predictions of tasks.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, prediction: int) -> dict[str, Any]:
        """One prediction."""
        return self._session.get_object(f"/api/predictions/{prediction}/", f"read prediction {prediction}")

    def of_task(self, task: int) -> list[dict[str, Any]]:
        """The predictions of one task."""
        return self._session.get_items("/api/predictions/", f"list the predictions of task {task}", task=task)

    def create(
        self, task: int, result: Sequence[Mapping[str, Any]], *, score: float | None, model_version: str
    ) -> int:
        """Store one prediction.

        Returns:
            Its id.

        Raises:
            LabelStudioError: The result is empty, which would mark the task as done for this version, or
                Label Studio refuses it.
        """
        if not result:
            raise LabelStudioError(
                f"an empty prediction for task {task} was not stored, since it would keep the task from "
                "being asked again"
            )
        body = {"task": task, "result": list(result), "score": score, "model_version": model_version}
        action = f"store a prediction for task {task}"
        return int(self._session.write("POST", "/api/predictions/", body, action)["id"])
