"""The page about workers: nodes, devices, what runs where, and throughput."""

from __future__ import annotations

from flask import Blueprint, render_template

from ml_backend.service import Service


def add_fleet(blueprint: Blueprint, service: Service) -> None:
    """Add the route.

    Args:
        blueprint: The pages.
        service: What is shown.
    """

    @blueprint.get("/pages/workers")
    def workers() -> str:
        return render_template("workers.html", report=service.fleet_report())
