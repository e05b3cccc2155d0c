"""Access to media: the hosts that may be asked, the host that gets the token, and the errors of refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from ml_backend.label_studio.media_cache import CachedFile
from steerseg.errors import VideoError
from steerseg.video.download import HopPolicy, redact_url

_PORTS = {"http": 80, "https": 443}


class MediaError(VideoError):
    """A task's media cannot be fetched; the message says why and what to do."""


class MediaTimeoutError(MediaError):
    """The media did not arrive in time."""


class MediaTooLargeError(MediaError):
    """The media are larger than allowed."""


class MediaRefusedError(MediaError):
    """The media lie where this backend may not look: a private address, another host, a local path."""


class MediaUnavailableError(MediaError):
    """The server does not hand the media out: they are gone, or not for this account.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class MediaHost:
    """The Label Studio that a task belongs to.

    Attributes:
        url: Its address as this machine reaches it.
        auth_headers: Gives the header that identifies us there, such as ``LabelStudioClient.auth_headers``.
    """

    url: str
    auth_headers: Callable[[], Mapping[str, str]] = dict

    @property
    def prefix(self) -> str:
        """The sub-path that Label Studio lives under, without a slash at its end; usually empty."""
        return urlsplit(self.url).path.rstrip("/")

    def owns(self, url: str) -> bool:
        """Whether a URL leads to this very server: same scheme, host and port."""
        return _origin(url) == _origin(self.url)

    def resolve(self, reference: str) -> str:
        """The URL of a reference that begins with a slash, such as ``/data/upload/1/clip.mp4``."""
        parts = urlsplit(self.url)
        base = f"{parts.scheme}://{parts.netloc}"
        if self.prefix and not reference.startswith(self.prefix + "/"):
            return base + self.prefix + reference
        return base + reference


class MediaPolicy(HopPolicy):
    """The hosts that may be asked, and the headers that each gets.

    Args:
        allowed_hosts: Hosts besides Label Studio; empty for any host.
        allow_private_addresses: Let hosts other than Label Studio have private addresses.
        host: The task's Label Studio, if known.
        known: The cached file of the URL, which the server may confirm.
    """

    def __init__(
        self,
        allowed_hosts: frozenset[str],
        allow_private_addresses: bool,
        host: MediaHost | None,
        known: CachedFile | None,
    ) -> None:
        super().__init__(allow_private_addresses)
        self._allowed_hosts = allowed_hosts
        self._host = host
        self._known = known

    def _is_label_studio(self, url: str) -> bool:
        return self._host is not None and self._host.owns(url)

    def check(self, url: str) -> None:
        """Refuse a hop that leads to a sign-in page of Label Studio or to a host that is not allowed.

        Raises:
            MediaError: The hop is refused.
        """
        if self._host is not None and self._is_label_studio(url):
            if urlsplit(url).path.startswith(self._host.prefix + "/user/login"):
                raise unavailable(shown_url(url), 401, True)
            return
        name = (urlsplit(url).hostname or "").lower().rstrip(".")
        allowed = self._allowed_hosts
        if allowed and name not in allowed and not any(a[0] == "." and name.endswith(a) for a in allowed):
            raise MediaRefusedError(
                f"{shown_url(url)} lies on a host that media may not come from; add {name} to "
                "STEERSEG_ALLOWED_HOSTS if you trust it"
            )

    def headers(self, url: str) -> Mapping[str, str]:
        """The token for Label Studio alone, and what validates the cached file."""
        headers: dict[str, str] = {}
        if self._host is not None and self._is_label_studio(url):
            headers.update(self._host.auth_headers())
        if self._known is not None and self._known.etag:
            headers["If-None-Match"] = self._known.etag
        elif self._known is not None and self._known.last_modified:
            headers["If-Modified-Since"] = self._known.last_modified
        return headers

    def allows_private(self, url: str) -> bool:
        """Whether a hop may lead to a private address; Label Studio itself always may."""
        return self._is_label_studio(url) or super().allows_private(url)


def shown_url(url: str) -> str:
    """A URL for messages: without secrets, but with the path of a local file."""
    wanted = parse_qs(urlsplit(url).query).get("d") if "/data/local-files" in url else None
    return redact_url(url) + (f"?d={wanted[0]}" if wanted else "")


def unavailable(shown: str, status: int, is_label_studio: bool) -> MediaUnavailableError:
    """The error of a server that refuses a file, with the way out.

    Args:
        shown: The file's URL without secrets.
        status: The HTTP status.
        is_label_studio: Whether the server is the task's Label Studio.
    """
    if not is_label_studio:
        hint = "check the address, and that the file can be read without signing in"
    elif status == 401:
        hint = (
            "the token is missing or not accepted. Set STEERSEG_LABEL_STUDIO_API_KEY (and _URL) to a "
            "personal access token, or switch legacy tokens on in Organization › API Tokens Settings"
        )
    elif status == 403:
        hint = (
            "the token's account may not read it, or Label Studio serves no local files "
            "(LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true)"
        )
    elif status == 404:
        hint = (
            "the file is gone, or no Local Files storage of the project covers its folder; add one in "
            "Settings › Cloud Storage, or by `steerseg-backend connect`"
        )
    elif status == 500:
        hint = "Label Studio answers like this where an uploaded file is gone from its disk; upload it again"
    else:
        hint = "look into Label Studio's log"
    return MediaUnavailableError(f"{shown} cannot be read ({status}): {hint}", status)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    try:
        port = parts.port
    except ValueError:
        port = -1
    return scheme, (parts.hostname or "").lower(), _PORTS.get(scheme) if port is None else port
