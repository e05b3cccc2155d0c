"""The page of what to label next in a project, and whether the order is written into Label Studio."""

from __future__ import annotations

import logging

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from ml_backend.database.tables import OrderMode
from ml_backend.label_studio.task import ORDER_KEY
from ml_backend.service import Service
from ml_backend.web.pages.projects import known_project

log = logging.getLogger(__name__)


def add_next_tasks(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a project's labelling order.

    Args:
        blueprint: The pages.
        service: What is shown and steered.
    """

    @blueprint.get("/pages/projects/<int:number>/next")
    def next_tasks(number: int) -> str:
        known = known_project(service, number)
        return render_template(
            "next_tasks.html",
            project=known,
            order=service.next_tasks.order(number),
            mode=known.labelling_order,
            modes=OrderMode,
            problem=service.order_writer.problem(number),
            key=ORDER_KEY,
        )

    @blueprint.post("/pages/projects/<int:number>/next")
    def switch_order(number: int) -> Response:
        known_project(service, number)
        on = request.form.get("write") == "on"
        service.order_writer.switch(number, on=on)
        log.info(
            "project %d: the labelling order is %s by a person, on the page", number, "on" if on else "off"
        )
        return redirect(url_for(".next_tasks", number=number), 303)
