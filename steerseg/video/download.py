"""Fetch a file from an http(s) URL that is not trusted.

Every connection is checked where it is made: the host is resolved once, all its addresses must be public, and
the socket is opened to exactly those addresses. So a redirect and a name whose address changes between check
and use are covered without a special case. Proxies of the environment are not used, since behind a proxy the
address could not be checked.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from steerseg.errors import VideoError

_CHUNK = 1 << 16
_HEADERS = {"User-Agent": "steerseg", "Accept": "*/*", "Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class DownloadError(VideoError):
    """A download failed.

    Attributes:
        status: The HTTP status that the server answered with, where that was the reason.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class DownloadTimeoutError(DownloadError):
    """The server did not answer, or the content did not arrive, in time."""


class DownloadTooLargeError(DownloadError):
    """The content is larger than allowed."""


class AddressRefusedError(DownloadError):
    """An address on the way may not be asked."""


class HopPolicy:
    """Decides about each address on the way of a download; this one suits the URL of a stranger.

    Args:
        allow_private_addresses: Also fetch from loopback and private addresses.
    """

    def __init__(self, allow_private_addresses: bool = False) -> None:
        self._allow_private_addresses = allow_private_addresses

    def check(self, url: str) -> None:
        """Refuse an address by raising an error, before its host is resolved."""

    def headers(self, url: str) -> Mapping[str, str]:
        """Headers for this address alone; a token for one host never reaches the next."""
        return {}

    def allows_private(self, url: str) -> bool:
        """Whether this address may resolve to a loopback or private one."""
        return self._allow_private_addresses


@dataclass(frozen=True)
class FetchResult:
    """Headers of the server about the content.

    Attributes:
        content_type: Empty when it gave none.
        etag: Empty when it gave none.
        last_modified: Empty when it gave none.
        modified: ``False`` where the server answered that our copy is current; nothing was written then.
    """

    content_type: str
    etag: str
    last_modified: str
    modified: bool


def is_public_address(address: str) -> bool:
    """Whether an IP address is reachable on the public internet.

    False for loopback, private, link-local, carrier-grade NAT, multicast, reserved and unspecified addresses,
    also when they hide in an IPv4-mapped or 6to4 IPv6 address.
    """
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment, which may hold secrets: for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the URL"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def download(
    url: str,
    destination: Path,
    *,
    max_bytes: int,
    timeout: float = 20.0,
    deadline: float = 900.0,
    max_redirects: int = 5,
    allow_private_addresses: bool = False,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Stream a URL into a file.

    Args:
        url: An http or https URL without user name or password.
        destination: The file; removed again when the download fails.
        max_bytes: Most bytes of content, checked against the header and while reading.
        timeout: Seconds that one wait for the network may take.
        deadline: Seconds that the whole download may take.
        max_redirects: Most redirects that are followed; each hop is checked like the first address.
        allow_private_addresses: Also fetch from loopback and private addresses.
        progress: Called with the fraction in [0, 1] that has arrived, where the server tells the size.

    Returns:
        The content type as the server gave it, empty when it gave none.

    Raises:
        DownloadError: The URL cannot be used, its host is not public, the server fails or is too slow, or the
            content is larger than ``max_bytes``.
    """
    return fetch(
        url,
        destination,
        policy=HopPolicy(allow_private_addresses),
        max_bytes=max_bytes,
        timeout=timeout,
        deadline=deadline,
        max_redirects=max_redirects,
        progress=progress,
    ).content_type


def fetch(
    url: str,
    destination: Path,
    *,
    policy: HopPolicy,
    max_bytes: int,
    timeout: float = 20.0,
    deadline: float = 900.0,
    max_redirects: int = 5,
    progress: Callable[[float], None] | None = None,
) -> FetchResult:
    """Like :func:`download`, with a policy that decides at every hop.

    Raises:
        DownloadError: As for :func:`download`; also whatever the policy raises.
    """
    shown = redact_url(url)
    with _Guard(shown, deadline) as guard:
        try:
            connection, response = _follow(url, guard, policy, timeout, max_redirects)
            modified = response.status != http.HTTPStatus.NOT_MODIFIED
            with connection, response:
                if modified:
                    with destination.open("wb") as file:
                        _copy(response, file, max_bytes, shown, progress)
            guard.check_deadline()
        except (OSError, http.client.HTTPException, VideoError) as error:
            destination.unlink(missing_ok=True)
            if guard.expired:
                raise guard.too_slow() from error
            if isinstance(error, VideoError):
                raise
            kind = DownloadTimeoutError if isinstance(error, TimeoutError) else DownloadError
            raise kind(f"{shown} could not be fetched: {_describe(error, timeout)}") from error
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
    return FetchResult(
        content_type=str(response.headers.get_content_type()) if "Content-Type" in response.headers else "",
        etag=response.headers.get("ETag", ""),
        last_modified=response.headers.get("Last-Modified", ""),
        modified=modified,
    )


def _follow(
    url: str, guard: _Guard, policy: HopPolicy, timeout: float, max_redirects: int
) -> tuple[contextlib.closing[http.client.HTTPConnection], http.client.HTTPResponse]:
    """Ask for the URL, and for those it redirects to, until a server answers with content."""
    shown = redact_url(url)
    for _ in range(max_redirects + 1):
        url = _clean_url(url)
        policy.check(url)
        guard.allow_private_addresses = policy.allows_private(url)
        parts = urlsplit(url)
        kind = _HTTPSConnection if parts.scheme.lower() == "https" else _HTTPConnection
        port = parts.port or kind.default_port
        connection = kind(parts.hostname or "", port, guard=guard, timeout=timeout)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        try:
            connection.request("GET", target, headers={**_HEADERS, **policy.headers(url)})
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        location = response.headers.get("Location")
        if response.status in (http.HTTPStatus.OK, http.HTTPStatus.NOT_MODIFIED):
            return contextlib.closing(connection), response
        # The body of any other answer is never read: it may be endless.
        connection.close()
        if response.status not in _REDIRECTS or not location:
            raise DownloadError(
                f"{shown} could not be fetched: the server answered {response.status} {response.reason}. "
                "Check the address, and that the file can be read without signing in.",
                response.status,
            )
        url = urljoin(url, location)
    raise DownloadError(
        f"{shown} could not be fetched: it redirects more than {max_redirects} times. Give the final address "
        "of the file."
    )


def _describe(error: OSError | http.client.HTTPException, timeout: float) -> str:
    """An error of the network as a sentence for a person."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s. Try again later, or give a local file."
    if isinstance(error, ssl.SSLError):
        return f"the secure connection failed ({error.reason or 'TLS error'})."
    if isinstance(error, socket.gaierror):
        return "the host's name is not known. Check the address and the network."
    if isinstance(error, http.client.HTTPException):
        return "the server's answer broke off or was not HTTP. Try again, or give a local file."
    return f"{error.strerror or error}. Check the address and the network."


def _clean_url(url: str) -> str:
    shown = redact_url(url)
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if not port_is_valid or parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"{shown} is not a usable URL; expected http://host/path or https://host/path.")
    if "@" in parts.netloc:
        raise DownloadError(
            f"{shown} was given with a user name or password, which is not supported. Use a signed URL or "
            "download the file first."
        )
    # Addresses copied from a browser may hold spaces and letters beyond ASCII; what is quoted stays as it is.
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    max_bytes: int,
    shown: str,
    progress: Callable[[float], None] | None,
) -> None:
    header = response.headers.get("Content-Length", "")
    declared = int(header) if header.isdecimal() else None
    if declared is not None and declared > max_bytes:
        raise DownloadTooLargeError(_too_large(shown, max_bytes))
    received = 0
    # `read1` returns what has arrived; `read` would wait for a full chunk, past every sign of life.
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        if received > max_bytes:
            raise DownloadTooLargeError(_too_large(shown, max_bytes))
        file.write(chunk)
        if progress is not None and declared:
            progress(min(1.0, received / declared))
    if declared is not None and received < declared:
        raise http.client.IncompleteRead(b"", declared - received)


def _too_large(shown: str, max_bytes: int) -> str:
    return (
        f"{shown} is larger than the limit of {max_bytes / 2**20:.0f} MiB. Use a shorter or smaller clip, or "
        "raise the limit."
    )


class _Guard:
    """Opens the sockets of one download: only to allowed addresses, and closed at the deadline."""

    def __init__(self, shown: str, deadline: float) -> None:
        self.allow_private_addresses = False  # set for each hop
        self._shown = shown
        self._deadline = deadline
        self._sockets: list[socket.socket] = []
        self._expired = threading.Event()
        # A server that sends a byte now and then never trips the timeout of a single wait.
        self._timer = threading.Timer(deadline, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> _Guard:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    @property
    def expired(self) -> bool:
        return self._expired.is_set()

    def too_slow(self) -> DownloadTimeoutError:
        return DownloadTimeoutError(
            f"{self._shown} did not arrive within {self._deadline:g} s. Download it first and give the file."
        )

    def check_deadline(self) -> None:
        if self.expired:
            raise self.too_slow()

    def _expire(self) -> None:
        self._expired.set()
        for opened in self._sockets:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # already closed by the other side, or handed over to TLS

    def track(self, opened: socket.socket) -> None:
        self._sockets.append(opened)
        if self.expired:
            raise self.too_slow()

    def connect(self, host: str, port: int, timeout: float | None) -> socket.socket:
        self.check_deadline()
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise DownloadError(
                f"{self._shown} names a host that cannot exist. Check the address."
            ) from error
        if not self.allow_private_addresses:
            for *_, address in addresses:
                if not is_public_address(str(address[0])):
                    raise AddressRefusedError(
                        f"{self._shown} leads to {host}, a private or local address, which is refused. Give "
                        "a public address or a local file, or allow private addresses "
                        "(--allow-private-addresses) where you trust the address."
                    )
        failure: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(timeout)
                opened.connect(address)
            except OSError as error:
                opened.close()
                failure = error
                continue
            self.track(opened)
            return opened
        raise failure or OSError(f"{host} has no address")


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, host: str, port: int, *, guard: _Guard, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._guard = guard

    def connect(self) -> None:
        self.sock = self._guard.connect(self.host, self.port, self.timeout)


class _HTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, port: int, *, guard: _Guard, timeout: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, port, timeout=timeout, context=self._tls)
        self._guard = guard

    def connect(self) -> None:
        plain = self._guard.connect(self.host, self.port, self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        self._guard.track(self.sock)
