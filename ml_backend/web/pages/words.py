"""The page of a project's words: what they mean to the models, learned from corrections or edited here."""

from __future__ import annotations

import logging

from flask import Blueprint, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.projects import known_project
from steerseg.words.glossary import MAX_WORDS, Entry, Glossary

log = logging.getLogger(__name__)

_BY = "a person, on the page"


def add_words(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a project's words.

    Args:
        blueprint: The pages.
        service: What is shown and edited.
    """
    line = service.line

    @blueprint.get("/pages/projects/<int:number>/words")
    def words(number: int) -> str:
        known = known_project(service, number)
        champion = line.champion(number)
        return render_template(
            "words.html",
            project=known,
            version=champion,
            entries=line.glossary(champion).entries,
            most=MAX_WORDS,
        )

    @blueprint.post("/pages/projects/<int:number>/words")
    def edit_words(number: int) -> Response:
        known_project(service, number)
        known = line.glossary(line.champion(number))
        try:
            entry = Entry(
                term=request.form.get("term", ""), meaning=request.form.get("meaning", ""), origin="edited"
            )
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RequestError(
                400, f"the entry cannot be kept: {said}", "Write a word and what it means."
            ) from error
        _keep(service, number, known.with_entry(entry), f"“{entry.term}” means “{entry.meaning}”")
        return redirect(url_for(".words", number=number), 303)

    @blueprint.post("/pages/projects/<int:number>/words/remove")
    def remove_word(number: int) -> Response:
        known_project(service, number)
        known = line.glossary(line.champion(number))
        term = request.form.get("term", "")
        _keep(service, number, known.without(term), f"“{term}” is read as it is")
        return redirect(url_for(".words", number=number), 303)


def _keep(service: Service, number: int, edited: Glossary, what: str) -> None:
    """Use an edited glossary from now on, unless it is the one in use."""
    version = service.line.edit_glossary(number, edited, by=_BY)
    if version is not None:
        log.info("project %d: %s by %s: %s", number, version.name, _BY, what)
