"""What every request passes before anything reads it: names of this server, origins of pages, and JSON bodies.

Browsers send a person's credentials with every request, also with one that another site's page begins. So a request
that changes something is refused where its browser names another origin. A name that a stranger's DNS lets point here
(DNS rebinding) would make such a page *ours*, so only known names are answered.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response, g, request
from werkzeug.routing import IntegerConverter

from ml_backend.database.json_values import JsonError, parse_json
from ml_backend.label_studio.origins import ip_address, is_loopback, origin_of
from ml_backend.requests import RequestError
from ml_backend.settings import Settings
from ml_backend.web.errors import Problem, to_response
from steerseg.errors import ConfigError
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

JSON = "application/json"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY_ADDRESS = frozenset({"0.0.0.0", "::", "*"})
_REMEMBERED_HOSTS = 256  # refused ones, whose refusals are counted
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN_PAGE = Problem(
    403,
    "another site's page sent this request",
    "Send it from the backend's own pages. Behind a proxy, set STEERSEG_PUBLIC_URL to the address that browsers use.",
)


class _Number(IntegerConverter):
    """Integers in paths, as far as the database keeps them; others lead nowhere."""

    def __init__(self, map: Any, *args: Any, **options: Any) -> None:
        super().__init__(map, *args, **{"max": 2**63 - 1, **options})


class _Refusals:
    """How often each host was refused; of many hosts, only those of late. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: LruCache[str, int] = LruCache(_REMEMBERED_HOSTS)

    def count(self, host: str) -> int:
        """Count one refusal more, and return how many there were."""
        with self._lock:
            times = 1 + (self._counts.get(host) or 0)
            self._counts.put(host, times)
            return times


def guard_door(app: Flask, settings: Settings) -> None:
    """Answer known names alone, refuse what other sites' pages begin, and let no answer be taken for another type.

    To be called before routes are added.

    Args:
        app: The app.
        settings: The settings in force.
    """
    app.url_map.converters["int"] = _Number
    names = server_names(settings)
    any_address = settings.host in _ANY_ADDRESS
    refused = _Refusals()

    @app.before_request
    def check_host() -> Response | None:
        name = _host_name(request)
        if name is not None and (name in names or (any_address and ip_address(name) is not None)):
            return None
        shown = request.headers.get("Host", "")[:100]
        times = refused.count(shown)
        if times & (times - 1) == 0:  # at the first, second, fourth, eighth, ...
            log.warning(
                "a request for the host %r was refused (%d so far); known are %s, and what STEERSEG_SERVER_NAMES adds",
                shown,
                times,
                ", ".join(sorted(names)),
            )
        return to_response(
            Problem(
                403,
                f"the request is for the host {shown!r}, a name that this server does not go by",
                "If that name is right, add it to STEERSEG_SERVER_NAMES; STEERSEG_PUBLIC_URL names the address that "
                "browsers use behind a proxy.",
            )
        )

    @app.before_request
    def check_origin() -> Response | None:
        return to_response(_FOREIGN_PAGE) if _from_elsewhere(request, settings.public_url) else None

    @app.after_request
    def keep_types(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def server_names(settings: Settings) -> frozenset[str]:
    """The names and addresses that this server goes by, in lower case."""
    names = {*_LOOPBACK_NAMES, *(name.lower().rstrip(".") for name in settings.server_names)}
    if settings.host in _ANY_ADDRESS:
        names.add(socket.gethostname().lower())
    else:
        names.add(settings.host.lower())
    for address in (settings.public_url, settings.cluster_media):
        if address is not None and address.startswith(("http://", "https://")):
            names.add(origin_of(address)[1])
    return frozenset(names)


def read_body() -> Any:
    """The request's JSON, read and checked once.

    Raises:
        RequestError: It is too large, of another content type, no JSON, or cannot be kept.
    """
    if "body" not in g:
        g.body = _read_body()
    return g.body


def require_json_type() -> None:
    """Refuse a content type that a web page may send to any site without asking.

    Raises:
        RequestError: The request has another content type than JSON.
    """
    if request.mimetype != JSON:
        raise RequestError(
            415,
            f"the content type is {request.mimetype[:100]!r}; expected {JSON}",
            f"Send the header Content-Type: {JSON}.",
        )


def require_protection(settings: Settings) -> None:
    """Refuse to listen beyond this machine where anyone could say who Label Studio is.

    Args:
        settings: The settings in force.

    Raises:
        ConfigError: Neither an address nor credentials are set.
    """
    if is_loopback(settings.host):
        return
    has_password, has_secret = settings.basic_auth_username is not None, settings.webhook_secret is not None
    if settings.label_studio_url is None and not has_password and not has_secret:
        raise ConfigError(
            f"the server would listen on {settings.host}, beyond this machine, where anyone could ask it and say who "
            "Label Studio is. Set STEERSEG_LABEL_STUDIO_URL (with STEERSEG_LABEL_STUDIO_API_KEY), "
            "STEERSEG_BASIC_AUTH_USERNAME and STEERSEG_BASIC_AUTH_PASSWORD, or STEERSEG_WEBHOOK_SECRET; or listen on "
            "127.0.0.1 (--host, STEERSEG_HOST)"
        )
    if not has_password:
        log.warning(
            "whoever reaches %s may see the pages, ask for predictions and start refinements: "
            "STEERSEG_BASIC_AUTH_USERNAME and STEERSEG_BASIC_AUTH_PASSWORD ask for credentials",
            settings.host,
        )
        if not has_secret:
            log.warning("whoever reaches it may send false corrections too: set STEERSEG_WEBHOOK_SECRET")


def _host_name(request: Request) -> str | None:
    """The host that a request names, without its port; ``None`` for none or an unusable one."""
    try:
        name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
    except ValueError:
        return None
    return None if name is None else name.lower().rstrip(".")


def _from_elsewhere(request: Request, public_url: str | None) -> bool:
    """Whether a browser says that another site's page made this request. Programs say nothing of the kind.

    Browsers send ``Sec-Fetch-Site`` to trustworthy addresses only, and ``Origin`` with every request that changes
    something.
    """
    if request.method in _READING:
        return False
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        return True
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    host = request.headers.get("Host", "")
    own = {origin_of(f"http://{host}"), origin_of(f"https://{host}")}
    if public_url is not None:
        own.add(origin_of(public_url))
    return origin_of(origin) not in own


def _read_body() -> Any:
    content = request.get_data()  # refuses what is too large
    require_json_type()
    try:
        return parse_json(content)
    except JsonError as error:
        raise RequestError(
            400, f"the body cannot be used: {error}", "Send a JSON object as Label Studio does."
        ) from None
