"""The web server: thin Flask routes over :class:`ml_backend.service.Service`."""

from __future__ import annotations

import logging
import secrets
import threading
import time

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from ml_backend.database.errors import StoreError
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.access import SECRET_HEADER, basic_auth_right, read_body, webhook_allowed
from ml_backend.web.pages.blueprint import create_pages
from ml_backend.web.pages.csrf import from_elsewhere
from steerseg.errors import Cancelled, ConfigError, SteerSegError

log = logging.getLogger(__name__)

# Requests that Label Studio, monitors and open pages repeat all the time are logged only when one debugs.
_QUIET_ROUTES = frozenset(
    {"/health", "/setup", "/metrics", "/versions", "/jobs", "/", "/pages/jobs", "/static/<path:filename>"}
)


def create_app(service: Service) -> Flask:
    """Build the WSGI application.

    Args:
        service: What answers. The caller closes it.
    """
    app = Flask(__name__)
    settings = service.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Sessions hold nothing but the secret of their forms, which may change with every start.
    app.secret_key = secrets.token_bytes(32)
    app.config.update(SESSION_COOKIE_NAME="steerseg", SESSION_COOKIE_SAMESITE="Strict")
    # Predictions may wait for a model; the other threads keep answering /health, /setup and /webhook.
    waiting = threading.BoundedSemaphore(max(1, settings.threads // 2))

    @app.before_request
    def start_clock() -> None:
        g.started = time.monotonic()

    @app.before_request
    def check_access() -> Response | None:
        if request.path == "/webhook":
            allowed = webhook_allowed(service)
        else:
            allowed = settings.basic_auth_username is None or basic_auth_right(service)
        if allowed:
            return None
        response = _error(
            401,
            "this backend asks for credentials, and the request brought none or wrong ones",
            "Enter user name and password at Label Studio's model connection; for webhooks set the header "
            f"{SECRET_HEADER} (`steerseg-backend connect` does both).",
        )
        response.headers["WWW-Authenticate"] = 'Basic realm="SteerSeg"'
        return response

    @app.before_request
    def check_origin() -> Response | None:
        if not from_elsewhere(request):
            return None
        return _error(403, "another site's page sent this request", "Send it from the backend's own pages.")

    @app.after_request
    def count(response: Response) -> Response:
        route = "unknown" if request.url_rule is None else request.url_rule.rule
        seconds = time.monotonic() - g.get("started", time.monotonic())
        service.metrics.requests.labels(route, str(response.status_code)).inc()
        service.metrics.request_seconds.labels(route).observe(seconds)
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

    @app.get("/health")
    def health() -> Response:
        return jsonify(service.health())

    @app.post("/setup")
    def setup() -> Response:
        return jsonify(service.setup(read_body()))

    @app.post("/predict")
    def predict() -> Response:
        if not waiting.acquire(blocking=False):
            raise RequestError(
                503,
                "too many predictions are being waited for",
                "Try again in a while, or raise STEERSEG_THREADS.",
            )
        try:
            return jsonify(service.predict(read_body()))
        finally:
            waiting.release()

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        return jsonify({"event": service.webhook(read_body())}), 201

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(service.versions(request.args.get("project")))

    @app.get("/projects/<project>/corrections")
    def corrections(project: str) -> Response:
        return jsonify(service.project_corrections(project))

    @app.post("/projects/<project>/refine")
    def refine(project: str) -> tuple[Response, int]:
        return jsonify(service.refine(project)), 202

    @app.get("/jobs")
    def jobs() -> Response:
        return jsonify(service.jobs())

    @app.post("/jobs/<job>/cancel")
    def cancel(job: str) -> tuple[Response, int]:
        service.cancel(job)
        return jsonify({"job": job}), 202

    @app.get("/projects/<project>/refinement")
    def refinement(project: str) -> Response:
        return jsonify(service.refinement(project))

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    app.register_blueprint(create_pages(service))

    @app.errorhandler(SteerSegError)
    def explain(error: SteerSegError) -> Response:
        if isinstance(error, RequestError):
            return _error(error.status, str(error), error.hint)
        if isinstance(error, ConfigError):
            return _error(422, str(error), "Change it in Label Studio under Settings › Labeling Interface.")
        if isinstance(error, StoreError | Cancelled):
            log.error("%s %s: %s", request.method, request.path, error)
            return _error(503, str(error), "Try again in a while; the server's log has the details.")
        return _error(422, str(error), "")

    @app.errorhandler(HTTPException)
    def explain_http(error: HTTPException) -> Response:
        return _error(
            error.code or 500, error.description or error.name, _HTTP_HINTS.get(error.code or 0, "")
        )

    @app.errorhandler(Exception)
    def explain_unexpected(error: Exception) -> Response:
        log.error("%s %s: unexpected error", request.method, request.path, exc_info=error)
        return _error(
            500,
            f"unexpected {type(error).__name__}",
            "This is a fault of the backend; its log has the details.",
        )

    return app


_HTTP_HINTS = {
    404: "Known are /health, /setup, /predict, /webhook, /versions, /metrics, /jobs, /jobs/<name>/cancel, the "
    "pages that / leads to, and below /projects/<number> /corrections, /refine and /refinement.",
    405: "GET for /, /health, /versions, /metrics, /jobs, and /corrections and /refinement below "
    "/projects/<number>; POST for /setup, /predict, /webhook, /jobs/<name>/cancel and /projects/<number>/refine.",
    413: "Send fewer tasks at a time, or raise STEERSEG_MAX_REQUEST_MIB.",
}


def _error(status: int, message: str, hint: str) -> Response:
    response = jsonify({"error": message, "hint": hint})
    # Of a failed /setup, Label Studio shows only the status line to a person: let that say what is wrong.
    first_line = message.strip().partition("\n")[0]
    reason = " ".join(first_line.encode("ascii", "replace").decode("ascii").split())
    response.status = f"{status} {reason[:200]}"
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response
