"""Who may ask: shared secret, basic authentication, and the limits of a request's body."""

from __future__ import annotations

import hmac
import json
from typing import Any

from flask import Flask, Response, request

from ml_backend.requests import RequestError
from ml_backend.settings import Settings
from ml_backend.web.errors import Problem, to_response
from ml_backend.web.pages.csrf import from_elsewhere

SECRET_HEADER = "X-SteerSeg-Secret"

_NO_CREDENTIALS = Problem(
    401,
    "this backend asks for credentials, and the request brought none or wrong ones",
    "Enter user name and password at Label Studio's model connection; for webhooks set the header "
    f"{SECRET_HEADER} (`steerseg-backend connect` does both).",
)
_FOREIGN_PAGE = Problem(403, "another site's page sent this request", "Send it from the backend's own pages.")


def restrict_access(app: Flask, settings: Settings) -> None:
    """Refuse requests without the credentials that the settings ask for, and those of other sites' pages.

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

    @app.before_request
    def check_origin() -> Response | None:
        return to_response(_FOREIGN_PAGE) if from_elsewhere(request) else None


def read_body() -> Any:
    """The request's JSON, whatever its content type says.

    Raises:
        RequestError: It is not JSON.
    """
    try:
        return json.loads(request.get_data())
    except json.JSONDecodeError as error:
        reason = str(error)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; endless nesting
        reason = type(error).__name__
    raise RequestError(400, f"the body is not JSON ({reason})", "Send a JSON object as Label Studio does.")


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
