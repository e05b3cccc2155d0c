"""Connections to the Label Studio of each project. Tokens that ``/setup`` brings live here, never on disk."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ml_backend.database.projects import Project
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.errors import UntrustedAddressError
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.origins import is_loopback, same_address
from ml_backend.settings import Settings


@dataclass(frozen=True)
class _Pair:
    """A token, and the address that it was told for: it goes nowhere else."""

    url: str
    token: str = field(repr=False)


class Connections:
    """One client for each address and token. Safe to share between threads.

    Args:
        settings: Name an address and a key that come before what ``/setup`` says.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pairs: dict[int, _Pair] = {}
        self._clients: dict[tuple[str, str], LabelStudioClient] = {}

    def learn(self, project: Project, token: str) -> None:
        """Note the token that a project's ``/setup`` brought, for the address that the project has now.

        Where the settings name an address, that is the one.
        """
        url = self.url(project)
        if url is None:
            return
        with self._lock:
            before = self._pairs.get(project.id)
            self._pairs[project.id] = _Pair(url, token)
            if before is not None and before != self._pairs[project.id] and not self._is_used(before):
                self._clients.pop((before.url, before.token), None)

    def check_address(self, told: str, known: Project | None) -> None:
        """Check whether ``/setup`` may say where Label Studio is: media and its API are asked for there.

        It may where its requests bring credentials, and where the settings name the address anyway. Elsewhere the
        first word counts, on a server that this machine alone can reach.

        Args:
            told: The address.
            known: The project as it was known before.

        Raises:
            UntrustedAddressError: It may not.
        """
        settings = self._settings
        if settings.label_studio_url is not None or settings.basic_auth_username is not None:
            return
        if not is_loopback(settings.host):
            raise UntrustedAddressError(
                "the address of Label Studio came without credentials, and is not believed"
            )
        if known is not None and known.hostname and not same_address(told, known.hostname):
            raise UntrustedAddressError(
                f"project {known.id} has another address of Label Studio, which changes by credentials alone"
            )

    def url(self, project: Project) -> str | None:
        """Address of the project's Label Studio, if it is known."""
        return self._settings.label_studio_url or project.hostname or None

    def client(self, project: Project) -> LabelStudioClient | None:
        """A connection to the project's Label Studio; ``None`` where no address or token is known.

        Raises:
            LabelStudioError: The address or the token cannot be one.
        """
        with self._lock:
            url = self.url(project)
            token = None if url is None else self._token(project.id, url)
            if url is None or token is None:
                return None
            if (url, token) not in self._clients:
                self._clients[(url, token)] = LabelStudioClient(url, token)
            return self._clients[(url, token)]

    def _token(self, project_id: int, url: str) -> str | None:
        """The token for an address: the configured one, or the one that came with this very address."""
        key = self._settings.label_studio_api_key
        if key is not None:
            return key.get_secret_value()
        pair = self._pairs.get(project_id)
        return pair.token if pair is not None and same_address(pair.url, url) else None

    def _is_used(self, pair: _Pair) -> bool:
        return any(other == pair for other in self._pairs.values())

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
