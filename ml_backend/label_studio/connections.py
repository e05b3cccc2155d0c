"""Connections to the Label Studio of each project. Tokens that ``/setup`` brings live here, never on disk."""

from __future__ import annotations

import threading

from ml_backend.database.projects import Project
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.settings import Settings


class Connections:
    """One client for each address and token. Safe to share between threads.

    Args:
        settings: Name an address and a key that come before what ``/setup`` says.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._tokens: dict[int, str] = {}
        self._clients: dict[tuple[str, str], LabelStudioClient] = {}

    def learn(self, project_id: int, token: str) -> None:
        """Note the token that a project's ``/setup`` brought."""
        with self._lock:
            self._tokens[project_id] = token

    def url(self, project: Project) -> str | None:
        """Address of the project's Label Studio, if it is known."""
        return self._settings.label_studio_url or project.hostname or None

    def client(self, project: Project) -> LabelStudioClient | None:
        """A connection to the project's Label Studio; ``None`` where no address or token is known.

        Raises:
            LabelStudioError: The address or the token cannot be one.
        """
        key = self._settings.label_studio_api_key
        with self._lock:
            token = self._tokens.get(project.id) if key is None else key.get_secret_value()
            url = self.url(project)
            if not token or not url:
                return None
            if (url, token) not in self._clients:
                self._clients[(url, token)] = LabelStudioClient(url, token)
            return self._clients[(url, token)]

    def host(self, project: Project | None) -> MediaHost | None:
        """The Label Studio that hands out a project's media, by both its names; ``None`` where none is known.

        ``/setup`` tells the address that browsers use. It only ever stands for the configured one: the token goes
        to the configured address.

        Raises:
            LabelStudioError: The address or the token cannot be one.
        """
        url = self._settings.label_studio_url if project is None else self.url(project)
        if not url:
            return None
        client = None if project is None else self.client(project)
        public_url = "" if project is None else project.hostname
        if client is None:
            return MediaHost(url, public_url=public_url)
        return MediaHost(client.url, client.auth_headers, public_url)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._clients.values():
                client.close()
