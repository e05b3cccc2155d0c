"""The JSON routes, which Label Studio, the command line and monitors call; each calls one method of the service."""

from __future__ import annotations

import threading

from flask import Blueprint, Response, jsonify, request

from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.door import read_body, require_json_type


def create_api(service: Service) -> Blueprint:
    """The JSON routes of a service.

    Args:
        service: What answers.
    """
    blueprint = Blueprint("api", __name__)

    @blueprint.before_request
    def only_json() -> None:
        if request.content_type is not None:
            require_json_type()

    _add_label_studio_routes(blueprint, service)
    _add_project_routes(blueprint, service)
    _add_server_routes(blueprint, service)
    return blueprint


def _add_label_studio_routes(blueprint: Blueprint, service: Service) -> None:
    # Predictions may wait for a model; the other threads keep answering /health, /setup and /webhook.
    waiting = threading.BoundedSemaphore(max(1, service.settings.threads // 2))

    @blueprint.post("/setup")
    def setup() -> Response:
        return jsonify({"model_version": service.setup(read_body())})

    @blueprint.post("/predict")
    def predict() -> Response:
        if not waiting.acquire(blocking=False):
            raise RequestError(
                503,
                "too many predictions are being waited for",
                "Try again in a while, or raise STEERSEG_THREADS.",
            )
        try:
            return jsonify(service.predict(read_body()).to_json())
        finally:
            waiting.release()

    @blueprint.post("/webhook")
    def webhook() -> tuple[Response, int]:
        return jsonify({"event": service.webhook(read_body())}), 201

    @blueprint.get("/versions")
    def versions() -> Response:
        return jsonify(service.versions(request.args.get("project")).to_json())


def _add_project_routes(blueprint: Blueprint, service: Service) -> None:
    @blueprint.get("/projects/<project>/corrections")
    def corrections(project: str) -> Response:
        return jsonify(service.project_corrections(project).model_dump(mode="json"))

    @blueprint.post("/projects/<project>/refine")
    def refine(project: str) -> tuple[Response, int]:
        requested = service.refine(project)
        return jsonify({"requested": requested.id, **service.refinement(project).to_json()}), 202

    @blueprint.get("/projects/<project>/refinement")
    def refinement(project: str) -> Response:
        return jsonify(service.refinement(project).to_json())


def _add_server_routes(blueprint: Blueprint, service: Service) -> None:
    @blueprint.get("/health")
    def health() -> Response:
        return jsonify(service.health().to_json())

    @blueprint.get("/fleet")
    def fleet() -> Response:
        return jsonify(service.fleet_report().to_json())

    @blueprint.get("/jobs")
    def jobs() -> Response:
        return jsonify(service.jobs().to_json())

    @blueprint.post("/jobs/<job>/cancel")
    def cancel(job: str) -> tuple[Response, int]:
        service.cancel(job)
        return jsonify({"job": job}), 202

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")
