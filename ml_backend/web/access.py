"""Who may ask: shared secret and basic authentication."""

from __future__ import annotations

import hmac

from flask import Flask, Response, request
from werkzeug.datastructures import Authorization

from ml_backend.settings import Settings
from ml_backend.web.door import read_body
from ml_backend.web.errors import Problem, to_response

SECRET_HEADER = "X-SteerSeg-Secret"

MEDIA_PATH = "/media/"
"""Where hosts of a cluster fetch media, with a token of their own."""

CREDENTIALS_HINT = (
    "Enter user name and password at Label Studio's model connection; for webhooks set the header "
    f"{SECRET_HEADER} (`steerseg-backend connect` does both)."
)

_NO_CREDENTIALS = Problem(
    401, "this backend asks for credentials, and the request brought none or wrong ones", CREDENTIALS_HINT
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
        elif request.path.startswith(MEDIA_PATH):
            return None  # which asks for the cluster's token; see :mod:`ml_backend.web.media`
        else:
            allowed = settings.basic_auth_username is None or is_user(settings, request.authorization)
        if allowed:
            return None
        response = to_response(_NO_CREDENTIALS)
        response.headers["WWW-Authenticate"] = 'Basic realm="SteerSeg"'
        return response


def is_user(settings: Settings, given: Authorization | None) -> bool:
    """Whether a request brings the user name and password that the settings ask for."""
    if given is None or given.type != "basic" or settings.basic_auth_password is None:
        return False
    right_name = _same(given.username, settings.basic_auth_username or "")
    return _same(given.password, settings.basic_auth_password.get_secret_value()) and right_name


def has_secret(settings: Settings, given: str | None) -> bool:
    """Whether a request brings the secret of webhooks that the settings ask for."""
    secret = settings.webhook_secret
    return secret is not None and _same(given, secret.get_secret_value())


def _same(given: str | None, expected: str) -> bool:
    """Compare in a time that does not depend on how much of it was right."""
    return hmac.compare_digest((given or "").encode(errors="surrogatepass"), expected.encode())


def _webhook_allowed(settings: Settings) -> bool:
    """Whether an event may be trusted.

    Label Studio sends the secret header with webhooks, but basic auth and no header with START_TRAINING.
    Without basic auth that one event is as open as /predict is.
    """
    if settings.webhook_secret is None:
        return settings.basic_auth_username is None or is_user(settings, request.authorization)
    if has_secret(settings, request.headers.get(SECRET_HEADER)):
        return True
    if settings.basic_auth_username is not None:
        return is_user(settings, request.authorization)
    body = read_body()
    return isinstance(body, dict) and body.get("action") == "START_TRAINING"
