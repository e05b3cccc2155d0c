"""Projects, the folders whose files they serve, and the views of their tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_backend.label_studio.api.session import Session
from ml_backend.label_studio.errors import LabelStudioError


class Projects:
    """The projects that an account sees.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, project: int) -> dict[str, Any]:
        """One project with its labelling configuration."""
        return self._session.get_object(f"/api/projects/{project}/", f"read project {project}")

    def all(self) -> Iterator[dict[str, Any]]:
        """All projects, page by page."""
        page = 1
        while True:
            answer = self._session.get("/api/projects/", "list the projects", page=page, page_size=100)
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def find(self, title: str) -> dict[str, Any] | None:
        """The project of exactly this title; ``None`` without one.

        Raises:
            LabelStudioError: Several projects have the title.
        """
        found = [project for project in self.all() if project["title"] == title]
        if len(found) > 1:
            ids = ", ".join(str(project["id"]) for project in found)
            raise LabelStudioError(
                f"several projects are called {title!r} ({ids}); give the project's id instead"
            )
        return self.get(found[0]["id"]) if found else None

    def create(self, title: str, label_config: str, **fields: Any) -> dict[str, Any]:
        """Create a project."""
        body = {"title": title, "label_config": label_config, **fields}
        return self._session.write("POST", "/api/projects/", body, f"create the project {title!r}")

    def update(self, project: int, **fields: Any) -> dict[str, Any]:
        """Change fields of a project."""
        return self._session.write("PATCH", f"/api/projects/{project}/", fields, f"change project {project}")


class LocalStorages:
    """Folders whose files Label Studio serves.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_project(self, project: int) -> list[dict[str, Any]]:
        """The local-files storages of a project."""
        return self._session.get_items(
            "/api/storages/localfiles/", "list the local storages", project=project
        )

    def create(self, project: int, path: str, title: str) -> dict[str, Any]:
        """Let a project serve the files of a folder.

        The storage is never synchronised, which would make a task of every file.

        Args:
            project: The project's id.
            path: The folder as Label Studio sees it, below its ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``.
            title: How Label Studio lists it.

        Raises:
            LabelStudioError: Label Studio cannot or may not serve the folder; its answer says why.
        """
        body = {"project": project, "path": path, "title": title, "use_blob_urls": True}
        return self._session.write("POST", "/api/storages/localfiles/", body, f"add the local folder {path}")


class Views:
    """The views (*tabs*) of projects in Label Studio's Data Manager.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_project(self, project: int) -> list[dict[str, Any]]:
        """The views that somebody has saved; Label Studio shows one of its own where there are none."""
        return self._session.get_items("/api/dm/views/", "list the views", project=project)

    def columns(self, project: int) -> list[dict[str, Any]]:
        """The columns that a view may show now."""
        answer = self._session.get_object(f"/api/dm/columns/?project={project}", "list the columns")
        return list(answer.get("columns", ()))

    def create(self, project: int, data: dict[str, Any]) -> dict[str, Any]:
        """Save a view.

        Args:
            project: The project's id.
            data: Its title and columns, as the Data Manager writes them.
        """
        return self._session.write(
            "POST", "/api/dm/views/", {"project": project, "data": data}, "save a view"
        )
