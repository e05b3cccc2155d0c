"""Tasks: their import, their list, and uploads of their media."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_backend.label_studio.api.session import Session
from ml_backend.label_studio.errors import LabelStudioError

IMPORT_TIMEOUT = 300.0
IMPORT_CHUNK_TASKS = 100
IMPORT_CHUNK_BYTES = 8 * 1024 * 1024


class Tasks:
    """The tasks of projects.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, task: int) -> dict[str, Any]:
        """One task with its annotations and predictions."""
        return self._session.get_object(f"/api/tasks/{task}/", f"read task {task}")

    def of_project(
        self, project: int, *, page_size: int = 100, everything: bool = False
    ) -> Iterator[dict[str, Any]]:
        """All tasks of a project, page by page.

        Args:
            project: The project's id.
            page_size: Tasks a request.
            everything: With all annotations and predictions rather than their numbers alone.
        """
        page, seen, action = 1, 0, f"list the tasks of project {project}"
        while True:
            answer = self._session.get(
                "/api/tasks",
                action,
                project=project,
                page=page,
                page_size=page_size,
                fields="all" if everything else "task_only",
            )
            tasks = answer.get("tasks") if isinstance(answer, dict) else None
            total = answer.get("total") if isinstance(answer, dict) else None
            if not isinstance(tasks, list) or not isinstance(total, int):
                raise LabelStudioError(
                    f"could not {action}: the answer holds no tasks, or not how many there are"
                )
            yield from (task for task in tasks if isinstance(task, dict))
            seen += len(tasks)
            if not tasks or seen >= total:
                return
            page += 1

    def set_value(self, task: int, key: str, value: Any) -> None:
        """Set one value of a task's data, or remove it; the task's annotations and predictions stay.

        Label Studio replaces a task's data as a whole. So they are read just before, and what somebody else changed a
        while ago stays.

        Args:
            task: The task's id.
            key: The key within its data.
            value: The value; ``None`` removes it.

        Raises:
            LabelStudioError: It cannot be reached, or refuses.
        """
        known = self.get(task).get("data")
        if not isinstance(known, dict):
            raise LabelStudioError(f"could not change the data of task {task}: the answer holds none")
        data = {name: kept for name, kept in known.items() if name != key}
        if value is not None:
            data[key] = value
        self._session.call(
            "PATCH", f"/api/tasks/{task}/", f"change the data of task {task}", json={"data": data}
        )

    def create(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import tasks, in chunks that stay below a hundred tasks and 8 MiB.

        Args:
            project: The project's id.
            tasks: Either ``{"data": {...}}`` (perhaps with predictions) or the data alone.

        Returns:
            The ids of the new tasks, in order.
        """
        ids: list[int] = []
        for chunk in _chunks(tasks):
            answer = self._session.call(
                "POST",
                f"/api/projects/{project}/import",
                f"import {len(chunk)} tasks into project {project}",
                params={"return_task_ids": "true"},
                json=chunk,
                timeout=max(self._session.timeout, IMPORT_TIMEOUT),
            )
            new = [int(task) for task in answer.get("task_ids", ())]
            if len(new) != len(chunk):
                raise LabelStudioError(
                    f"Label Studio made {len(new)} tasks of {len(chunk)} in project {project}; look at the "
                    "project before importing again"
                )
            ids += new
        return ids

    def upload_file(self, project: int, path: Path) -> str:
        """Upload a media file without making a task of it.

        Returns:
            Its address for a task's data, such as ``/data/upload/1/0a1b2c3d-clip.mp4``.
        """
        with path.open("rb") as file:
            answer = self._session.call(
                "POST",
                f"/api/projects/{project}/import",
                f"upload {path.name}",
                params={"commit_to_project": "false"},
                files={"file": (path.name, file)},
                timeout=max(self._session.timeout, IMPORT_TIMEOUT),
            )
        uploads = answer.get("file_upload_ids") or []
        if len(uploads) != 1:
            raise LabelStudioError(f"Label Studio did not keep the upload of {path.name}")
        upload = self._session.get(f"/api/import/file-upload/{uploads[0]}", f"find the upload of {path.name}")
        return "/data/" + str(upload["file"]).lstrip("/")


def _chunks(tasks: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    size = 0
    for task in tasks:
        length = len(json.dumps(task))
        if chunk and (len(chunk) >= IMPORT_CHUNK_TASKS or size + length > IMPORT_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(task)
        size += length
    if chunk:
        yield chunk
