"""The page before a batch: some proposals, and what a least score would keep of them."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, render_template, request

from ml_backend.models.geometry import spread
from ml_backend.predictions.messages import described_presence
from ml_backend.predictions.results import label_studio_score
from ml_backend.proposals import ProposalFiles, StoredProposal
from ml_backend.service import Service
from ml_backend.web.pages.projects import known_project
from ml_backend.web.pages.queries import ListedProposal, newest_of_tasks
from steerseg.masks import mask_area

SHOWN = 10
"""Proposals where the page is asked for without tasks."""
_MOST = 50


@dataclass(frozen=True)
class PreviewedProposal:
    """A proposal on the page.

    Attributes:
        listed: The proposal.
        score: As Label Studio is given it, in [0, 1]; ``None`` where it is given nothing.
        presence: How likely the expression is of anything in the video, for a person; empty where nobody judged.
        refused: Whether that is so unlikely that Label Studio is given nothing.
        frame: The frame of its picture: where the object is largest.
        visible: On how many frames the object is.
        frames: Of how many.
    """

    listed: ListedProposal
    score: float | None
    presence: str
    refused: bool
    frame: int
    visible: int
    frames: int


def add_preview(blueprint: Blueprint, service: Service) -> None:
    """Add the route of a preview.

    Args:
        blueprint: The pages.
        service: What is shown.
    """
    files = ProposalFiles(service.settings.data_dir)

    @blueprint.get("/pages/projects/<int:number>/preview")
    def preview(number: int) -> str:
        known = known_project(service, number)
        version = service.versions(str(number)).current
        every = [one for one in newest_of_tasks(service.database, number) if one.key.version == version]
        asked = {
            int(task) for task in request.args.getlist("task")[:_MOST] if task.isascii() and task.isdigit()
        }
        shown = (
            [one for one in every if one.task_id in asked]
            if asked
            else [every[index] for index in spread(range(len(every)), SHOWN)]
        )
        return render_template(
            "preview.html",
            project=known,
            version=version,
            proposals=[preview_of(one, files.load(one.path)) for one in shown],
            missing=sorted(asked - {one.task_id for one in shown}),
            scores=sorted(_score(one.score) for one in every),
            threshold=requested_threshold(),
        )


def requested_threshold() -> float:
    """The least score of the query, in [0, 1]; 0.3 for anything else."""
    try:
        given = float(request.args.get("least", "0.3"))
    except ValueError:
        return 0.3
    return given if 0.0 <= given <= 1.0 else 0.3


def preview_of(listed: ListedProposal, stored: StoredProposal) -> PreviewedProposal:
    """A proposal as the page shows it."""
    presence = described_presence(stored)
    if not stored.tracklets:
        return PreviewedProposal(listed, None, presence, stored.refused, 0, 0, len(stored.pts))
    best = stored.tracklets[0]
    areas = [mask_area(rle) for rle in best.rles]
    frame = max(range(len(areas)), key=lambda index: (areas[index], -index))
    return PreviewedProposal(
        listed=listed,
        score=None if stored.refused else label_studio_score(stored, 0),
        presence=presence,
        refused=stored.refused,
        frame=frame,
        visible=sum(area > 0 for area in areas),
        frames=len(areas),
    )


def _score(score: float | None) -> float:
    """A score as Label Studio is given it; -1 where nothing was found."""
    return -1.0 if score is None else round(min(max(score, 0.0), 1.0), 4)
