"""Errors as HTTP: the one place that maps an error to a status, for the API and for the pages."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from ml_backend.database.errors import DamagedValueError, StoreError, ValueRefusedError
from ml_backend.label_studio.errors import UntrustedAddressError
from ml_backend.predictions.deliveries import QueueFullError
from ml_backend.requests import RequestError
from steerseg.errors import Cancelled, ConfigError, SteerSegError

log = logging.getLogger(__name__)

_HTTP_HINTS = {
    404: "Known are /health, /setup, /predict, /webhook, /versions, /metrics, /jobs, /jobs/<name>/cancel, /fleet, "
    "/understands, the pages that / leads to, and below /projects/<number> /corrections, /refine and /refinement.",
    405: "GET for /, /health, /versions, /metrics, /jobs, /fleet, /understands, and /corrections and /refinement "
    "below /projects/<number>; POST for /setup, /predict, /webhook, /jobs/<name>/cancel and /projects/<number>/refine.",
    413: "Send fewer tasks at a time, or raise STEERSEG_MAX_REQUEST_MIB.",
}
_RETRY_AFTER = 10  # seconds


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it.

    Attributes:
        status: The HTTP status.
        message: What was wrong and what was expected.
        hint: What to do; may be empty.
    """

    status: int
    message: str
    hint: str


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 of one that nobody foresaw."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, HTTPException):
        return error.code or 500
    if isinstance(error, DamagedValueError):
        return 500
    if isinstance(error, StoreError | Cancelled | QueueFullError) and not isinstance(
        error, ValueRefusedError
    ):
        return 503
    if isinstance(error, UntrustedAddressError):
        return 403
    return 422 if isinstance(error, SteerSegError) else 500


def describe(error: Exception) -> Problem:
    """An error as a client sees it; of an unforeseen one, only its type."""
    status, message = status_of(error), str(error)
    if isinstance(error, RequestError):
        hint = error.hint
    elif isinstance(error, HTTPException):
        message, hint = error.description or error.name, _HTTP_HINTS.get(status, "")
    elif isinstance(error, QueueFullError):
        hint = "Try again in a while, or raise STEERSEG_MAX_QUEUE."
    elif isinstance(error, DamagedValueError):
        hint = "Trying again does not help, and nothing else is affected."
    elif isinstance(error, ValueRefusedError):
        hint = "Send a value that the database holds; trying again does not help."
    elif isinstance(error, StoreError | Cancelled):
        hint = "Try again in a while; the server's log has the details."
    elif isinstance(error, UntrustedAddressError):
        hint = (
            "Set STEERSEG_LABEL_STUDIO_URL; or set STEERSEG_BASIC_AUTH_USERNAME and STEERSEG_BASIC_AUTH_PASSWORD, "
            "which `steerseg-backend connect` gives to Label Studio."
        )
    elif isinstance(error, ConfigError):
        hint = "Change it in Label Studio under Settings › Labeling Interface."
    elif isinstance(error, SteerSegError):
        hint = ""
    else:
        message = f"unexpected {type(error).__name__}"
        hint = "This is a fault of the backend; its log has the details."
    return Problem(status, message, hint)


def log_error(error: Exception) -> None:
    """Log an error of the current request, where the fault is the backend's."""
    if isinstance(error, StoreError | Cancelled):
        log.error("%s %s: %s", request.method, request.path, error)
    elif status_of(error) == 500 and not isinstance(error, HTTPException):
        log.error("%s %s: unexpected error", request.method, request.path, exc_info=error)


def to_response(problem: Problem) -> Response:
    """A problem as the API answers it: JSON with ``error`` and ``hint``."""
    response = jsonify({"error": problem.message, "hint": problem.hint})
    # Of a failed /setup, Label Studio shows only the status line to a person: let that say what is wrong.
    first_line = problem.message.strip().partition("\n")[0]
    words = " ".join(first_line.encode("ascii", "replace").decode("ascii").split())
    reason = "".join(character if character.isprintable() else "?" for character in words)
    response.status = f"{problem.status} {reason[:200]}"
    if problem.status == 503:
        response.headers["Retry-After"] = str(_RETRY_AFTER)
    return response


def answer_errors(app: Flask) -> None:
    """Answer every error of an app's API as JSON."""

    @app.errorhandler(Exception)
    def explain(error: Exception) -> Response:
        log_error(error)
        return to_response(describe(error))
