"""The pages of one task in one call: the state of their instances, and the masks that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ml_backend.interactive.answer import (
    Answer,
    Call,
    clipped_score,
    late_answer,
    state_key,
)
from ml_backend.interactive.frame_regions import InstanceRegions
from ml_backend.interactive.mask_regions import MaskRegions, read_mask_regions
from ml_backend.interactive.messages import (
    describe_kept_pages,
    describe_no_object,
    describe_tracked,
)
from ml_backend.interactive.paint import filled, mask_or_none, paint_agrees, track_with_paint
from ml_backend.interactive.state import InstanceState, TaskState
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import with_last_answers
from ml_backend.interactive.update import (
    instance_from_regions,
    is_current,
)
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.results import Result
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import Media
from ml_backend.language.commands import instance_title
from ml_backend.models.messages import SteerRequest
from steerseg.masks import RLE, mask_area


@dataclass(frozen=True)
class Question:
    """An instance whose masks are wanted.

    Attributes:
        instance: The instance.
        message: The message where masks follow the expression alone.
        scores: The proposal's score of each frame, where masks follow a proposal.
        follows_paint: Whether the other pages follow painted ones that show another object than the track.
    """

    instance: InstanceState
    message: str = ""
    scores: tuple[float, ...] = field(default=(), repr=False)
    follows_paint: bool = False


@dataclass(frozen=True)
class _InstanceAnswer:
    """The answer for one instance.

    Attributes:
        masks: One mask per page; empty where there is neither track nor paint.
        scores: The certainty of each mask, in [0, 1].
        digest: Digest of what the answer followed from.
        message: The message for the annotator.
    """

    masks: tuple[RLE, ...] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    digest: str
    message: str


class PagesCall:
    """The pages of one task in one call: the state of their instances, and the masks that answer it.

    Args:
        states: The states of tasks.
        jobs: Asks the segmenter.
        call: The call.
        side: The frames side of the project.
    """

    def __init__(self, states: TaskStateStore, jobs: SteeringJobs, call: Call, side: FramesSide) -> None:
        self._states = states
        self._jobs = jobs
        self._call = call
        self._side = side
        self._labels = side.mask.labels
        self._names = side.instance_names
        draft = call.task.draft
        self._key = state_key(call.project_id, call.task, side)
        self._known = states.get(self._key)
        self._draft: MaskRegions | None = None
        if draft is not None:
            self._draft = read_mask_regions(self._with_submitted_answers(draft.results), side, call.task.id)
        current = is_current(self._draft, self._known)
        self._regions = InstanceRegions(call, side, self._draft, is_current=current)
        pages = task_value(call.task.data, side.data_key)
        self._pages = len(pages) if isinstance(pages, Sequence) and not isinstance(pages, str) else 0

    def _with_submitted_answers(self, results: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """A draft's results; those of an editor that stayed open after a submission get the answers before it."""
        if self._known.instances:
            return results
        submitted = self._states.submitted_last(self._key)
        if submitted is None:
            return results
        return with_last_answers(results, submitted, self._side, self._key.task_id) or results

    def _instance_on_pages(self, index: int) -> InstanceState:
        task = self._call.task
        predictions = [read_mask_regions(results, self._side, task.id) for results in task.predictions]
        return instance_from_regions(index, self._label(index), self._pages, self._draft, predictions)

    def _title(self, instance: InstanceState) -> str:
        """The instance as texts for annotators call it."""
        if self._side.labels_name_instances:
            return instance.label
        return instance_title(instance.index, self._names)

    def _label(self, index: int) -> str:
        if not self._side.labels_name_instances:
            return self._labels[0]
        return self._labels[min(index, len(self._labels) - 1)]

    def _remember(self, instance: InstanceState) -> None:
        """Store an answer. Where the annotator went on meanwhile, store only that these masks were answered."""

        def change(task: TaskState) -> TaskState:
            now = task.instances.get(instance.index)
            if now is not None and (now.prompts != instance.prompts or now.expression != instance.expression):
                return task.with_instance(now.with_answered(dict(enumerate(instance.masks))))
            return task.with_instance(instance)

        self._states.change(self._key, change)

    def _write_edited(
        self, before: Mapping[int, InstanceState], after: Mapping[int, InstanceState]
    ) -> list[Result]:
        """Regions of instances that were changed without the models."""
        result: list[Result] = []
        for index, instance in after.items():
            earlier = before[index]
            masks = filled(list(instance.masks), earlier.masks, tuple(earlier.painted.values()))
            shown = replace(instance, masks=earlier.masks)
            result += self._regions.write(shown, masks, instance.scores)
        return result

    @cached_property
    def _media(self) -> Media:
        return self._call.fetch()

    def _answer_instances(self, questions: Sequence[Question]) -> Answer:
        result: list[Result] = []
        messages: list[str] = []
        score = 0.0
        for question in questions:
            instance = question.instance
            agrees = question.follows_paint or paint_agrees(instance)
            if instance.prompts or (instance.painted_masks and agrees):
                answer = self._steer(instance)
                if isinstance(answer, Answer):
                    return answer
            else:
                answer = self._follow_expression(question)
            result += self._regions.write(instance, answer.masks, answer.scores)
            messages.append(answer.message)
            if answer.masks and instance.score is not None:
                score = max(score, instance.score)
            masks = (mask_or_none(mask) for mask in answer.masks)
            self._remember(instance.with_answer(masks, answer.scores, answer.digest))
        return Answer(
            result=tuple(result),
            message=" ".join(message for message in messages if message) or None,
            score=clipped_score(score),
        )

    def _steer(self, instance: InstanceState) -> _InstanceAnswer | Answer:
        """Ask the segmenter; the answer to the whole call where it is not ready, or finds no object."""
        call = self._call
        digest = instance.request_digest(self._media.digest, call.version)
        job = self._jobs.request(
            digest,
            SteerRequest(
                media=self._media.path,
                fps=self._media.fps,
                track=instance.track,
                anchor=instance.anchor,
                prompts=instance.frame_prompts(),
                painted=instance.painted_masks,
                hidden=instance.hidden_pages,
            ),
            owner=(call.project_id, call.task.id),
        )
        try:
            answer = job.future.result(call.seconds_left)
        except TimeoutError:
            return late_answer(job.progress)
        masks = answer.tracklet.rles
        if call.request.prompts and not any(mask_area(mask) for mask in masks):
            return self._no_object(instance)
        kept_track = answer.kept_track or not instance.track
        return _InstanceAnswer(
            masks,
            tuple(round(float(score), 4) for score in answer.tracklet.frame_scores),
            digest,
            describe_tracked(
                self._title(instance), instance, masks, kept_track=kept_track, unused=answer.unused
            ),
        )

    def _no_object(self, instance: InstanceState) -> Answer:
        """Forget prompts that lead to no object: one slip must not cost the track before."""
        prompts = self._call.request.prompts

        def change(task: TaskState) -> TaskState:
            now = task.instances.get(instance.index)
            return task if now is None else task.with_instance(now.without_prompts(prompts))

        self._states.change(self._key, change)
        return Answer(message=describe_no_object(self._title(instance), prompts))

    def _follow_expression(self, question: Question) -> _InstanceAnswer:
        """The track as the expression gave it, with the annotator's own pages in it."""
        instance = question.instance
        kept = describe_kept_pages(instance) if question.message else ""
        return _InstanceAnswer(
            track_with_paint(instance),
            question.scores or (1.0,) * len(instance.track),
            instance.request_digest("words", self._call.version),
            " ".join(text for text in (question.message, kept) if text),
        )
