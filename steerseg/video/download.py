"""Fetch a file from an http(s) URL that is not trusted.

Every connection is checked where it is made, so a redirect and a name whose address changes between check and use are
covered without a special case; see :mod:`steerseg.video.sockets`. A content that breaks off is gone on with where it
stopped.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from steerseg.errors import VideoError
from steerseg.video.download_errors import DownloadError, DownloadTooLargeError, NoAnswerError
from steerseg.video.sockets import Connection, Guard, Trust

_CHUNK = 1 << 16
_HEADERS = {"User-Agent": "steerseg", "Accept": "*/*", "Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT = frozenset({200, 206, 304})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_PASSING_STATUSES = frozenset({424, 429, 502, 503, 504})
"""Refusals in the middle of a download that may pass; 424 is Label Studio's word for trouble with a cloud."""
_MOST_FAILURES = 3
"""Answers without a new byte, one after the other, after which a download that has begun is given up."""
_PAUSE = 0.3
"""Seconds before the rest is asked for again, times the failures so far."""


class HopPolicy:
    """Decides about each address on the way of a download; this one suits the URL of a stranger.

    Args:
        allow_private_addresses: Also fetch from loopback and private addresses.
    """

    def __init__(self, allow_private_addresses: bool = False) -> None:
        self._allow_private_addresses = allow_private_addresses

    def rewrite(self, url: str) -> str:
        """The address to ask in place of this one, for servers that go by several names."""
        return url

    def check(self, url: str) -> None:
        """Refuse an address by raising an error, before its host is resolved."""

    def headers(self, url: str) -> Mapping[str, str]:
        """Headers for this address alone; a token for one host never reaches the next."""
        return {}

    def trust(self, url: str) -> Trust:
        """Whether this address may resolve to a private one, and whether a proxy may resolve it."""
        return Trust(private_addresses=self._allow_private_addresses)


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
    validators: Mapping[str, str] | None = None,
    part_bytes: int | None = None,
    count: Callable[[int], None] | None = None,
) -> FetchResult:
    """Like :func:`download`, with a policy that decides at every hop.

    Args:
        url: See :func:`download`.
        destination: See :func:`download`.
        policy: Decides at every hop.
        max_bytes: See :func:`download`.
        timeout: See :func:`download`.
        deadline: See :func:`download`.
        max_redirects: See :func:`download`.
        progress: See :func:`download`.
        validators: Headers such as ``If-None-Match`` by which the server may say that our copy is current.
        part_bytes: Ask for parts of this size, of a server that may end a long answer without an error.
        count: Called with the bytes that are about to be written, before they are, and with a negative number where
            they are dropped; may raise to stop.

    Raises:
        DownloadError: As for :func:`download`; also whatever the policy raises.
    """
    shown = redact_url(url)
    with Guard(shown, deadline) as guard:
        attempt = _Download(url, guard, policy, max_bytes, timeout, max_redirects, progress, count)
        try:
            with destination.open("wb") as file:
                result = attempt.run(file, validators or {}, part_bytes)
            guard.check_deadline()
        except (OSError, http.client.HTTPException, VideoError) as error:
            destination.unlink(missing_ok=True)
            if guard.expired:
                raise guard.too_slow() from error
            if isinstance(error, VideoError):
                raise
            kind = NoAnswerError if isinstance(error, TimeoutError) else DownloadError
            raise kind(f"{shown} could not be fetched: {_describe(error, timeout)}") from error
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
    return result


@dataclass(frozen=True)
class _Answer:
    """An answer with content, or one that confirms our copy.

    Attributes:
        response: The answer.
        start: First byte that it brings.
        size: Bytes of the whole content, where they are known.
    """

    response: http.client.HTTPResponse
    start: int
    size: int | None

    @property
    def etag(self) -> str:
        return self.response.headers.get("ETag", "")

    def result(self) -> FetchResult:
        headers = self.response.headers
        return FetchResult(
            content_type=str(headers.get_content_type()) if "Content-Type" in headers else "",
            etag=self.etag,
            last_modified=headers.get("Last-Modified", ""),
            modified=self.response.status != http.HTTPStatus.NOT_MODIFIED,
        )


class _Download:
    """One download: asks, copies, and asks for the rest where an answer ends early."""

    def __init__(
        self,
        url: str,
        guard: Guard,
        policy: HopPolicy,
        max_bytes: int,
        timeout: float,
        max_redirects: int,
        progress: Callable[[float], None] | None,
        count: Callable[[int], None] | None,
    ) -> None:
        self._url = url
        self._shown = redact_url(url)
        self._guard = guard
        self._policy = policy
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_redirects = max_redirects
        self._progress = progress
        self._count = count or (lambda _: None)
        self._received = 0

    def run(self, file: IO[bytes], validators: Mapping[str, str], part_bytes: int | None) -> FetchResult:
        """Write the content into a file."""
        if validators and part_bytes is not None:
            # Label Studio answers a range with content even where our copy is current.
            with self._ask(validators) as answer:
                if not answer.result().modified:
                    return answer.result()
            validators = {}
        first: _Answer | None = None
        failures = 0
        while True:
            before = self._received
            try:
                with self._ask({**validators, **self._range(part_bytes)}) as answer:
                    first = first or answer
                    if not answer.result().modified:
                        return answer.result()
                    self._check_same(first, answer)
                    if answer.start < self._received:  # this server has no ranges: from the beginning
                        file.seek(0)
                        file.truncate()
                        self._count(-self._received)
                        self._received = 0
                    self._copy(answer, file)
                if answer.size is None or self._received >= answer.size:
                    return first.result()
                if self._received <= before:
                    raise http.client.IncompleteRead(b"", answer.size - self._received)
                failures = 0
            except (OSError, http.client.HTTPException, DownloadError) as error:
                failures = 0 if self._received > before else failures + 1
                if not self._may_go_on(error, failures):
                    raise
                self._guard.pause(_PAUSE * failures)
            validators = {}

    def _range(self, part_bytes: int | None) -> dict[str, str]:
        if part_bytes is not None:
            return {"Range": f"bytes={self._received}-{self._received + part_bytes - 1}"}
        return {"Range": f"bytes={self._received}-"} if self._received else {}

    def _may_go_on(self, error: Exception, failures: int) -> bool:
        """Whether the rest may be asked for: something has arrived, and the error may pass."""
        if self._guard.expired or not self._received or failures > _MOST_FAILURES:
            return False
        return not isinstance(error, DownloadError) or error.status in _PASSING_STATUSES

    def _check_same(self, first: _Answer, answer: _Answer) -> None:
        pairs: tuple[tuple[object, object], ...] = ((answer.size, first.size), (answer.etag, first.etag))
        if any(now and before and now != before for now, before in pairs):
            raise DownloadError(
                f"{self._shown} could not be fetched: it changed while it was downloaded. Try again."
            )

    @contextlib.contextmanager
    def _ask(self, headers: Mapping[str, str]) -> Iterator[_Answer]:
        """Ask for the URL, and for those it redirects to, until a server answers with content."""
        url = self._url
        for _ in range(self._max_redirects + 1):
            url = self._policy.rewrite(_clean_url(url))
            self._policy.check(url)
            with contextlib.closing(
                Connection(url, self._guard, self._policy.trust(url), self._timeout)
            ) as connection:
                response = self._request(connection, url, headers)
                if response.status in _CONTENT:
                    with response:
                        yield self._answer(response)
                    return
                # The body of any other answer is never read: it may be endless.
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    raise DownloadError(
                        f"{self._shown} could not be fetched: the server answered {response.status} "
                        f"{response.reason}. Check the address, and that the file can be read without signing in.",
                        response.status,
                        url,
                    )
                url = urljoin(url, location)
        raise DownloadError(
            f"{self._shown} could not be fetched: it redirects more than {self._max_redirects} times. Give the "
            "final address of the file."
        )

    def _request(
        self, connection: Connection, url: str, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        proxy_headers = connection.proxy_headers
        if proxy_headers is not None:
            target = urlunsplit((parts.scheme, parts.netloc, parts.path or "/", parts.query, ""))
        connection.request(
            "GET",
            target,
            headers={**_HEADERS, **headers, **self._policy.headers(url), **(proxy_headers or {})},
        )
        return connection.getresponse()

    def _answer(self, response: http.client.HTTPResponse) -> _Answer:
        """What an answer brings.

        Raises:
            DownloadError: It brings other bytes than were asked for, or does not say which.
        """
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            length = response.headers.get("Content-Length", "")
            return _Answer(response, 0, int(length) if length.isdecimal() else None)
        range_ = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if range_ is None or int(range_[1]) != self._received:
            raise DownloadError(
                f"{self._shown} could not be fetched: the server answered with another part of the content than was "
                "asked for. Download it first and give the file."
            )
        return _Answer(response, self._received, int(range_[2]))

    def _copy(self, answer: _Answer, file: IO[bytes]) -> None:
        """Append an answer's content; an answer that ends early has raised no error where its size is known."""
        most = self._max_bytes if answer.size is None else answer.size
        if most > self._max_bytes:
            raise DownloadTooLargeError(_too_large(self._shown, self._max_bytes))
        # `read1` returns what has arrived; `read` would wait for a full chunk, past every sign of life.
        while chunk := answer.response.read1(_CHUNK):
            if self._received + len(chunk) > most:
                raise DownloadTooLargeError(_too_large(self._shown, self._max_bytes))
            self._count(len(chunk))
            file.write(chunk)
            self._received += len(chunk)
            if self._progress is not None and answer.size:
                self._progress(self._received / answer.size)


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


def _too_large(shown: str, max_bytes: int) -> str:
    return (
        f"{shown} is larger than the limit of {max_bytes / 2**20:.0f} MiB. Use a shorter or smaller clip, or "
        "raise the limit."
    )
