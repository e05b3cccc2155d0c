"""Proposals as Label Studio's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_backend.label_studio.controls import VideoSide
from ml_backend.label_studio.frame_numbers import FrameNumbers, numbers_beside_pages, numbers_of_video
from ml_backend.label_studio.regions import tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import Result, expression_result, instance_id, status_result
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.predictions.messages import Guidance, describe_proposal
from ml_backend.proposals import StoredProposal, StoredTracklet


@dataclass(frozen=True)
class Prediction:
    """A prediction in Label Studio's format.

    Attributes:
        result: Its regions and the texts beside them.
        score: In [0, 1].
        model_version: The version that made it.
    """

    result: tuple[Result, ...] = field(repr=False)
    score: float
    model_version: str

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, as Label Studio takes it."""
        return {"result": list(self.result), "score": self.score, "model_version": self.model_version}


def predictions_of(
    proposal: StoredProposal, task: Task, media: Media, version: str, guidance: Guidance
) -> tuple[Prediction, ...]:
    """A proposal's tracklets as predictions, the best one last; empty ones are left out.

    Label Studio keeps the order, opens a task with the prediction that was stored last, and shows the others behind
    it: so the annotator meets them with the best first.

    Args:
        proposal: The proposal.
        task: The task.
        media: Its media.
        version: Name of the version that made the proposal.
        guidance: The preset's notes on its answers.
    """
    predictions = []
    for rank in reversed(range(len(proposal.tracklets))):
        regions = _regions(proposal, rank, task, media)
        if regions:
            result = (*regions, *_texts(proposal, rank, task, media, guidance))
            score = label_studio_score(proposal.tracklets[rank])
            predictions.append(Prediction(result, score, version))
    return tuple(predictions)


def video_numbers(
    media: Media, side: VideoSide, data: Mapping[str, Any], proposal: StoredProposal
) -> FrameNumbers:
    """Which frame of a task's video Label Studio shows at each of its numbers."""
    if media.frames is not None:
        return numbers_beside_pages(side, data, len(proposal.pts), media.stride)
    return numbers_of_video(media.timeline, side.fps(data), proposal.pts)


def label_studio_score(tracklet: StoredTracklet) -> float:
    """A tracklet's score as Label Studio takes it, in [0, 1]: a correlation below 0 is no agreement."""
    return round(min(max(tracklet.score, 0.0), 1.0), 4)


def _texts(proposal: StoredProposal, rank: int, task: Task, media: Media, guidance: Guidance) -> list[Result]:
    """The expression and the status text, for each side of the task that has a control for them."""
    texts = []
    hidden = ""
    if media.video is not None:
        hidden = video_numbers(media, media.video, task.data, proposal).describe_hidden()
    status = " ".join(filter(None, (describe_proposal(proposal, rank, guidance), hidden)))
    for side in (media.frames, media.video):
        if side is not None:
            texts.append(expression_result(side, proposal.expression))
            texts.append(status_result(side, status))
    return [text for text in texts if text is not None]


def _regions(proposal: StoredProposal, rank: int, task: Task, media: Media) -> list[Result]:
    """One tracklet as regions of every side of the task.

    All tracklets of a task have one name, whatever expression and rank: so the answer to another expression replaces
    the regions that are there, whichever candidate they came from.
    """
    tracklet, name = proposal.tracklets[rank], instance_id(task.id, "", 0)
    regions: list[Result] = []
    if media.frames is not None:
        regions += tracklet_to_frames_regions(
            tracklet,
            media.frames,
            instance_id=name,
            expression=proposal.expression,
            attributes=proposal.attributes,
        )
    if media.video is not None:
        regions += tracklet_to_video_region(
            tracklet,
            media.video,
            instance_id=name,
            expression=proposal.expression,
            attributes=proposal.attributes,
            numbers=video_numbers(media, media.video, task.data, proposal),
            frames=range(0, len(tracklet.rles) * media.stride, media.stride),
        )
    return regions
