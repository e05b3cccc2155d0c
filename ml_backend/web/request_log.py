"""Requests counted, timed and logged, each under an id that follows it to the worker."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from ml_backend.logs import request_scope
from ml_backend.metrics import Metrics

log = logging.getLogger(__name__)

# Requests that Label Studio, monitors and open pages repeat all the time are logged only when one debugs.
_QUIET_ROUTES = frozenset(
    {"/health", "/setup", "/metrics", "/versions", "/jobs", "/", "/pages/jobs", "/static/<path:filename>"}
)

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def log_requests(app: Flask, metrics: Metrics) -> None:
    """Count, time and log the requests of an app; to be called before anything else answers them.

    A request keeps the id that its header ``X-Request-Id`` names, or gets one; the answer names it too.

    Args:
        app: The app.
        metrics: Counts them by route and status.
    """

    @app.before_request
    def begin() -> None:
        g.started = time.monotonic()
        given = request.headers.get(REQUEST_ID_HEADER, "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        g.request_scope = contextlib.ExitStack()
        g.request_scope.enter_context(request_scope(g.request_id))

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        scope = g.pop("request_scope", None)
        if scope is not None:
            scope.close()

    @app.after_request
    def count(response: Response) -> Response:
        route = "unknown" if request.url_rule is None else request.url_rule.rule
        seconds = time.monotonic() - g.get("started", time.monotonic())
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        quiet = route in _QUIET_ROUTES and response.status_code < 400
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d %.0f ms",
            request.method,
            route,
            response.status_code,
            seconds * 1000,
        )
        if "request_id" in g:
            response.headers[REQUEST_ID_HEADER] = g.request_id
        return response
