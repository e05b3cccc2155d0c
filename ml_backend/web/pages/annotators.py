"""The page of a project's annotators: who did what, and how much was done on which day."""

from __future__ import annotations

from flask import Blueprint, render_template

from ml_backend.corrections.annotators import MOST_COMPARED, annotator_reports, throughput
from ml_backend.service import Service
from ml_backend.web.pages.clock import reader_zone
from ml_backend.web.pages.projects import known_project

_DAYS = 60  # rows


def add_annotators(blueprint: Blueprint, service: Service) -> None:
    """Add the route of a project's annotators.

    Args:
        blueprint: The pages.
        service: What is shown.
    """

    @blueprint.get("/pages/projects/<int:number>/annotators")
    def annotators(number: int) -> str:
        known = known_project(service, number)
        days = throughput(service.database, number, reader_zone())
        return render_template(
            "annotators.html",
            project=known,
            people=annotator_reports(service.database, number),
            days=days[:_DAYS],
            older=days[_DAYS:],
            most=max((day.annotations for day in days[:_DAYS]), default=1),
            most_compared=MOST_COMPARED,
        )
