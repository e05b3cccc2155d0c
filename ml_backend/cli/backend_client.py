"""A client of this backend's own routes, for the commands that ask a running server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import requests

from ml_backend.label_studio.api.session import open_session
from ml_backend.settings import Settings
from steerseg.errors import SteerSegError

_MARGIN = 30.0  # seconds on top of the backend's own time limit


class BackendError(SteerSegError):
    """The backend cannot be reached or refuses."""


class BackendUnreachableError(BackendError):
    """Nothing answers at the backend's address."""


class BackendBusyError(BackendError):
    """The backend answers, but not to the question: it starts, stops, or its database is in use."""


class NotThereError(BackendError):
    """What a task asks for is so unlikely in its video that it has no prediction.

    Attributes:
        presence: How likely it is, in [0, 1].
    """

    def __init__(self, message: str, presence: float) -> None:
        super().__init__(message)
        self.presence = presence


@dataclass(frozen=True)
class TaskPredictions:
    """The predictions of a task.

    Attributes:
        predictions: As Label Studio takes them, the best one last.
        presence: How likely the expression is of anything in the video, in [0, 1]; ``None`` where nobody judged.
    """

    predictions: tuple[dict[str, Any], ...] = field(repr=False)
    presence: float | None = None

    @property
    def score(self) -> float:
        """The best score, in [0, 1]."""
        return max(float(prediction["score"]) for prediction in self.predictions)


class BackendClient:
    """A running backend, asked as Label Studio asks it.

    Args:
        url: Its address.
        settings: Credentials and time limits.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url.rstrip("/")
        self._timeout = settings.predict_timeout + _MARGIN
        self._session = open_session(self._url)
        if settings.basic_auth_username is not None and settings.basic_auth_password is not None:
            password = settings.basic_auth_password.get_secret_value()
            self._session.auth = (settings.basic_auth_username, password)

    def version(self, project: int) -> str:
        """The version that the project's predictions have now.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return str(self.versions(project)["current"])

    def versions(self, project: int) -> dict[str, Any]:
        """A project's versions, newest last, and the one in use.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/versions?project={project}")

    def refine(self, project: int) -> dict[str, Any]:
        """Ask for a refinement of a project; the answer says how its refinements stand.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("POST", f"/projects/{project}/refine")

    def refinement(self, project: int) -> dict[str, Any]:
        """How a project's refinements stand.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/projects/{project}/refinement")

    def corrections(self, project: int) -> dict[str, Any]:
        """How a project's corrections stand, and what is set aside for which reason.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/projects/{project}/corrections")

    def fleet(self) -> dict[str, Any]:
        """The server's workers with their work, and its cluster.

        Raises:
            BackendError: The backend cannot be reached.
        """
        return self._ask("GET", "/fleet")

    def predict(self, project: int, label_config: str, task: dict[str, Any]) -> TaskPredictions:
        """Wait for the predictions of one task, however long they take.

        Raises:
            NotThereError: There is none, since what is asked for is hardly in the video.
            BackendError: There is none; the message says why.
        """
        body = {
            "tasks": [{"id": task["id"], "data": task["data"]}],
            "project": str(project),
            "label_config": label_config,
            # Whoever asks here stores the answer; the backend must not do it as well.
            "params": {"context": None, "deliver_late": False},
        }
        while True:
            answer = self._ask("POST", "/predict", json=body)
            if not answer["pending"]:
                break
        presence = answer["presence"].get(str(task["id"]))
        if answer["not_there"]:
            raise NotThereError("; ".join(answer["errors"].values()), presence)
        if answer["errors"]:
            raise BackendError("; ".join(answer["errors"].values()))
        item = answer["results"][0]
        return TaskPredictions((item,) if isinstance(item, dict) else tuple(item), presence)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._session.request(method, self._url + path, timeout=self._timeout, **options)
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
            raise BackendError(
                f"{self._url} is no address of a backend; expected one such as http://localhost:9090"
            ) from error
        except requests.RequestException as error:
            raise BackendUnreachableError(
                f"the backend at {self._url} does not answer ({type(error).__name__}); start it with "
                "`steerseg-backend serve`, or name it with --backend-url"
            ) from None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            kind = BackendBusyError if response.status_code >= 500 else BackendError
            raise kind(f"{self._url} answered {response.status_code} without JSON; is it one?")
        if response.status_code == 401:
            raise BackendError(
                f"the backend at {self._url} asks for another user name and password; set "
                "STEERSEG_BASIC_AUTH_USERNAME and STEERSEG_BASIC_AUTH_PASSWORD as it has them"
            )
        if not response.ok:
            parts = (str(answer.get("error", f"status {response.status_code}")), str(answer.get("hint", "")))
            kind = BackendBusyError if response.status_code >= 500 else BackendError
            raise kind(". ".join(part for part in parts if part))
        return answer
