"""Answers to calls about the video of a task: expressions for the video, or for one of its box tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ml_backend.interactive.answer import (
    Answer,
    Call,
    ProposalWork,
    expression_of_candidate,
    late_proposal,
    refusal,
    texts_beside,
)
from ml_backend.interactive.drawn_boxes import track_drawn
from ml_backend.interactive.messages import describe_missing_candidate
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import MOST_INSTANCES, Controls, VideoSide, are_numbered
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.regions import tracklet_to_video_region
from ml_backend.label_studio.results import Result, ResultItem, instance_id
from ml_backend.label_studio.task import Task, task_value
from ml_backend.language.commands import is_command, is_go, numbered_titles
from ml_backend.language.expressions import (
    TypedText,
    read_typed_text,
    typed_expressions,
)
from ml_backend.predictions.messages import Guidance, describe_answer, describe_instances
from ml_backend.predictions.results import label_studio_score, video_numbers
from ml_backend.proposals import StoredProposal
from steerseg.errors import ExpressionError
from steerseg.words.counting import choose_candidates, instances_meant


class VideoCalls:
    """Answers calls about the video of a task.

    Args:
        jobs: Asks the segmenter.
        guidance: The preset's notes on its answers.
    """

    def __init__(self, jobs: SteeringJobs, guidance: Guidance) -> None:
        self._jobs = jobs
        self._guidance = guidance

    def answer(self, call: Call, side: VideoSide) -> Answer:
        """Answer an expression, or track what an annotator drew.

        Raises:
            SteerSegError: It cannot be answered; the message is for the annotator.
        """
        request = call.request
        text = request.track_text if request.track_id else request.texts[-1] if request.texts else ""
        if text and not (request.track_id and is_go(text)):
            return _answer_expression(call, side, self._guidance, text)
        # A track with one keyframe was just drawn. One with more is left alone, unless its text asks for it.
        drawn = [
            track
            for track in request.drawn
            if (track.id == request.track_id if request.track_id else len(track.boxes) == 1)
        ]
        return track_drawn(call, side, drawn, self._jobs) if drawn else Answer()


def _answer_expression(call: Call, side: VideoSide, guidance: Guidance, text: str) -> Answer:
    """Answer an expression for the video, or for one of its box tracks.

    The region that is replaced keeps its label and the text beside it, which Label Studio would drop.

    Args:
        call: The call.
        side: The video side of the project.
        guidance: The preset's notes on its answers.
        text: The text that was typed last.

    Raises:
        SteerSegError: It cannot be answered; the message is for the annotator.
    """
    request = call.request
    if text.strip() and is_command(text, _names(side)):
        raise ExpressionError(
            f"“{text}” is for masks on frames; on a video, change or delete the box track in the list of regions, and "
            "type “go” beside a box that you drew"
        )
    typed, first = _read_text(text, side)
    expression = typed.expression
    if typed.pick is not None:
        last = next(typed_expressions(request.texts, side.labels), None)
        expression = expression_of_candidate(typed.pick, last, call.own_expression)
    work = call.propose(expression)
    try:
        proposal = work.outcome.result(call.seconds_left)
    except TimeoutError:
        return late_proposal(call, work.progress, expression)
    if not proposal.tracklets:
        return Answer(message=describe_answer(proposal, 0, guidance))
    if typed.pick is not None and not 0 < typed.pick <= len(proposal.tracklets):
        return Answer(message=describe_missing_candidate(typed.pick, expression, proposal))
    if proposal.refused and typed.pick is None:
        return refusal(proposal, guidance, side)
    return _answer_candidates(call, side, guidance, proposal, work, typed, first)


def _answer_candidates(
    call: Call,
    side: VideoSide,
    guidance: Guidance,
    proposal: StoredProposal,
    work: ProposalWork,
    typed: TypedText,
    first: int,
) -> Answer:
    """Answer with the candidates that a text means, as instances from an index on."""
    several = None
    if typed.pick is None and not call.request.track_id:
        several = instances_meant(proposal.expression)
    ranks = [typed.pick - 1] if typed.pick is not None else choose_candidates(proposal.tracklets, several)
    media = work.media
    assert media is not None
    numbers = video_numbers(media, side, call.task.data, proposal)
    writer = _TrackWriter(call, side, proposal, media.stride, typed.label, numbers)
    result: list[Result] = []
    for index, rank in enumerate(ranks, first):
        result += writer.write(index, rank)
    if several is None:
        message = describe_answer(proposal, ranks[0], guidance, writer.labels[0])
    else:
        meant = several.most if several.exact else None
        message = describe_instances(proposal, ranks, writer.labels, meant, guidance)
    message = " ".join(filter(None, (message, numbers.describe_hidden())))
    return Answer(tuple(result), message, label_studio_score(proposal, ranks[0]))


def video_beside(controls: Controls, task: Task) -> VideoSide | None:
    """The video side, where the task has a video."""
    video = controls.video
    return video if video is not None and task_value(task.data, video.data_key) else None


def _read_text(text: str, side: VideoSide) -> tuple[TypedText, int]:
    """A typed text, and the index of the instance that it is about.

    Where labels name objects, so does the label before a colon. Where labels are classes, a number does:
    ``object 2: the cat``.
    """
    typed = read_typed_text(text, side.labels)
    if typed.label is not None:
        return typed, side.labels.index(typed.label) if are_numbered(side.labels) else 0
    names = _names(side)
    numbered = read_typed_text(text, names)
    if numbered.label is None:
        return typed, 0
    return replace(numbered, label=None), names.index(numbered.label)


def _names(side: VideoSide) -> tuple[str, ...]:
    """The names by which annotators choose a track."""
    return side.labels if are_numbered(side.labels) else numbered_titles(MOST_INSTANCES)


class _TrackWriter:
    """Writes candidates as box tracks, each with its own id and label.

    Args:
        call: The call.
        side: The video side of the project.
        proposal: The proposal.
        stride: Frames of the video from one frame of the media to the next.
        label: The label that the annotator typed, if any.
        numbers: Which frame Label Studio shows at each of its numbers.

    Attributes:
        labels: Each track as annotators call it, for the message.
    """

    def __init__(
        self,
        call: Call,
        side: VideoSide,
        proposal: StoredProposal,
        stride: int,
        label: str | None,
        numbers: FrameNumbers,
    ) -> None:
        self.labels: list[str] = []
        self._call = call
        self._side = side
        self._proposal = proposal
        self._stride = stride
        self._label = label
        self._numbers = numbers
        draft = call.task.draft
        self._known = [*(() if draft is None else draft.results), *call.context]

    def write(self, index: int, rank: int) -> list[Result]:
        """Write one candidate.

        Args:
            index: Index of the instance.
            rank: Rank of the candidate.
        """
        call, side, proposal = self._call, self._side, self._proposal
        name = instance_id(call.task.id, "", index)
        known = None
        if call.request.track_id and not self.labels:
            name = call.request.track_id
            known = _label_of_track(self._known, name)
        elif are_numbered(side.labels):
            known = _label_of_track(self._known, name)
        label = known or self._label
        if label is None and are_numbered(side.labels):
            label = side.labels[min(index, len(side.labels) - 1)]
        named = label if label and are_numbered(side.labels) else f"object {index + 1}"
        self.labels.append("this box" if name == call.request.track_id else named)
        tracklet = proposal.tracklets[rank]
        return tracklet_to_video_region(
            tracklet,
            side,
            instance_id=name,
            expression=proposal.expression,
            attributes=proposal.attributes,
            numbers=self._numbers,
            label=label,
            frames=range(0, len(tracklet.rles) * self._stride, self._stride),
            region_texts=texts_beside(self._known, side.task.region_text, name),
        )


def _label_of_track(results: Sequence[Mapping[str, Any]], track_id: str) -> str | None:
    """The label that a box track has now."""
    label = None
    for item in map(ResultItem, results):
        if item.id == track_id and item.type in ("videorectangle", "labels"):
            label = next(iter(item.labels()), label)
    return label
