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

import requests
from requests.utils import get_environ_proxies, select_proxy

from steerseg.errors import ConfigError

_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; ``None`` where the host is reached directly.

    This machine itself is never reached through a proxy, whatever ``NO_PROXY`` says.
    """
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return None
    return select_proxy(url, get_environ_proxies(url)) or None


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


def open_session(url: str) -> requests.Session:
    """A session for one server, by the environment's proxy and authorities, and without any ``.netrc``.

    Raises:
        ConfigError: The authorities of the environment do not exist.
    """
    session = requests.Session()
    session.trust_env = False  # a .netrc must not replace a token
    proxy = proxy_for(url)
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
    authorities = certificate_authorities()
    if authorities is not None:
        session.verify = str(authorities)
    return session


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
