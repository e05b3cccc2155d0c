"""Label Studio's API, as far as the backend and the command line need it.

Over ``requests`` rather than label-studio-sdk's generated client: every call gets a timeout, redirects are never
followed with a token, and errors become short typed messages that never hold a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ml_backend.label_studio.api.annotations import Annotations, Predictions
from ml_backend.label_studio.api.integrations import Backends, Webhooks
from ml_backend.label_studio.api.projects import LocalStorages, Projects, Views
from ml_backend.label_studio.api.session import DEFAULT_TIMEOUT, Session
from ml_backend.label_studio.api.tasks import Tasks
from ml_backend.label_studio.errors import LabelStudioError

MEASURED_VERSION = (1, 23)
"""The Label Studio release whose behaviour this package was built against."""


@dataclass(frozen=True)
class ServerInfo:
    """The version of a Label Studio, and the account that the token belongs to."""

    version: str
    user: str

    @property
    def release(self) -> tuple[int, ...]:
        """The leading numbers of the version, such as ``(1, 23, 2)``."""
        match = re.match(r"\d+(?:\.\d+)*", self.version)
        return tuple(int(part) for part in match.group().split(".")) if match else ()


class LabelStudioClient(Session):
    """A connection to one Label Studio with one token; its attributes hold the calls by subject.

    Args:
        url: Address of Label Studio, with the sub-path if it has one.
        api_key: Personal access token or legacy token, from Account & Settings in Label Studio.
        timeout: Seconds that one wait for the network may take.

    Attributes:
        projects: Projects.
        storages: Folders whose files are served.
        views: Views of tasks in the Data Manager.
        tasks: Tasks.
        annotations: Annotations.
        predictions: Predictions.
        backends: Connected machine learning backends.
        webhooks: Webhooks.

    Raises:
        LabelStudioError: The address or the token cannot be one.
    """

    def __init__(self, url: str, api_key: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(url, api_key, timeout)
        self.projects = Projects(self)
        self.storages = LocalStorages(self)
        self.views = Views(self)
        self.tasks = Tasks(self)
        self.annotations = Annotations(self)
        self.predictions = Predictions(self)
        self.backends = Backends(self)
        self.webhooks = Webhooks(self)

    def server_info(self) -> ServerInfo:
        """Ask for version and account; so it also shows whether address and token are right."""
        version = self.get("/api/version", "ask for the version")
        release = version.get("release") if isinstance(version, dict) else None
        if not isinstance(release, str):
            raise LabelStudioError(f"{self.url} does not seem to be Label Studio; check the address")
        user = self.get("/api/current-user/whoami", "ask who the token belongs to")
        return ServerInfo(version=release, user=str(user.get("email", "")))
