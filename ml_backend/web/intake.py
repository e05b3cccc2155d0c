"""What the server reads of a request before anything works on it: how much, from whom, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from werkzeug.datastructures import Authorization

from ml_backend.settings import Settings
from ml_backend.web.access import CREDENTIALS_HINT, SECRET_HEADER, has_secret, is_user
from ml_backend.web.errors import Problem

STRANGER_BYTES = 2**20
"""Most bytes of a body that are read where the head of its request brings no valid credentials."""
_HEAD_SECONDS = 10.0
_IDLE_SECONDS = 30.0
_CONTENT_SECONDS = 30.0
_SLOWEST = 128 * 2**10  # bytes a second
_BODIES = 2
"""Bodies of the largest size that are held on disk at a time, or more of smaller ones."""


@dataclass(frozen=True)
class RequestHead:
    """The head of a request.

    Attributes:
        path: Its path, decoded.
        headers: By name in upper case with underscores, as WSGI writes them.
        length: Bytes of the body that follows.
        chunked: Whether the body comes in chunks, without a length.
    """

    path: str
    headers: Mapping[str, str]
    length: int
    chunked: bool


class Intake:
    """Limits of what clients send and take, as the settings and the credentials have it.

    Args:
        settings: The settings in force.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most = settings.max_request_bytes

    def refusal(self, head: RequestHead, held: int) -> Problem | None:
        """Why a body is not read; ``None`` where it is.

        Args:
            head: The head of the request.
            held: Bytes of other bodies that the server holds, or is about to receive.
        """
        if head.chunked:
            return Problem(411, "the body has no length", "Send it with Content-Length, not in chunks.")
        if head.length > STRANGER_BYTES and not self._knows(head):
            return Problem(
                401,
                f"the request brought no valid credentials, and a body of more than {STRANGER_BYTES} bytes",
                CREDENTIALS_HINT,
            )
        if head.length > self._most:
            return Problem(
                413,
                f"the body has {head.length} bytes, at most {self._most} are read",
                "Send fewer tasks at a time, or raise STEERSEG_MAX_REQUEST_MIB.",
            )
        if head.length > STRANGER_BYTES and held + head.length > _BODIES * self._most:
            return Problem(503, "too many large requests are being received", "Try again in a while.")
        return None

    @property
    def head_seconds(self) -> float:
        """Seconds in which the head of a request has to arrive."""
        return _HEAD_SECONDS

    @property
    def idle_seconds(self) -> float:
        """Seconds after which a connection without a request is closed."""
        return _IDLE_SECONDS

    def content_seconds(self, size: int) -> float:
        """Seconds in which so many bytes have to arrive, or to be taken."""
        return _CONTENT_SECONDS + size / _SLOWEST

    def _knows(self, head: RequestHead) -> bool:
        """Whether the head brings what its path asks for; the app checks that again, with the body."""
        settings = self._settings
        asks_for_secret = head.path == "/webhook" and settings.webhook_secret is not None
        given = head.headers.get(SECRET_HEADER.upper().replace("-", "_"))
        if asks_for_secret and has_secret(settings, given):
            return True
        if settings.basic_auth_username is None or settings.basic_auth_password is None:
            return not asks_for_secret
        return is_user(settings, Authorization.from_header(head.headers.get("AUTHORIZATION")))
