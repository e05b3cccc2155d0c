"""The page of a project's prompt versions, and what may be done with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from ml_backend.refinement.version_store import PRESET, Promotion, VersionError
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.curves import curve_of
from ml_backend.web.pages.projects import known_project

log = logging.getLogger(__name__)

_BY = "a person, on the page"


def add_versions(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a project's prompt versions.

    Args:
        blueprint: The pages.
        service: What is shown and steered.
    """
    line = service.line

    @blueprint.get("/pages/projects/<int:number>/versions")
    def versions(number: int) -> str:
        known = known_project(service, number)
        newest_first = reversed(line.versions.versions(number))
        promotions = line.versions.promotions(number)
        return render_template(
            "versions.html",
            project=known,
            versions=[
                (version, curve_of(version.curve), version.model == line.model, line.inspect(version))
                for version in newest_first
            ],
            champion=line.versions.champion(number),
            can_roll_back=line.versions.can_roll_back(number),
            refinement=service.refinement(str(number)),
            watched=service.watcher.standing(number),
            promotions=promotions,
            hands=promoted_by_people(promotions),
            preset=PRESET,
        )

    @blueprint.post("/pages/projects/<int:number>/promote")
    def promote(number: int) -> Response:
        known_project(service, number)
        name = request.form.get("name", "")
        _promote(service, number, name)
        log.info("project %d: %s was promoted by %s", number, name, _BY)
        return redirect(url_for(".versions", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/rollback")
    def roll_back(number: int) -> Response:
        known_project(service, number)
        try:
            name = line.roll_back(number)
        except VersionError as error:
            raise RequestError(409, str(error), "Load the versions again: they changed meanwhile.") from error
        log.info("project %d: rolled back to %s by %s", number, name, _BY)
        return redirect(url_for(".versions", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/refine")
    def refine(number: int) -> Response:
        service.refine(str(number))
        return redirect(url_for(".versions", number=number), 303)


def promoted_by_people(promotions: Sequence[Promotion]) -> dict[str, Promotion]:
    """The newest promotion of each version that a person made, by the version's name.

    Args:
        promotions: Newest first.
    """
    return {
        one.version: one
        for one in reversed(promotions)
        if one.version is not None and not one.made_by.startswith("refinement ")
    }


def _promote(service: Service, number: int, name: str) -> None:
    """Make a version the champion.

    Raises:
        RequestError: There is no such version, it is the champion already, or it cannot be used.
    """
    try:
        service.line.promote(number, name, by=_BY)
    except VersionError as error:
        raise RequestError(409, str(error), "Load the versions again and choose another one.") from error
