"""Proposals as Label Studio's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_backend.label_studio.controls import MOST_INSTANCES, FramesSide, VideoSide, are_numbered
from ml_backend.label_studio.frame_numbers import FrameNumbers, numbers_beside_pages, numbers_of_video
from ml_backend.label_studio.regions import tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import Result, ResultItem, expression_result, instance_id, status_result
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.language.commands import instance_title, numbered_titles
from ml_backend.predictions.messages import Guidance, describe_instances, describe_proposal
from ml_backend.proposals import StoredProposal
from steerseg.words.counting import InstanceCount, choose_candidates, instances_meant


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

    An expression that means several objects gives one prediction, with an instance for each. A proposal that is refused
    gives none.

    Label Studio keeps the order, opens a task with the prediction that was stored last, and shows the others behind
    it: so the annotator meets them with the best first.

    Args:
        proposal: The proposal.
        task: The task.
        media: Its media.
        version: Name of the version that made the proposal.
        guidance: The preset's notes on its answers.
    """
    if proposal.refused:
        return ()
    several = instances_meant(proposal.expression)
    if several is not None:
        return _prediction_of_several(proposal, several, task, media, version)
    predictions = []
    for rank in reversed(range(len(proposal.tracklets))):
        regions = _regions(proposal, rank, task, media)
        if regions:
            status = describe_proposal(proposal, rank, guidance)
            result = (*regions, *_texts(proposal, status, task, media))
            score = label_studio_score(proposal, rank)
            predictions.append(Prediction(result, score, version))
    return tuple(predictions)


def _prediction_of_several(
    proposal: StoredProposal, several: InstanceCount, task: Task, media: Media, version: str
) -> tuple[Prediction, ...]:
    """One prediction with all instances that an expression means; none where no tracklet is visible."""
    names = _instance_names(media)
    instances = [
        (rank, regions)
        for index, rank in enumerate(choose_candidates(proposal.tracklets, several)[: len(names)])
        if (regions := _regions(proposal, rank, task, media, index))
    ]
    if not instances:
        return ()
    ranks = [rank for rank, _ in instances]
    titles = [instance_title(index, names) for index in range(len(ranks))]
    status = describe_instances(proposal, ranks, titles, several.most if several.exact else None)
    result = [region for _, regions in instances for region in regions]
    result += _texts(proposal, status, task, media)
    return (Prediction(tuple(result), label_studio_score(proposal, ranks[0]), version),)


def expression_of(result: Sequence[Mapping[str, Any]]) -> str:
    """The expression that a prediction's regions note; empty where none does."""
    return next((note for note in (ResultItem(item).note for item in result) if note), "")


def video_numbers(
    media: Media, side: VideoSide, data: Mapping[str, Any], proposal: StoredProposal
) -> FrameNumbers:
    """Which frame of a task's video Label Studio shows at each of its numbers."""
    if media.frames is not None:
        return numbers_beside_pages(side, data, len(proposal.pts), media.stride)
    return numbers_of_video(media.timeline, side.fps(data), proposal.pts)


def label_studio_score(proposal: StoredProposal, rank: int) -> float:
    """How sure a tracklet is, in [0, 1], in the digits that Label Studio is sent."""
    return round(proposal.certainty(rank), 4)


def _instance_names(media: Media) -> tuple[str, ...]:
    """The names of instances on every side of the task; the fewest where the sides differ."""
    names = [numbered_titles(MOST_INSTANCES)]
    if media.frames is not None:
        names.append(media.frames.instance_names)
    if media.video is not None and are_numbered(media.video.labels):
        names.append(media.video.labels)
    return min(reversed(names), key=len)


def _instance_label(side: FramesSide | VideoSide, index: int) -> str | None:
    """The label of an instance where labels name objects; ``None`` where the expression says which."""
    if isinstance(side, FramesSide):
        return side.mask.labels[index] if side.labels_name_instances else None
    return side.labels[index] if are_numbered(side.labels) else None


def _texts(proposal: StoredProposal, status: str, task: Task, media: Media) -> list[Result]:
    """The expression and the status text, for each side of the task that has a control for them."""
    texts = []
    hidden = ""
    if media.video is not None:
        hidden = video_numbers(media, media.video, task.data, proposal).describe_hidden()
    status = " ".join(filter(None, (status, hidden)))
    for side in (media.frames, media.video):
        if side is not None:
            texts.append(expression_result(side, proposal.expression))
            texts.append(status_result(side, status))
    return [text for text in texts if text is not None]


def _regions(
    proposal: StoredProposal, rank: int, task: Task, media: Media, instance: int = 0
) -> list[Result]:
    """One tracklet as regions of every side of the task.

    An instance has one name, whatever expression and rank: so the answer to another expression replaces the regions
    that are there, whichever candidate they came from.

    Args:
        proposal: The proposal.
        rank: Of the tracklet.
        task: The task.
        media: Its media.
        instance: Index of the instance that the tracklet becomes.
    """
    tracklet, name = proposal.tracklets[rank], instance_id(task.id, "", instance)
    regions: list[Result] = []
    if media.frames is not None:
        regions += tracklet_to_frames_regions(
            tracklet,
            media.frames,
            instance_id=name,
            expression=proposal.expression,
            attributes=proposal.attributes,
            label=_instance_label(media.frames, instance) if instance else None,
        )
    if media.video is not None:
        regions += tracklet_to_video_region(
            tracklet,
            media.video,
            instance_id=name,
            expression=proposal.expression,
            attributes=proposal.attributes,
            numbers=video_numbers(media, media.video, task.data, proposal),
            label=_instance_label(media.video, instance) if instance else None,
            frames=range(0, len(tracklet.rles) * media.stride, media.stride),
        )
    return regions
