"""Who may ask: shared secret, basic authentication, and the limits of a request's body."""

from __future__ import annotations

import hmac
import json
from typing import Any

from flask import request

from ml_backend.requests import RequestError
from ml_backend.service import Service

SECRET_HEADER = "X-SteerSeg-Secret"


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
    """Compare in a time that does not tell how much of it was right."""
    return hmac.compare_digest((given or "").encode(), expected.encode())


def basic_auth_right(service: Service) -> bool:
    settings = service.settings
    given = request.authorization
    if given is None or given.type != "basic" or settings.basic_auth_password is None:
        return False
    right_name = _same(given.username, settings.basic_auth_username or "")
    return _same(given.password, settings.basic_auth_password.get_secret_value()) and right_name


def webhook_allowed(service: Service) -> bool:
    """Whether an event may be trusted.

    Label Studio sends the secret header with webhooks, but basic auth and no header with START_TRAINING.
    Without basic auth that one event is as open as /predict is.
    """
    settings = service.settings
    if settings.webhook_secret is None:
        return settings.basic_auth_username is None or basic_auth_right(service)
    if _same(request.headers.get(SECRET_HEADER), settings.webhook_secret.get_secret_value()):
        return True
    if settings.basic_auth_username is not None:
        return basic_auth_right(service)
    body = read_body()
    return isinstance(body, dict) and body.get("action") == "START_TRAINING"
