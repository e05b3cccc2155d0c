"""The data of tasks that were predicted, so that their media can be shown again without asking Label Studio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.database.database import Database
from ml_backend.database.tables import TaskRow
from ml_backend.database.upsert import upsert


class TaskStore:
    """The known tasks of one backend. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, project_id: int, task_id: int, data: Mapping[str, Any]) -> None:
        """Keep a task's data; writes nothing where they are known.

        Raises:
            StoreError: The database cannot be used.
        """
        if self.data(project_id, task_id) == data:
            return
        row = {"project_id": project_id, "task_id": task_id, "data": dict(data)}
        with self._database.writing() as session:
            upsert(session, TaskRow, [row], keys=["project_id", "task_id"], update=["data"])

    def data(self, project_id: int, task_id: int) -> dict[str, Any] | None:
        """A task's data; ``None`` where it was never predicted.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as session:
            row = session.get(TaskRow, (project_id, task_id))
            return None if row is None else row.data
