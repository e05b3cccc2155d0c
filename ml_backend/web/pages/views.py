"""The pages as Flask routes: thin over :class:`ml_backend.service.Service` and what it keeps."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, TypeVar

from flask import Blueprint, Response, redirect, render_template, request, send_file, url_for
from pydantic import SecretStr
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from ml_backend.corrections.records import Correction
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.jobs.listing import count_jobs, list_jobs, name_of_refinement
from ml_backend.predictions.messages import describe_proposal
from ml_backend.proposals import ProposalFiles
from ml_backend.refinement.version_store import PRESET, VersionError
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.settings import ENV_PREFIX, Settings
from ml_backend.web.pages.csrf import FIELD, form_token, require_own_form
from ml_backend.web.pages.curves import curve_of, presence_of
from ml_backend.web.pages.pictures import ProposalPictures, Shown, View, views
from ml_backend.web.pages.queries import (
    ListedProposal,
    count_proposals,
    find_proposal,
    list_proposals,
    newest_proposals,
)
from steerseg.errors import SteerSegError
from steerseg.video.download import redact_url

log = logging.getLogger(__name__)

_ROWS = 50  # of a list on a page
_JOBS = 100
_BY = "a person, on the page"

_HEADERS = {
    # Nothing from elsewhere is loaded, and nobody else may show a page in a frame or take a form's place.
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

_VIEW_TITLES = {
    View.FRAME_MAP: ("Frame map", "attention in each frame alone"),
    View.VIDEO_MAP: ("Video map", "attention over the whole clip"),
    View.POINTS: ("Points", "clicks for SAM 2; large: began the winner"),
    View.MASKS: ("Masks", "the winner tinted, others outlined"),
}


def pages(service: Service) -> Blueprint:
    """The pages of a service. Its app asks for credentials before any of them answers.

    Args:
        service: What is shown and steered.
    """
    blueprint = Blueprint("pages", __name__)
    store = service.database
    files = ProposalFiles(service.settings.data_dir)
    pictures = ProposalPictures(service.settings.data_dir)

    @blueprint.context_processor
    def everywhere() -> dict[str, Any]:
        return {"csrf_field": FIELD, "csrf_token": form_token, "name_of_refinement": name_of_refinement}

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

    @blueprint.errorhandler(SteerSegError)
    def explain(error: SteerSegError) -> tuple[str, int]:
        if isinstance(error, RequestError):
            return _problem(error.status, str(error), error.hint)
        if isinstance(error, StoreError):
            log.error("%s %s: %s", request.method, request.path, error)
            return _problem(503, str(error), "Try again in a while; the server's log has the details.")
        return _problem(422, str(error), "")

    @blueprint.errorhandler(HTTPException)
    def explain_http(error: HTTPException) -> tuple[str, int]:
        return _problem(error.code or 500, error.description or error.name, "")

    # --- what goes on

    @blueprint.get("/")
    def overview() -> str:
        return render_template("overview.html", **service.overview())

    @blueprint.get("/pages/jobs")
    def jobs() -> str:
        listed = list_jobs(store, _JOBS)
        tasks = {
            (j.project_id, j.task_id) for j in listed if j.project_id is not None and j.task_id is not None
        }
        return render_template(
            "jobs.html",
            jobs=listed,
            counts=count_jobs(store),
            workers=service.health()["workers"],
            proposals=newest_proposals(store, tasks),
        )

    @blueprint.post("/pages/jobs/<name>/cancel")
    def cancel(name: str) -> AnyResponse:
        service.cancel(name)
        return redirect(url_for(".jobs"), 303)

    @blueprint.get("/pages/settings")
    def settings() -> str:
        return render_template("settings.html", settings=_told(service.settings))

    # --- a project

    @blueprint.get("/pages/projects/<int:number>")
    def project(number: int) -> str:
        known = _project(service, number)
        place = _place()
        return render_template(
            "project.html",
            project=known,
            counts=service.corrections.counts(number),
            refinement=service.refinement(str(number)),
            version=service.versions(str(number))["current"],
            proposals=list_proposals(store, number, limit=_ROWS, offset=place),
            pager=_pager(place, count_proposals(store, number)),
        )

    @blueprint.get("/pages/projects/<int:number>/corrections")
    def corrections(number: int) -> str:
        known = _project(service, number)
        place = _place()
        counts = service.corrections.counts(number)
        return render_template(
            "corrections.html",
            project=known,
            counts=counts,
            corrections=[_row(one) for one in service.corrections.newest(number, limit=_ROWS, offset=place)],
            set_aside=service.corrections.list_set_aside(number),
            pending=service.corrections.pending(number)[:_ROWS],
            pager=_pager(place, counts.usable),
        )

    @blueprint.get("/pages/projects/<int:number>/versions")
    def versions(number: int) -> str:
        known = _project(service, number)
        found = service.line.versions.versions(number)
        champion = service.line.versions.champion(number)
        return render_template(
            "versions.html",
            project=known,
            versions=[(one, curve_of(one.curve), one.model == service.line.model) for one in reversed(found)],
            champion=champion,
            can_roll_back=service.line.versions.can_roll_back(number),
            refinement=service.refinement(str(number)),
            preset=PRESET,
        )

    @blueprint.post("/pages/projects/<int:number>/promote")
    def promote(number: int) -> AnyResponse:
        _project(service, number)
        name = request.form.get("name", "")
        _promote(service, number, name)
        log.info("project %d: %s was promoted by %s", number, name, _BY)
        return redirect(url_for(".versions", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/rollback")
    def roll_back(number: int) -> AnyResponse:
        _project(service, number)
        try:
            name = service.line.versions.roll_back(number)
        except VersionError as error:
            raise RequestError(409, str(error), "Load the versions again: they changed meanwhile.") from error
        log.info("project %d: rolled back to %s by %s", number, name, _BY)
        return redirect(url_for(".versions", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/refine")
    def refine(number: int) -> AnyResponse:
        service.refine(str(number))
        return redirect(url_for(".versions", number=number), 303)

    # --- a proposal

    def shown(number: int) -> tuple[ListedProposal, Shown]:
        listed = find_proposal(store, number)
        if listed is None:
            raise RequestError(
                404, f"there is no proposal {number}", "The project's page lists what there is."
            )
        proposal = files.load(listed.path)
        media = partial(service.task_media, listed.project_id, listed.task_id, listed.key.media_digest)
        return listed, Shown(listed.path, proposal, media)

    @blueprint.get("/pages/proposals/<int:number>")
    def proposal(number: int) -> str:
        listed, found = shown(number)
        stored = found.proposal
        return render_template(
            "proposal.html",
            listed=listed,
            project=_project(service, listed.project_id),
            proposal=stored,
            told=describe_proposal(stored, guidance=service.guidance),
            tracklets=[(tracklet, presence_of(tracklet)) for tracklet in stored.tracklets],
            keyframes=[
                (place, frame, stored.pts[frame]) for place, frame in enumerate(stored.maps.keyframes)
            ],
            views=[(view, *_VIEW_TITLES[view]) for view in views(stored)],
        )

    @blueprint.get("/pages/proposals/<int:number>/<int:place>/<view>.jpg")
    def keyframe(number: int, place: int, view: str) -> Response:
        _, found = shown(number)
        try:
            content = pictures.keyframe(found, place, View(view))
        except (IndexError, ValueError) as error:
            raise RequestError(404, f"the proposal has no picture {place} of {view}", "") from error
        return _unchanging(Response(content, mimetype="image/jpeg"))

    @blueprint.get("/pages/proposals/<int:number>/overlay.mp4")
    def overlay(number: int) -> Response:
        _, found = shown(number)
        path = pictures.overlay(found).absolute()
        return _unchanging(send_file(path, mimetype="video/mp4", conditional=True))

    return blueprint


_Answer = TypeVar("_Answer", bound=Response)


def _unchanging(response: _Answer) -> _Answer:
    """Let the browser keep what is drawn of a stored proposal, and nobody in between."""
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _problem(status: int, message: str, hint: str) -> tuple[str, int]:
    return render_template("problem.html", status=status, message=message, hint=hint), status


def _project(service: Service, number: int) -> Project:
    known = ProjectStore(service.database).find(number)
    if known is None:
        raise RequestError(
            404, f"project {number} is unknown here", "The start page lists those that are known."
        )
    return known


def _promote(service: Service, number: int, name: str) -> None:
    """Make a version the champion.

    Raises:
        RequestError: There is no such version, it is the champion already, or of another model.
    """
    line = service.line
    try:
        if name != PRESET and line.versions.version(number, name).model != line.model:
            raise VersionError(
                f"{name} was made for another vision-language model than the one in use, where it means nothing"
            )
        line.versions.promote(number, name, by=_BY)
    except VersionError as error:
        raise RequestError(409, str(error), "Load the versions again and choose another one.") from error


def _place() -> int:
    """Where in a list the asked page begins."""
    given = request.args.get("from", "0")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0


def _pager(place: int, total: int) -> dict[str, int | None]:
    return {
        "first": place + 1,
        "last": min(place + _ROWS, total),
        "total": total,
        "newer": max(0, place - _ROWS) if place else None,
        "older": place + _ROWS if place + _ROWS < total else None,
    }


def _row(correction: Correction) -> dict[str, Any]:
    """What a list says of a correction; its masks are no matter there."""
    if correction.rejected:
        standing = "rejected"
    else:
        standing = "corrected" if correction.touched else "accepted"
    return {
        "correction": correction,
        "standing": standing,
        "iou": correction.iou,
        "changed": sum(frame.touched for frame in correction.frames.values()),
        "propagated": len(correction.propagated),
    }


def _told(settings: Settings) -> list[tuple[str, str, str, bool]]:
    """Variable, value, meaning, and whether it is another than the default; of secrets, only that they are set."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value is None:
            told = "unset"
        elif isinstance(value, SecretStr):
            told = "set; not shown"
        elif isinstance(value, bool):
            told = str(value).lower()
        elif isinstance(value, float):
            told = f"{value:g}"
        elif isinstance(value, tuple):
            told = ", ".join(map(str, value)) or "none"
        elif name.endswith("_url"):
            told = redact_url(str(value))
        else:
            told = str(value)
        rows.append((ENV_PREFIX + name.upper(), told, field.description or "", value != field.default))
    return rows
