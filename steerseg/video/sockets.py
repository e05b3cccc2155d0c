"""The sockets of one download: opened to checked addresses only, and closed at its deadline.

A host is resolved once, all its addresses must be public, and the socket is opened to exactly those addresses. A
proxy resolves names itself. So a proxy is asked for a checked address where it can be (``https``), and for a name only
where the operator has named that host.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote, urlsplit

from steerseg.errors import ConfigError
from steerseg.runtime.network import proxy_for, tls_context
from steerseg.video.download_errors import (
    AddressRefusedError,
    DownloadError,
    DownloadTimeoutError,
    UncheckedAddressError,
)

_PORTS = {"http": 80, "https": 443}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")


def is_public_address(address: str) -> bool:
    """Whether an IP address is reachable on the public internet.

    False for loopback, private, link-local, carrier-grade NAT, multicast, reserved and unspecified addresses, for
    relays of 6to4, and for IPv6 beyond global unicast (site-local, segment routing, IPv4-compatible). An IPv4 address
    within an IPv6 one (mapped, 6to4, NAT64) is judged by itself.
    """
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _embedded(ip)
        if inner is None:
            return ip in _GLOBAL_UNICAST and ip.is_global and not ip.is_multicast
        ip = inner
    return ip.is_global and not ip.is_multicast and ip not in _RELAYS


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which an IPv6 address leads."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


@dataclass(frozen=True)
class Trust:
    """What the operator allows for the host of one hop.

    Attributes:
        private_addresses: It may have loopback and private addresses.
        name: The operator has named the host, so a proxy may resolve it.
    """

    private_addresses: bool = False
    name: bool = False


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: Its host.
        port: Its port.
        headers: What identifies us there; empty where its address holds no user.
    """

    host: str
    port: int
    headers: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read the value of ``HTTPS_PROXY`` and its like.

        Raises:
            DownloadError: It is no address of an HTTP proxy.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme.lower() != "http" or not parts.hostname or not port:
            raise DownloadError(
                "the proxy that the environment names cannot be used for media; expected an address such as "
                "http://proxy.example.org:3128 in HTTP_PROXY and HTTPS_PROXY"
            )
        headers = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        return cls(parts.hostname, port, headers)


class Guard:
    """Opens the sockets of one download, and closes them at the deadline.

    Args:
        shown: The URL for messages, without secrets.
        deadline: Seconds that the whole download may take.
    """

    def __init__(self, shown: str, deadline: float) -> None:
        self.shown = shown
        self._deadline = deadline
        self._sockets: list[socket.socket] = []
        self._expired = threading.Event()
        # A server that sends a byte now and then never trips the timeout of a single wait.
        self._timer = threading.Timer(deadline, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Guard:
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
        """Whether the deadline has passed."""
        return self._expired.is_set()

    def too_slow(self) -> DownloadTimeoutError:
        """The error of a download that ran into its deadline."""
        return DownloadTimeoutError(
            f"{self.shown} did not arrive within {self._deadline:g} s. Download it first and give the file."
        )

    def check_deadline(self) -> None:
        """Raise an error where the deadline has passed."""
        if self.expired:
            raise self.too_slow()

    def pause(self, seconds: float) -> None:
        """Wait, until the deadline at most."""
        self._expired.wait(seconds)
        self.check_deadline()

    def _expire(self) -> None:
        self._expired.set()
        for opened in self._sockets:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # already closed by the other side, or handed over to TLS

    def track(self, opened: socket.socket) -> None:
        """Have a socket closed at the deadline."""
        self._sockets = [known for known in self._sockets if known.fileno() != -1]
        self._sockets.append(opened)
        self.check_deadline()

    def addresses(self, host: str, port: int, trust: Trust) -> list[tuple[socket.AddressFamily, str]]:
        """The addresses of a host, all of them checked.

        Raises:
            AddressRefusedError: One of them is not public.
            OSError: The host's name is not known.
        """
        self.check_deadline()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise DownloadError(f"{self.shown} names a host that cannot exist. Check the address.") from error
        addresses: list[tuple[socket.AddressFamily, str]] = [
            (family, str(address[0])) for family, _, _, _, address in found
        ]
        if not trust.private_addresses and not all(is_public_address(address) for _, address in addresses):
            raise AddressRefusedError(
                f"{self.shown} leads to {host}, a private or local address, which is refused. Give "
                "a public address or a local file, or allow private addresses "
                "(--allow-private-addresses) where you trust the address.",
                host,
            )
        return addresses

    def connect(self, host: str, port: int, timeout: float | None, trust: Trust) -> socket.socket:
        """Open a socket to one of a host's checked addresses."""
        failure: OSError | None = None
        for family, address in self.addresses(host, port, trust):
            opened = socket.socket(family, socket.SOCK_STREAM)
            try:
                opened.settimeout(timeout)
                opened.connect((address, port))
            except OSError as error:
                opened.close()
                failure = error
                continue
            self.track(opened)
            return opened
        raise failure or OSError(f"{host} has no address")

    def proxied_name(self, host: str, port: int, trust: Trust, *, tunnel: bool) -> str:
        """What a proxy is asked for in place of a host: a checked address, or the name of a trusted host.

        Raises:
            AddressRefusedError: The host has a private address, or its address cannot be checked.
        """
        if trust.private_addresses:
            return host
        try:
            addresses = self.addresses(host, port, trust)
        except OSError:
            addresses = []  # behind a proxy, names of the internet are often not known here
        if trust.name:
            return host
        if not addresses or not tunnel:
            raise UncheckedAddressError(
                f"{self.shown} leads through a proxy, where the address of {host} cannot be checked. Give a local "
                "file, or allow private addresses (--allow-private-addresses) where you trust the address.",
                host,
            )
        return addresses[0][1]


class Connection(http.client.HTTPConnection):
    """A connection of one hop, by the way that the environment names.

    Args:
        url: The hop's address.
        guard: Opens the sockets.
        trust: What the operator allows for its host.
        timeout: Seconds that one wait may take.
    """

    def __init__(self, url: str, guard: Guard, trust: Trust, timeout: float) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme.lower() == "https"
        self.default_port = _PORTS["https" if self._is_tls else "http"]
        super().__init__(parts.hostname or "", parts.port or self.default_port, timeout=timeout)
        self._guard = guard
        self._trust = trust
        proxy = proxy_for(url)
        self._proxy = None if proxy is None else Proxy.parse(proxy)

    @property
    def proxy_headers(self) -> dict[str, str] | None:
        """The headers of a request that the proxy itself answers; ``None`` where there is none or a tunnel."""
        return None if self._proxy is None or self._is_tls else self._proxy.headers

    def connect(self) -> None:
        """Open the socket.

        Raises:
            DownloadError: The address or the proxy is refused, or the proxy refuses.
            OSError: Nothing answers.
        """
        if self._proxy is None:
            self.sock = self._guard.connect(self.host, self.port, self.timeout, self._trust)
        else:
            wanted = self._guard.proxied_name(self.host, self.port, self._trust, tunnel=self._is_tls)
            # The operator chose the proxy, so it may be anywhere.
            trusted = Trust(private_addresses=True)
            self.sock = self._guard.connect(self._proxy.host, self._proxy.port, self.timeout, trusted)
            if self._is_tls:
                self._open_tunnel(self._proxy, wanted)
        if self._is_tls:
            self.sock = _tls_context().wrap_socket(self.sock, server_hostname=self.host)
            self._guard.track(self.sock)

    def _open_tunnel(self, proxy: Proxy, wanted: str) -> None:
        target = f"[{wanted}]:{self.port}" if ":" in wanted else f"{wanted}:{self.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        answer = http.client.HTTPResponse(self.sock, method="CONNECT")
        answer.begin()
        if not 200 <= answer.status < 300:
            raise DownloadError(
                f"{self._guard.shown} could not be fetched: the proxy answered {answer.status} {answer.reason}. "
                "Check HTTPS_PROXY and what the proxy allows; NO_PROXY names hosts that are reached without it."
            )


def _tls_context() -> ssl.SSLContext:
    try:
        return tls_context()
    except ConfigError as error:
        raise DownloadError(str(error)) from error
