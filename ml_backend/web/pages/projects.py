"""The page of one project: its proposals, and what waits or could not be read."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from ml_backend.database.projects import Project, ProjectStore
from ml_backend.database.set_aside import SetAsideStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.predictions.messages import Guidance
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.paging import ROWS, Pager, requested_choice, requested_offset, requested_text
from ml_backend.web.pages.queries import LEAST_SURE, Finds, ProposalFilter, count_proposals, list_proposals
from steerseg.errors import ConfigError


def add_projects(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a project's proposals.

    Args:
        blueprint: The pages.
        service: What is shown.
    """
    database = service.database

    @blueprint.get("/pages/projects/<int:number>")
    def project(number: int) -> str:
        known = known_project(service, number)
        offset, chosen = requested_offset(), requested_proposals(service.guidance)
        return render_template(
            "project.html",
            project=known,
            chosen=chosen,
            finds=Finds,
            least_sure=LEAST_SURE,
            notes=configuration_notes(known.label_config),
            counts=service.corrections.counts(number),
            refinement=service.refinement(str(number)),
            watched=service.watcher.standing(number),
            promotions=service.line.versions.promotions(number),
            version=service.versions(str(number)).current,
            proposals=list_proposals(database, number, limit=ROWS, offset=offset, chosen=chosen),
            pager=Pager.at(offset, count_proposals(database, number, chosen)),
            versions=[
                (name, name.partition("+")[2] or "preset")
                for name in reversed(service.versions(str(number)).names)
            ],
            waiting=service.deliverer.list_waiting(number)[:ROWS],
            unread=SetAsideStore(database).listed(number),
        )

    @blueprint.post("/pages/projects/<int:number>/deliver")
    def deliver(number: int) -> Response:
        known_project(service, number)
        service.deliverer.try_again(number, refused=True)
        return redirect(url_for(".project", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/take-again")
    def take_again(number: int) -> Response:
        known_project(service, number)
        service.ingestor.take_again(number)
        return redirect(url_for(".project", number=number), 303)


def requested_proposals(guidance: Guidance) -> ProposalFilter:
    """Which proposals the requested page shows.

    Args:
        guidance: From which score on a proposal is sure.
    """
    return ProposalFilter(
        text=requested_text("q"),
        version=requested_text("version"),
        found=requested_choice("found", Finds),
        newest=request.args.get("newest") == "on",
        guidance=guidance,
    )


def configuration_notes(label_config: str) -> tuple[str, ...]:
    """What in a labelling configuration is ambiguous, or cannot be used, for a person."""
    try:
        return parse_controls(label_config).notes
    except ConfigError as error:
        return (str(error),)


def known_project(service: Service, number: int) -> Project:
    """A project that Label Studio has introduced.

    Raises:
        RequestError: It is unknown.
    """
    project = ProjectStore(service.database).find(number)
    if project is None:
        raise RequestError(
            404, f"project {number} is unknown here", "The start page lists the projects that are known."
        )
    return project
