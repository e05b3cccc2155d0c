"""Access to media: the hosts that may be asked, the host that gets the token, and the errors of refusals."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from ml_backend.label_studio.origins import origin_of
from steerseg.errors import VideoError
from steerseg.video.download import HopPolicy, redact_url
from steerseg.video.sockets import Trust

_MEDIA_PATH = re.compile(r"/(data|storage-data)/.|/(tasks|projects)/\d+/(resolve|presign)/?$")
_RESOLVE_PATH = re.compile(r"/(tasks|projects)/\d+/(resolve|presign)/?$")
_SIGN_IN_PATH = "/user/login"


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
        public_url: Its address as browsers reach it, where that is another one; task data may hold it.
    """

    url: str
    auth_headers: Callable[[], Mapping[str, str]] = dict
    public_url: str = ""

    def owns(self, url: str) -> bool:
        """Whether a URL leads to this very server: same scheme, host and port."""
        return origin_of(url) == origin_of(self.url)

    def hands_out(self, url: str) -> bool:
        """Whether a URL is one of Label Studio's media, for which it wants the token."""
        path = self.path_of(url)
        return path is not None and is_media_path(path)

    def resolves(self, url: str) -> bool:
        """Whether a URL is the address at which Label Studio hands out media of a cloud storage."""
        path = self.path_of(url)
        return path is not None and _RESOLVE_PATH.match(path) is not None

    def asks_to_sign_in(self, url: str) -> bool:
        """Whether a URL is the page to which Label Studio sends those without a token."""
        path = self.path_of(url)
        return path is not None and path.startswith(_SIGN_IN_PATH)

    def path_of(self, url: str) -> str | None:
        """The path of a URL below this Label Studio's address; ``None`` where it lies elsewhere."""
        return _path_below(url, self.url)

    def rewrite(self, url: str) -> str:
        """The address for this machine of a URL that holds the browsers' name; other URLs as they are."""
        if not self.public_url or self.path_of(url) is not None:
            return url
        path = _path_below(url, self.public_url)
        if path is None or not (is_media_path(path) or path.startswith(_SIGN_IN_PATH)):
            return url
        return self._at(path, urlsplit(url).query)

    def resolve(self, reference: str) -> str | None:
        """The URL of a reference that begins with a slash, such as ``/data/upload/1/clip.mp4``.

        It may begin with the sub-path of either address. ``None`` where no path of media follows.
        """
        parts = urlsplit(reference)
        for address in (self.url, self.public_url, ""):
            prefix = urlsplit(address).path.rstrip("/")
            path = parts.path.removeprefix(prefix)
            if parts.path.startswith(prefix + "/") and is_media_path(path):
                return self._at(path, parts.query)
        return None

    def cloud_url(self, uri: str, task_id: int) -> str:
        """The address at which Label Studio hands out an object of a cloud storage for a task."""
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return self._at(f"/tasks/{task_id}/resolve/", f"fileuri={encoded}")

    def _at(self, path: str, query: str) -> str:
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, query, ""))


def is_media_path(path: str) -> bool:
    """Whether a path below Label Studio's address is one of media, without a way out of it."""
    segments = unquote(path).replace("\\", "/").split("/")
    return _MEDIA_PATH.match(path) is not None and not {".", ".."} & set(segments)


class MediaPolicy(HopPolicy):
    """The hosts that may be asked, and the headers that each gets.

    Args:
        allowed_hosts: Hosts besides Label Studio; empty for any host.
        allow_private_addresses: Let hosts other than Label Studio have private addresses.
        host: The task's Label Studio, if known.
    """

    def __init__(
        self, allowed_hosts: frozenset[str], allow_private_addresses: bool, host: MediaHost | None
    ) -> None:
        super().__init__(allow_private_addresses)
        self._allowed_hosts = allowed_hosts
        self._host = host

    def rewrite(self, url: str) -> str:
        """Label Studio's address for this machine in place of the one for browsers."""
        return url if self._host is None else self._host.rewrite(url)

    def check(self, url: str) -> None:
        """Refuse a hop that leads to a sign-in page of Label Studio or to a host that is not allowed.

        Raises:
            MediaError: The hop is refused.
        """
        if self._host is not None and self._host.owns(url):
            if self._host.asks_to_sign_in(url):
                raise unavailable(url, 401, self._host)
            return
        name = (urlsplit(url).hostname or "").lower().rstrip(".")
        allowed = self._allowed_hosts
        if allowed and name not in allowed and not any(a[0] == "." and name.endswith(a) for a in allowed):
            raise MediaRefusedError(
                f"{shown_url(url)} lies on a host that media may not come from; add {name} to "
                "STEERSEG_ALLOWED_HOSTS if you trust it"
            )

    def headers(self, url: str) -> Mapping[str, str]:
        """The token for Label Studio's media alone."""
        return self._host.auth_headers() if self._host is not None and self._host.hands_out(url) else {}

    def trust(self, url: str) -> Trust:
        """Label Studio may have any address; a proxy may resolve it, and the hosts that the settings name."""
        is_own = self._host is not None and self._host.owns(url)
        return Trust(
            private_addresses=is_own or super().trust(url).private_addresses,
            name=is_own or bool(self._allowed_hosts),  # others were refused by `check`
        )


def shown_url(url: str) -> str:
    """A URL for messages: without secrets, but with the local file or the cloud's object that it stands for."""
    query = parse_qs(urlsplit(url).query)
    if "/data/local-files" in url and "d" in query:
        return f"{redact_url(url)}?d={query['d'][0]}"
    if _RESOLVE_PATH.search(urlsplit(url).path) and "fileuri" in query:
        try:
            return base64.urlsafe_b64decode(query["fileuri"][0]).decode()
        except ValueError:
            return redact_url(url)
    return redact_url(url)


def unavailable(
    url: str, status: int, host: MediaHost | None, answered_by: str | None = None
) -> MediaUnavailableError:
    """The error of a server that refuses a file, with the way out.

    Args:
        url: The file's URL.
        status: The HTTP status.
        host: The task's Label Studio, if known.
        answered_by: The URL that answered so, where the file's redirects to it.
    """
    is_cloud = host is not None and host.resolves(url)
    if host is None or not host.owns(answered_by or url):
        hint = "check the address, and that the file can be read without signing in"
        if is_cloud:
            hint = (
                "Label Studio signed an address that the cloud refuses; check the credentials of the project's "
                "storage in Settings › Cloud Storage"
            )
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
    elif status == 404 and is_cloud:
        hint = (
            "the object is gone, or no source storage of the project covers its bucket; add one in Settings › "
            "Cloud Storage"
        )
    elif status == 404:
        hint = (
            "the file is gone, or no Local Files storage of the project covers its folder; add one in "
            "Settings › Cloud Storage, or by `steerseg-backend connect`"
        )
    elif status == 424:
        hint = (
            "Label Studio cannot read it from the cloud; check that the object is there, and the credentials of "
            "the project's storage in Settings › Cloud Storage"
        )
    elif status == 500:
        hint = "Label Studio answers like this where an uploaded file is gone from its disk; upload it again"
    else:
        hint = "look into Label Studio's log"
    return MediaUnavailableError(f"{shown_url(url)} cannot be read ({status}): {hint}", status)


def _path_below(url: str, address: str) -> str | None:
    """The path of a URL below an address, beginning with a slash; ``None`` where it lies elsewhere."""
    prefix = urlsplit(address).path.rstrip("/")
    path = urlsplit(url).path
    if origin_of(url) != origin_of(address) or not path.startswith(prefix + "/"):
        return None
    return path.removeprefix(prefix)
