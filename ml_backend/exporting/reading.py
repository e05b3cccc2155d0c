"""A project's annotations read before they are exported, also those that no webhook brought."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml_backend.corrections.annotation_store import AnnotationStore
from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.ingestion import Reconciliation
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.selection import ProjectAnnotations, UnusableInstance
from ml_backend.label_studio.errors import LabelStudioError
from steerseg.errors import ConfigError

_NOT_YET = (
    "it waits for its media or for the models; export again later, or start the server and look at its log"
)
_ALL = 10**9  # more than any project has


@dataclass(frozen=True)
class ReadProject:
    """A project as an export sees it.

    Attributes:
        annotations: Its annotations.
        label_config: Its newest known labelling configuration; empty where none is known.
    """

    annotations: ProjectAnnotations
    label_config: str = field(repr=False)


def read_project(database: Database, refresher: CorrectionRefresher, project_id: int) -> ReadProject:
    """Read a project from Label Studio, complete its corrections, and list all there is.

    Where Label Studio cannot be asked, the database tells what is known, and ``problem`` says so.

    Raises:
        StoreError: The database cannot be used.
    """
    reconciliation: Reconciliation | None = None
    problem = ""
    try:
        reconciliation = refresher.read(project_id)
    except (ConfigError, LabelStudioError) as error:
        problem = str(error)
    refresher.complete(project_id)
    corrections = CorrectionStore(database)
    unusable = [
        UnusableInstance(one.task_id, one.annotation_id, one.object, one.reason)
        for one in reversed(corrections.list_set_aside(project_id, limit=_ALL))
    ]
    unusable += [
        UnusableInstance(
            one.task_id,
            one.annotation_id,
            one.decision.object,
            f"not usable yet: {one.reason}" if one.reason else _NOT_YET,
        )
        for one in CompletionStore(database).pending(project_id)
    ]
    usable = corrections.corrections(project_id)
    listed = AnnotationStore(database).listed(project_id)
    known = None if reconciliation is None else reconciliation.label_config
    if reconciliation is not None:
        # What webhooks brought while the project was read is not in its list.
        asked = {one.id for one in reconciliation.listed}
        listed = [*reconciliation.listed, *(one for one in listed if one.id not in asked)]
    if known is None:
        project = ProjectStore(database).find(project_id)
        newest = max(usable, key=lambda one: one.changed_at, default=None)
        known = (project.label_config if project else "") or (newest.label_config if newest else "")
    return ReadProject(
        ProjectAnnotations(
            listed=tuple(listed),
            corrections=tuple(usable),
            unusable=tuple(unusable),
            unreadable={} if reconciliation is None else reconciliation.unreadable,
            problem=problem,
        ),
        known,
    )
