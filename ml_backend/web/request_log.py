"""Requests counted, timed and logged."""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, request

from ml_backend.metrics import Metrics

log = logging.getLogger(__name__)

# Requests that Label Studio, monitors and open pages repeat all the time are logged only when one debugs.
_QUIET_ROUTES = frozenset(
    {"/health", "/setup", "/metrics", "/versions", "/jobs", "/", "/pages/jobs", "/static/<path:filename>"}
)


def log_requests(app: Flask, metrics: Metrics) -> None:
    """Count, time and log the requests of an app; to be called before anything else answers them.

    Args:
        app: The app.
        metrics: Counts them by route and status.
    """

    @app.before_request
    def start_clock() -> None:
        g.started = time.monotonic()

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
        return response
