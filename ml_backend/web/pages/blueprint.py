"""All pages as one Flask blueprint: what they have in common, and the routes of each subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, render_template, request

from ml_backend.jobs.listing import name_of_refinement
from ml_backend.refinement.points import points, signed_points
from ml_backend.service import Service
from ml_backend.web.errors import describe, log_error
from ml_backend.web.pages import clock
from ml_backend.web.pages.annotators import add_annotators
from ml_backend.web.pages.checks import add_checks
from ml_backend.web.pages.clock import zone_name
from ml_backend.web.pages.corrections import add_corrections, media_thumbnails
from ml_backend.web.pages.csrf import FIELD, form_token, require_own_form
from ml_backend.web.pages.fleet import add_fleet
from ml_backend.web.pages.next_tasks import add_next_tasks
from ml_backend.web.pages.overview import add_overview
from ml_backend.web.pages.paging import asked_for, page_arguments
from ml_backend.web.pages.preview import add_preview
from ml_backend.web.pages.projects import add_projects
from ml_backend.web.pages.proposals import add_proposals
from ml_backend.web.pages.versions import add_versions
from ml_backend.web.pages.words import add_words

_HEADERS = {
    # Nothing from elsewhere is loaded, and nobody else may show a page in a frame or take a form's place.
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}


def create_pages(service: Service) -> Blueprint:
    """The pages of a service. Its app asks for credentials before any of them answers.

    Args:
        service: What is shown and steered.
    """
    blueprint = Blueprint("pages", __name__)
    _add_common(blueprint)
    _add_problems(blueprint)
    thumbnails = media_thumbnails(service)
    add_overview(blueprint, service)
    add_fleet(blueprint, service)
    add_projects(blueprint, service)
    add_corrections(blueprint, service, thumbnails)
    add_checks(blueprint, service, thumbnails)
    add_annotators(blueprint, service)
    add_preview(blueprint, service)
    add_versions(blueprint, service)
    add_words(blueprint, service)
    add_next_tasks(blueprint, service)
    add_proposals(blueprint, service)
    return blueprint


def _add_common(blueprint: Blueprint) -> None:
    @blueprint.context_processor
    def everywhere() -> dict[str, Any]:
        return {
            "csrf_field": FIELD,
            "csrf_token": form_token,
            "name_of_refinement": name_of_refinement,
            "zone_name": zone_name,
            "page_arguments": page_arguments,
            "asked_for": asked_for,
        }

    filters: dict[str, Callable[..., str]] = {
        "minute": clock.minute,
        "second": clock.second,
        "full_time": clock.full,
        "span": clock.span,
        "points": points,
        "signed_points": signed_points,
    }
    for name, shown in filters.items():
        blueprint.add_app_template_filter(shown, name)

    @blueprint.before_request
    def only_own_forms() -> None:
        if request.method == "POST":
            require_own_form(request)

    @blueprint.after_request
    def protect(response: Response) -> Response:
        response.headers.update(_HEADERS)
        if response.mimetype == "text/html":
            response.headers["Cache-Control"] = "no-store"
        return response


def _add_problems(blueprint: Blueprint) -> None:
    @blueprint.errorhandler(Exception)
    def explain(error: Exception) -> tuple[str, int]:
        log_error(error)
        problem = describe(error)
        return render_template("problem.html", **asdict(problem)), problem.status
