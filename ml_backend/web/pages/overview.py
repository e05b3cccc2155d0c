"""The pages about the whole server: start page, jobs and settings."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, url_for
from pydantic import SecretStr
from werkzeug.wrappers import Response

from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import JobState
from ml_backend.jobs.listing import JobFilter, JobKind, count_jobs, list_jobs
from ml_backend.service import Service
from ml_backend.settings import ENV_PREFIX, Settings
from ml_backend.web.pages.paging import requested_choice, requested_number, requested_text
from ml_backend.web.pages.queries import newest_proposals, promoted_by_hand
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
        overview, text = service.overview(), requested_text("q")
        titles = {one.project.id: one.project.name for one in overview.projects}
        return render_template(
            "overview.html",
            overview=overview,
            text=text,
            projects=[
                one
                for one in overview.projects
                if text.casefold() in one.project.name.casefold() or text == str(one.project.id)
            ],
            titles=titles,
            promoted=promoted_by_hand(database, {one.id for one in overview.refinements}),
        )

    @blueprint.get("/pages/jobs")
    def jobs() -> str:
        state, kind = requested_choice("state", JobState), requested_choice("kind", JobKind)
        project = requested_number("project")
        listed = list_jobs(database, _JOBS, JobFilter(state, kind, project))
        tasks = {
            (job.project_id, job.task_id)
            for job in listed
            if job.project_id is not None and job.task_id is not None
        }
        return render_template(
            "jobs.html",
            jobs=listed,
            counts=count_jobs(database),
            most=_JOBS,
            state=state,
            kind=kind,
            project=project,
            states=JobState,
            kinds=JobKind,
            titles={one.id: one.name for one in ProjectStore(database).all()},
            workers=service.health().workers,
            proposals=newest_proposals(database, tasks),
        )

    @blueprint.post("/pages/jobs/<name>/cancel")
    def cancel(name: str) -> Response:
        service.cancel(name)
        return redirect(url_for(".jobs"), 303)

    @blueprint.get("/pages/settings")
    def settings() -> str:
        return render_template("settings.html", groups=group_settings(service.settings))


@dataclass(frozen=True)
class ListedSetting:
    """A setting as a page shows it.

    Attributes:
        variable: The environment variable that gives it.
        value: Its value as text; of a secret, only whether it is set.
        meaning: What it does.
        changed: Whether it differs from the default.
        default: Its default as text.
    """

    variable: str
    value: str
    meaning: str
    changed: bool
    default: str


@dataclass(frozen=True)
class SettingsGroup:
    """Settings of one subject.

    Attributes:
        title: The subject.
        settings: The settings, in their order.
        changed: Whether they stand here because they differ from their defaults.
    """

    title: str
    settings: tuple[ListedSetting, ...]
    changed: bool = False

    @property
    def anchor(self) -> str:
        """A name for links to it."""
        return self.title.lower().replace(" ", "-")


GROUPS = {
    "host": "The server",
    "preset": "The models",
    "label_studio_url": "Label Studio",
    "reconcile_interval": "Corrections",
    "refine_after": "Refinement",
    "allowed_hosts": "Media",
}
"""Titles of groups by the first setting of each; the others follow in the order of the settings."""


def group_settings(settings: Settings) -> list[SettingsGroup]:
    """All settings in force: first what differs from the defaults, then the others by subject."""
    listed = dict(zip(Settings.model_fields, list_settings(settings), strict=True))
    title, by_title = "", dict[str, list[ListedSetting]]()
    for name, setting in listed.items():
        title = GROUPS.get(name, title)
        by_title.setdefault(title, [])
        if not setting.changed:
            by_title[title].append(setting)
    changed = tuple(setting for setting in listed.values() if setting.changed)
    groups = [SettingsGroup(title, tuple(rest)) for title, rest in by_title.items() if rest]
    return [SettingsGroup("Changed from the default", changed, True), *groups] if changed else groups


def list_settings(settings: Settings) -> list[ListedSetting]:
    """All settings in force, in their order."""
    return [
        ListedSetting(
            variable=ENV_PREFIX + name.upper(),
            value=_describe_value(name, getattr(settings, name)),
            meaning=field.description or "",
            changed=getattr(settings, name) != field.default,
            default=_describe_value(name, field.default),
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
