"""The pages about the whole server: start page, jobs and settings."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, url_for
from pydantic import SecretStr
from werkzeug.wrappers import Response

from ml_backend.jobs.listing import count_jobs, list_jobs
from ml_backend.service import Service
from ml_backend.settings import ENV_PREFIX, Settings
from ml_backend.web.pages.queries import newest_proposals
from steerseg.video.download import redact_url

_JOBS = 100  # rows of the list of jobs


def add_overview(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of start page, jobs and settings.

    Args:
        blueprint: The pages.
        service: What is shown and steered.
    """
    database = service.database

    @blueprint.get("/")
    def overview() -> str:
        return render_template("overview.html", overview=service.overview())

    @blueprint.get("/pages/jobs")
    def jobs() -> str:
        listed = list_jobs(database, _JOBS)
        tasks = {
            (job.project_id, job.task_id)
            for job in listed
            if job.project_id is not None and job.task_id is not None
        }
        return render_template(
            "jobs.html",
            jobs=listed,
            counts=count_jobs(database),
            workers=service.health().workers,
            proposals=newest_proposals(database, tasks),
        )

    @blueprint.post("/pages/jobs/<name>/cancel")
    def cancel(name: str) -> Response:
        service.cancel(name)
        return redirect(url_for(".jobs"), 303)

    @blueprint.get("/pages/settings")
    def settings() -> str:
        return render_template("settings.html", settings=list_settings(service.settings))


@dataclass(frozen=True)
class ListedSetting:
    """A setting as a page shows it.

    Attributes:
        variable: The environment variable that gives it.
        value: Its value as text; of a secret, only whether it is set.
        meaning: What it does.
        changed: Whether it differs from the default.
    """

    variable: str
    value: str
    meaning: str
    changed: bool


def list_settings(settings: Settings) -> list[ListedSetting]:
    """All settings in force, in their order."""
    return [
        ListedSetting(
            variable=ENV_PREFIX + name.upper(),
            value=_describe_value(name, getattr(settings, name)),
            meaning=field.description or "",
            changed=getattr(settings, name) != field.default,
        )
        for name, field in Settings.model_fields.items()
    ]


def _describe_value(name: str, value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return "set; not shown"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return redact_url(str(value)) if name.endswith("_url") else str(value)
