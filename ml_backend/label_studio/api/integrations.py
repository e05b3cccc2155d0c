"""What Label Studio calls: connected machine learning backends, and webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.label_studio.api.session import Session
from ml_backend.label_studio.errors import (
    BackendRefusedError,
    LabelStudioError,
    LabelStudioUnreachableError,
)

_CONNECT_TIMEOUT = 60.0  # seconds: Label Studio asks the backend before it answers


class Backends:
    """The machine learning backends that are connected to projects.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_project(self, project: int) -> list[dict[str, Any]]:
        """The connected backends of a project; Label Studio asks each for its health meanwhile."""
        return self._session.get_items("/api/ml", "list the connected models", project=project)

    def create(self, project: int, url: str, title: str, **fields: Any) -> dict[str, Any]:
        """Connect a backend; Label Studio asks it for its health and sets it up meanwhile.

        Raises:
            BackendRefusedError: Label Studio refuses the backend, or cannot use it.
        """
        body = {"project": project, "url": url, "title": title, **fields}
        return self._write("POST", "/api/ml", project, url, body)

    def update(self, backend: int, project: int, url: str, **fields: Any) -> dict[str, Any]:
        """Change a connection; Label Studio sets the backend up again.

        Raises:
            BackendRefusedError: Label Studio refuses.
        """
        body = {"project": project, "url": url, **fields}
        return self._write("PATCH", f"/api/ml/{backend}", project, url, body)

    def delete(self, backend: int) -> None:
        """Disconnect a backend. Its webhook stays; delete that too."""
        self._session.request("DELETE", f"/api/ml/{backend}", action=f"disconnect backend {backend}")

    def _write(
        self, method: str, path: str, project: int, url: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return self._session.write(method, path, body, f"connect the backend {url}", _CONNECT_TIMEOUT)
        except LabelStudioUnreachableError:
            raise
        except LabelStudioError as error:
            # With only the first switch set, the refusal leaves a connection behind that has no webhook.
            try:
                left = next((b["id"] for b in self.of_project(project) if b["url"] == url), None)
            except LabelStudioError:
                left = None  # the refusal itself says more than that it cannot be looked at
            raise BackendRefusedError(str(error), error.status, left) from None


class Webhooks:
    """The webhooks of projects.

    Args:
        session: Sends the requests.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_project(self, project: int) -> list[dict[str, Any]]:
        """The webhooks of a project."""
        return self._session.get_items("/api/webhooks/", "list the webhooks", project=project)

    def create(
        self, project: int, url: str, actions: Sequence[str], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Create a webhook for these actions with these secret headers."""
        body = {"project": project, **_webhook_body(url, actions, headers)}
        return self._session.write("POST", "/api/webhooks/", body, f"create the webhook {url}")

    def update(
        self, webhook: int, url: str, actions: Sequence[str], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Set a webhook's address, actions and headers, and switch it on."""
        body = _webhook_body(url, actions, headers)
        return self._session.write("PATCH", f"/api/webhooks/{webhook}/", body, f"change the webhook {url}")

    def delete(self, webhook: int) -> None:
        """Delete a webhook."""
        self._session.request("DELETE", f"/api/webhooks/{webhook}/", action=f"delete webhook {webhook}")


def _webhook_body(url: str, actions: Sequence[str], headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "url": url,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": list(actions),
        "headers": dict(headers),
        "is_active": True,
    }
