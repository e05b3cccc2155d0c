"""Requests to one Label Studio with one token: renewal, retries, and errors that never hold the token."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from ml_backend.database.json_values import parse_json
from ml_backend.label_studio.errors import (
    LabelStudioAuthError,
    LabelStudioError,
    LabelStudioInvalidError,
    LabelStudioNotFoundError,
    LabelStudioUnreachableError,
)
from steerseg.errors import ConfigError
from steerseg.runtime.network import certificate_authorities, proxy_for

DEFAULT_TIMEOUT = 30.0
_REFRESH_EARLY = 60.0  # seconds before an access token ends (they live 300 s)
_RETRIED_STATUSES = (502, 503, 504)
_SHOWN_CHARACTERS = 500


class Session:
    """Sends requests and turns refusals into typed errors.

    The kind of token is known by its form. A personal access token is a *refresh* token: it is exchanged for access
    tokens that live five minutes, and renewed before they end. Anything else is a legacy token. Instances may be
    shared between threads.

    Args:
        url: Address of Label Studio, with the sub-path if it has one.
        api_key: Personal access token or legacy token, from Account & Settings in Label Studio.
        timeout: Seconds that one wait for the network may take.

    Attributes:
        url: The address without a slash at its end.
        timeout: Seconds that one wait for the network may take.

    Raises:
        LabelStudioError: The address or the token cannot be one.
    """

    def __init__(self, url: str, api_key: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise LabelStudioError(
                "the address of Label Studio is unusable; expected one such as http://localhost:8080"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._key = api_key.strip()
        if not is_token(self._key):
            # Such a token would break the header, and the complaint about it would print it.
            raise LabelStudioError(
                "the Label Studio token is empty or holds spaces or other characters that no token has; "
                "copy it again from Account & Settings"
            )
        self._claims = _read_jwt(self._key)
        self._lock = threading.Lock()
        self._access = ""
        self._access_ends = 0.0
        try:
            self._connections = open_session(self.url)
        except ConfigError as error:
            raise LabelStudioError(str(error)) from error
        retries = Retry(
            total=3,
            backoff_factor=0.3,
            status_forcelist=_RETRIED_STATUSES,
            allowed_methods=frozenset({"GET"}),
            raise_on_status=False,
            redirect=False,
        )
        for scheme in ("http://", "https://"):
            self._connections.mount(scheme, HTTPAdapter(max_retries=retries, pool_maxsize=32))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    # --- requests

    def request(
        self, method: str, path: str, *, timeout: float | None = None, action: str = "", **options: Any
    ) -> requests.Response:
        """Send one request and return its successful answer.

        Args:
            method: HTTP method.
            path: Path from Label Studio's address, beginning with ``/``.
            timeout: Seconds; the session's own if not given.
            action: What was tried, for messages ("create the project").
            options: Passed on to ``requests`` (``json``, ``params``, ``files``).

        Raises:
            LabelStudioError: No answer, or one that is not a success.
        """
        response = self._send(method, path, headers=self.auth_headers(), timeout=timeout, **options)
        if response.status_code == 401 and self._access and "files" not in options:
            with self._lock:
                self._access_ends = 0.0  # revoked or expired early: one fresh try
            response = self._send(method, path, headers=self.auth_headers(), timeout=timeout, **options)
        if not 200 <= response.status_code < 300:
            raise self._error(response, action or f"{method} {path}")
        return response

    def call(
        self, method: str, path: str, action: str, *, timeout: float | None = None, **options: Any
    ) -> Any:
        """Send one request and return the JSON of its answer; see :meth:`request`."""
        return _json(self.request(method, path, action=action, timeout=timeout, **options), self.url)

    def get(self, path: str, action: str, **params: Any) -> Any:
        """Read the JSON at a path; ``params`` make up the query."""
        return self.call("GET", path, action, params=params)

    def get_items(self, path: str, action: str, **params: Any) -> list[dict[str, Any]]:
        """All items of a list, whether the server pages it or not."""
        answer = self.get(path, action, **params)
        items = answer.get("results") if isinstance(answer, dict) else answer
        if not isinstance(items, list):
            raise self._senseless(action, "a list")
        return items

    def get_object(self, path: str, action: str) -> dict[str, Any]:
        """Read the JSON object at a path."""
        return self._object(self.get(path, action), action)

    def write(
        self, method: str, path: str, body: Mapping[str, Any], action: str, timeout: float | None = None
    ) -> dict[str, Any]:
        """Send an object as JSON and return the object that Label Studio answers with."""
        return self._object(self.call(method, path, action, timeout=timeout, json=dict(body)), action)

    def _object(self, answer: Any, action: str) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._senseless(action, "an object")
        return answer

    def _senseless(self, action: str, expected: str) -> LabelStudioError:
        return LabelStudioError(
            f"could not {action}: {self.url} answered without {expected}; check that the address is Label Studio's"
        )

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout: float | None = None,
        **options: Any,
    ) -> requests.Response:
        limit = self.timeout if timeout is None else timeout
        try:
            return self._connections.request(
                method,
                self.url + path,
                headers=dict(headers),
                timeout=(min(limit, 10.0), limit),
                allow_redirects=False,
                **options,
            )
        except requests.Timeout:
            raise LabelStudioUnreachableError(
                f"{self.url} did not answer within {limit:g} s; check that Label Studio runs and is not "
                "overloaded"
            ) from None
        except requests.RequestException as error:
            reason = self._redact(_network_reason(error))
            raise LabelStudioUnreachableError(
                f"{self.url} cannot be reached ({reason}); check the address and that Label Studio runs"
            ) from None

    # --- tokens

    def auth_headers(self) -> dict[str, str]:
        """The header that identifies us; renews the access token where needed.

        Raises:
            LabelStudioError: A personal access token could not be exchanged.
        """
        if self._claims is None:
            return {"Authorization": f"Token {self._key}"}
        if self._claims.get("token_type") == "access":
            return {"Authorization": f"Bearer {self._key}"}
        with self._lock:
            if time.time() >= self._access_ends - _REFRESH_EARLY:
                self._refresh()
            return {"Authorization": f"Bearer {self._access}"}

    def _refresh(self) -> None:
        response = self._send("POST", "/api/token/refresh/", headers={}, json={"refresh": self._key})
        if response.status_code != 200:
            raise LabelStudioAuthError(
                f"{self.url} does not accept the personal access token ({response.status_code}); it may be "
                "revoked or expired. Create a new one in Account & Settings › Personal Access Token",
                response.status_code,
            )
        access = str(_json(response, self.url).get("access", ""))
        claims = _read_jwt(access)
        if claims is None:
            raise LabelStudioError(f"{self.url} answered a token refresh without an access token")
        self._access = access
        # Our clock and the server's may differ: count its lifetime from now.
        lifetime = float(claims.get("exp", 0)) - float(claims.get("iat", time.time()))
        self._access_ends = time.time() + lifetime

    def _redact(self, text: str) -> str:
        for secret in (self._key, self._access):
            if secret:
                text = text.replace(secret, "<token>")
        return re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", "<token>", text)

    # --- errors

    def _error(self, response: requests.Response, action: str) -> LabelStudioError:
        status = response.status_code
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", ""))
            return LabelStudioError(
                f"could not {action}: {self.url} redirects to {target.scheme}://{target.netloc}; give Label "
                "Studio's final address",
                status,
            )
        detail = self._redact(_detail(response))
        message = f"could not {action}: Label Studio answered {status}" + (f" ({detail})" if detail else "")
        if status == 401:
            hint = (
                "; the token is not accepted. Legacy tokens can be switched off for an organisation: use a "
                "personal access token, or switch them on in Organization › API Tokens Settings"
            )
            return LabelStudioAuthError(message + hint, status)
        if status == 403 and "reserved network address" in detail:
            hint = (
                "; since 1.23.1 Label Studio refuses private addresses. Start it with "
                "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false"
            )
            return LabelStudioError(message + hint, status)
        if status == 403:
            return LabelStudioAuthError(message, status)
        # A page in place of JSON comes from a proxy, or from another program: it says nothing of the object.
        if status == 400 and _is_object(response):
            return LabelStudioInvalidError(message, status)
        if status == 404 and _is_object(response):
            return LabelStudioNotFoundError(message, status)
        return LabelStudioError(message, status)


def is_token(text: str) -> bool:
    """Whether a text can be a token: nothing but visible ASCII, which a header takes."""
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


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


def _read_jwt(token: str) -> dict[str, Any] | None:
    """The claims of a JSON web token, unverified; ``None`` for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:  # neither base64 nor JSON
        return None
    return claims if isinstance(claims, dict) and "token_type" in claims else None


def _network_reason(error: requests.RequestException) -> str:
    """The reason of a network error, for a person."""
    text = str(error)
    for sign, reason in (
        (
            "ProxyError",
            "the proxy that the environment names does not lead there; NO_PROXY names hosts that are reached without",
        ),
        ("NameResolutionError", "the host's name is not known"),
        ("Connection refused", "nothing listens there"),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "its certificate is not trusted; REQUESTS_CA_BUNDLE names a file of certificate authorities",
        ),
    ):
        if sign in text:
            return reason
    return text[:_SHOWN_CHARACTERS]


def _json(response: requests.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise LabelStudioError(
            f"{url} answered with something other than JSON; check that the address is Label Studio's",
            response.status_code,
        ) from None


def _is_object(response: requests.Response) -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _detail(response: requests.Response) -> str:
    """Label Studio's own explanation of an error, in one line."""
    try:
        body = response.json()
    except ValueError:
        return ""
    if isinstance(body, dict):
        # Besides the message, errors carry an id, the version and a traceback.
        explaining = ("validation_errors", "detail", "error")
        rest = {k: v for k, v in body.items() if k not in ("id", "status_code", "version", "exc_info")}
        body = next((body[key] for key in explaining if body.get(key)), rest)
    text = re.sub(r"<[^>]*>", "", "; ".join(_leaves(body)))
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """The messages in a nested answer, each with the field that it is about."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, "" if key == "non_field_errors" else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    elif value is not None:
        yield f"{name}: {value}" if name else str(value)
