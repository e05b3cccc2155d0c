"""The network as the environment describes it: proxies and certificate authorities.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name proxies. ``REQUESTS_CA_BUNDLE``,
``CURL_CA_BUNDLE``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name certificate authorities; the first that is set counts.
A ``.netrc`` is never read.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from steerseg.errors import ConfigError

_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; ``None`` where the host is reached directly.

    This machine itself is never reached through a proxy, whatever ``NO_PROXY`` says.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return None
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme.lower()) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2].lower()):
        return None
    networks = [_network(name) for name in proxies.get("no", "").split(",") if "/" in name]
    if address is not None and any(network is not None and address in network for network in networks):
        return None
    return proxy


def certificate_authorities() -> Path | None:
    """The file or folder of certificate authorities that the environment names; ``None`` for the system's own.

    Raises:
        ConfigError: A variable names a file or folder that does not exist.
    """
    for name in _AUTHORITIES:
        value = os.environ.get(name)
        if value:
            path = Path(value)
            if not path.exists():
                raise ConfigError(
                    f"{name} names {value}, which does not exist; name the file of your certificate authorities "
                    f"there, or unset {name}"
                )
            return path
    return None


def tls_context() -> ssl.SSLContext:
    """A context that checks certificates against the authorities of the environment, or the system's.

    Raises:
        ConfigError: The authorities of the environment cannot be read.
    """
    path = certificate_authorities()
    try:
        if path is None:
            return ssl.create_default_context()
        if path.is_dir():
            return ssl.create_default_context(capath=str(path))
        return ssl.create_default_context(cafile=str(path))
    except OSError as error:  # of which ssl.SSLError is one
        raise ConfigError(
            f"{path} cannot be used as certificate authorities ({error.strerror or error}); expected PEM"
        ) from error


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name.strip(), strict=False)
    except ValueError:
        return None
