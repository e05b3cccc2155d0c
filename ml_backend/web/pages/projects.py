"""The pages of one project: its proposals and its corrections."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response

from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.records import Correction
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.database.set_aside import SetAsideStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.paging import ROWS, Pager, requested_offset
from ml_backend.web.pages.queries import count_proposals, list_proposals
from steerseg.errors import ConfigError


def add_projects(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a project's proposals and corrections.

    Args:
        blueprint: The pages.
        service: What is shown.
    """
    database = service.database

    @blueprint.get("/pages/projects/<int:number>")
    def project(number: int) -> str:
        known = known_project(service, number)
        offset = requested_offset()
        return render_template(
            "project.html",
            project=known,
            notes=configuration_notes(known.label_config),
            counts=service.corrections.counts(number),
            refinement=service.refinement(str(number)),
            watched=service.watcher.standing(number),
            promotions=service.line.versions.promotions(number),
            version=service.versions(str(number)).current,
            proposals=list_proposals(database, number, limit=ROWS, offset=offset),
            pager=Pager.at(offset, count_proposals(database, number)),
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

    @blueprint.get("/pages/projects/<int:number>/corrections")
    def corrections(number: int) -> str:
        known = known_project(service, number)
        offset = requested_offset()
        counts = service.corrections.counts(number)
        newest = service.corrections.newest(number, limit=ROWS, offset=offset)
        return render_template(
            "corrections.html",
            project=known,
            counts=counts,
            corrections=[ListedCorrection.of(correction) for correction in newest],
            set_aside=service.corrections.list_set_aside(number),
            pending=CompletionStore(service.database).pending(number)[:ROWS],
            pager=Pager.at(offset, counts.usable),
        )


@dataclass(frozen=True)
class ListedCorrection:
    """What a list shows of a correction, which has no use for its masks.

    Attributes:
        correction: The correction.
        standing: ``corrected``, ``accepted`` or ``rejected``.
        iou: Mean overlap in [0, 1] with what was proposed, over the decided frames; ``None`` without a proposal.
        changed: How many frames the annotator changed.
        propagated: How many frames SAM 2 filled.
    """

    correction: Correction
    standing: str
    iou: float | None
    changed: int
    propagated: int

    @classmethod
    def of(cls, correction: Correction) -> ListedCorrection:
        """What the list shows of this correction."""
        if correction.rejected:
            standing = "rejected"
        else:
            standing = "corrected" if correction.touched else "accepted"
        return cls(
            correction=correction,
            standing=standing,
            iou=correction.iou,
            changed=sum(frame.touched for frame in correction.frames.values()),
            propagated=len(correction.propagated),
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
