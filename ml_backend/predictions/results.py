"""Proposals as Label Studio's predictions."""

from __future__ import annotations

from ml_backend.label_studio.results import instance_id
from ml_backend.label_studio.task import Task
from ml_backend.proposals import StoredTracklet


def object_name(task: Task) -> str:
    """One name for what is tracked in a task, whatever the text and the rank.

    So the answer to another text replaces the regions that are there, whichever candidate they came from.
    """
    return instance_id(task.id, "", 0)


def label_studio_score(tracklet: StoredTracklet) -> float:
    """A tracklet's score as Label Studio takes it, in [0, 1]: a correlation below 0 is no agreement."""
    return round(min(max(tracklet.score, 0.0), 1.0), 4)
