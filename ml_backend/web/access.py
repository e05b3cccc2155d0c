"""Who may ask: shared secret and basic authentication."""

from __future__ import annotations

import hmac

from flask import Flask, Response, request

from ml_backend.settings import Settings
from ml_backend.web.door import read_body
from ml_backend.web.errors import Problem, to_response

SECRET_HEADER = "X-SteerSeg-Secret"

_NO_CREDENTIALS = Problem(
    401,
    "this backend asks for credentials, and the request brought none or wrong ones",
    "Enter user name and password at Label Studio's model connection; for webhooks set the header "
    f"{SECRET_HEADER} (`steerseg-backend connect` does both).",
)


def restrict_access(app: Flask, settings: Settings) -> None:
    """Refuse requests without the credentials that the settings ask for.

    Args:
        app: The app.
        settings: The settings in force.
    """

    @app.before_request
    def check_access() -> Response | None:
        if request.path == "/webhook":
            allowed = _webhook_allowed(settings)
        else:
            allowed = settings.basic_auth_username is None or _has_basic_auth(settings)
        if allowed:
            return None
        response = to_response(_NO_CREDENTIALS)
        response.headers["WWW-Authenticate"] = 'Basic realm="SteerSeg"'
        return response


def _same(given: str | None, expected: str) -> bool:
    """Compare in a time that does not depend on how much of it was right."""
    return hmac.compare_digest((given or "").encode(), expected.encode())


def _has_basic_auth(settings: Settings) -> bool:
    given = request.authorization
    if given is None or given.type != "basic" or settings.basic_auth_password is None:
        return False
    right_name = _same(given.username, settings.basic_auth_username or "")
    return _same(given.password, settings.basic_auth_password.get_secret_value()) and right_name


def _webhook_allowed(settings: Settings) -> bool:
    """Whether an event may be trusted.

    Label Studio sends the secret header with webhooks, but basic auth and no header with START_TRAINING.
    Without basic auth that one event is as open as /predict is.
    """
    if settings.webhook_secret is None:
        return settings.basic_auth_username is None or _has_basic_auth(settings)
    if _same(request.headers.get(SECRET_HEADER), settings.webhook_secret.get_secret_value()):
        return True
    if settings.basic_auth_username is not None:
        return _has_basic_auth(settings)
    body = read_body()
    return isinstance(body, dict) and body.get("action") == "START_TRAINING"
