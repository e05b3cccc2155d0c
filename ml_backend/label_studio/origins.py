"""Addresses of servers, compared as browsers and proxies compare them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

Origin = tuple[str, str, int | None]
"""Scheme, host and port; the port of the scheme where the address names none."""

_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> Origin:
    """The origin of a URL. One that cannot be read has the port -1, and equals no server's."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        return "", "", -1
    return scheme, host, _PORTS.get(scheme) if port is None else port


def same_address(one: str, other: str) -> bool:
    """Whether two addresses of a server are the same: origin and sub-path."""
    if origin_of(one) != origin_of(other) or -1 in origin_of(one):
        return False
    return urlsplit(one).path.rstrip("/") == urlsplit(other).path.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or an IP address stands for this machine alone."""
    address = ip_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is written as; ``None`` for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
