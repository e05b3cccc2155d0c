"""Answers to calls about the pages of a task: expressions, clicks, boxes and painted pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ml_backend.expressions import (
    InstanceCount,
    TypedText,
    choose_candidates,
    instances_meant,
    read_typed_text,
    typed_expressions,
)
from ml_backend.interactive.answer import (
    Answer,
    Call,
    clipped_score,
    expression_of_candidate,
    late_answer,
)
from ml_backend.interactive.frame_regions import InstanceRegions
from ml_backend.interactive.mask_regions import MaskRegions, read_mask_regions
from ml_backend.interactive.messages import (
    describe_kept_pages,
    describe_missing_candidate,
    describe_no_object,
    describe_tracked,
)
from ml_backend.interactive.request import InteractiveRequest
from ml_backend.interactive.state import EMPTY_MASK, InstanceState, TaskState, mask_digest
from ml_backend.interactive.store import UNKNOWN, TaskStateKey, TaskStateStore
from ml_backend.interactive.submitted_pages import with_last_answers
from ml_backend.interactive.update import (
    RequestKind,
    StateUpdate,
    apply_request,
    instance_from_regions,
    is_current,
)
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import FramesSide, choose_label
from ml_backend.label_studio.results import Result
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import Media
from ml_backend.models.messages import AGREEMENT, SteerRequest
from ml_backend.predictions.messages import Guidance, describe_answer, describe_instances
from ml_backend.proposals import StoredProposal
from steerseg.masks import RLE, decode_rle, encode_rle, iou, mask_area


class FrameCalls:
    """Answers calls about the pages of a task.

    Args:
        states: The states of tasks.
        jobs: Asks the segmenter.
        guidance: The preset's notes on its answers.
    """

    def __init__(self, states: TaskStateStore, jobs: SteeringJobs, guidance: Guidance) -> None:
        self._states = states
        self._jobs = jobs
        self._guidance = guidance

    def answer(self, call: Call, side: FramesSide) -> Answer:
        """Apply a call to the state of its task, and answer it.

        Raises:
            SteerSegError: It cannot be answered; the message is for the annotator.
        """
        return _FrameCall(self._states, self._jobs, self._guidance, call, side).answer()


@dataclass(frozen=True)
class _Question:
    """An instance whose masks are wanted.

    Attributes:
        instance: The instance.
        message: The message where masks follow the expression alone.
        scores: The proposal's score of each frame, where masks follow a proposal.
    """

    instance: InstanceState
    message: str = ""
    scores: tuple[float, ...] = field(default=(), repr=False)


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


class _FrameCall:
    """One call about the pages of one task."""

    def __init__(
        self, states: TaskStateStore, jobs: SteeringJobs, guidance: Guidance, call: Call, side: FramesSide
    ) -> None:
        self._states = states
        self._jobs = jobs
        self._guidance = guidance
        self._call = call
        self._side = side
        self._labels = side.mask.labels
        self._names = side.instance_names
        draft = call.task.draft
        annotator = UNKNOWN if draft is None or draft.annotator is None else draft.annotator
        self._key = TaskStateKey(call.project_id, call.task.id, annotator, side.name)
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

    def answer(self) -> Answer:
        """Update the state, answer the call, and remember the message: a draft that shows it is current."""
        update = self._update_state()
        if update.kind is RequestKind.PROMPTS:
            answer = self._answer_instances([_Question(update.task.instances[update.index])])
        else:
            answer = self._answer_text(update)
        message = answer.message
        if message is not None:
            self._states.change(self._key, lambda task: replace(task, message=message))
        return answer

    # --- the state

    def _update_state(self) -> StateUpdate:
        request = self._call.request
        first = apply_request(self._known, request, self._draft, self._names)
        index = self._index_of(first)
        # Reading the regions on the pages takes time: it happens before the transaction, not within.
        new = None if index in first.task.instances else self._instance_on_pages(index)
        updates: list[StateUpdate] = []

        def change(task: TaskState) -> TaskState:
            update = apply_request(task, request, self._draft, self._names)
            changed = replace(update.task, active_index=index)
            if new is not None and index not in changed.instances:
                changed = changed.with_instance(new)
            if update.kind is RequestKind.PROMPTS and index in changed.instances:
                known = changed.instances[index].with_prompts(request.prompts)
                changed = changed.with_instance(replace(known, label=self._class_of(request, known)))
            updates[:] = [StateUpdate(update.kind, index, changed)]
            return changed

        self._states.change(self._key, change)
        return updates[0]

    def _index_of(self, update: StateUpdate) -> int:
        """The instance that the call is about; a text may name it itself."""
        if update.kind is RequestKind.TEXT:
            label = self._typed_text().label
            if label is not None:
                return self._names.index(label)
        return update.index

    def _typed_text(self) -> TypedText:
        return read_typed_text(self._call.request.texts[-1], self._names)

    def _instance_on_pages(self, index: int) -> InstanceState:
        task = self._call.task
        predictions = [read_mask_regions(results, self._side, task.id) for results in task.predictions]
        return instance_from_regions(index, self._label(index), self._pages, self._draft, predictions)

    def _remember(self, instance: InstanceState) -> None:
        """Store an answer. Where the annotator went on meanwhile, store only that these masks were answered."""

        def change(task: TaskState) -> TaskState:
            now = task.instances.get(instance.index)
            if now is not None and (now.prompts != instance.prompts or now.expression != instance.expression):
                return task.with_instance(now.with_answered(dict(enumerate(instance.masks))))
            return task.with_instance(instance)

        self._states.change(self._key, change)

    # --- expressions

    def _answer_text(self, update: StateUpdate) -> Answer:
        call, typed = self._call, self._typed_text()
        instance = update.task.instances[update.index]
        expression = typed.expression
        if typed.pick is not None:
            last = next(typed_expressions(call.request.texts, self._names), None)
            expression = expression_of_candidate(typed.pick, instance.expression, last, call.own_expression)
        work = call.propose(expression)
        try:
            proposal = work.outcome.result(call.seconds_left)
        except TimeoutError:
            return late_answer(work.progress)
        if typed.pick is not None and not 0 < typed.pick <= len(proposal.tracklets):
            return Answer(message=describe_missing_candidate(typed.pick, expression, proposal))
        if not proposal.tracklets:
            return Answer(message=describe_answer(proposal, 0, self._guidance))
        several = None if typed.pick is not None else instances_meant(proposal.expression)
        ranks = self._ranks(proposal, instance, typed.pick, several)
        ranks = ranks[: max(1, len(self._names) - update.index)]
        instances = []
        for index, rank in enumerate(ranks, update.index):
            before = update.task.instances.get(index) or self._instance_on_pages(index)
            instances.append(self._proposed(before, proposal, rank, alone=several is None))
        self._states.change(self._key, lambda task: _with_instances(task, instances))
        message = self._describe(proposal, ranks, instances, several)
        return self._answer_instances(
            [
                _Question(
                    instance,
                    message=message if i == 0 else "",
                    scores=tuple(float(score) for score in proposal.tracklets[rank].frame_scores),
                )
                for i, (instance, rank) in enumerate(zip(instances, ranks, strict=True))
            ]
        )

    def _ranks(
        self,
        proposal: StoredProposal,
        instance: InstanceState,
        pick: int | None,
        several: InstanceCount | None,
    ) -> list[int]:
        if pick is not None:
            return [pick - 1]
        same = instance.expression.casefold() == proposal.expression.casefold()
        if several is None and same and instance.prompts and instance.rank < len(proposal.tracklets):
            return [instance.rank]  # the clicks were about this candidate
        return choose_candidates(proposal, several)

    def _proposed(
        self, before: InstanceState, proposal: StoredProposal, rank: int, *, alone: bool
    ) -> InstanceState:
        """The instance as a candidate; its clicks stay if they were about the same one."""
        tracklet = proposal.tracklets[rank]
        same = before.expression.casefold() == proposal.expression.casefold() and before.rank == rank
        return replace(
            before,
            label=self._label_for(before.index, proposal, alone=alone),
            expression=proposal.expression,
            attributes=proposal.attributes,
            rank=rank,
            score=tracklet.score,
            track=tuple(_or_none(mask) for mask in tracklet.rles),
            anchor=tracklet.prompt.frame,
            prompts=before.prompts if same else (),
            answer_digest=before.answer_digest if same else "",
        )

    def _describe(
        self,
        proposal: StoredProposal,
        ranks: Sequence[int],
        instances: Sequence[InstanceState],
        several: InstanceCount | None,
    ) -> str:
        if several is None:
            return describe_answer(proposal, ranks[0], self._guidance)
        names = [self._names[min(instance.index, len(self._names) - 1)] for instance in instances]
        if self._side.labels_name_instances:
            names = [instance.label for instance in instances]
        return describe_instances(proposal, ranks, names, several.most if several.exact else None)

    def _class_of(self, request: InteractiveRequest, instance: InstanceState) -> str:
        """The label of an instance; where labels are classes, a prompt's own label changes it."""
        own = request.prompt_label
        classes = not self._side.labels_name_instances
        return own if classes and own is not None and own in self._labels else instance.label

    def _label(self, index: int) -> str:
        if not self._side.labels_name_instances:
            return self._labels[0]
        return self._labels[min(index, len(self._labels) - 1)]

    def _label_for(self, index: int, proposal: StoredProposal, *, alone: bool) -> str:
        """The label that the expression names, else the instance's own by its index."""
        if not self._side.labels_name_instances:
            return choose_label(self._labels, proposal.expression, proposal.attributes) or self._labels[0]
        if alone and index == 0:
            label = choose_label(self._labels, proposal.expression, proposal.attributes)
            return label or self._label(index)
        return self._label(index)

    # --- masks

    @cached_property
    def _media(self) -> Media:
        return self._call.fetch()

    def _answer_instances(self, questions: Sequence[_Question]) -> Answer:
        result: list[Result] = []
        messages: list[str] = []
        score = 0.0
        for question in questions:
            instance = question.instance
            if instance.prompts or (instance.painted_masks and _paint_agrees(instance)):
                answer = self._steer(instance)
                if isinstance(answer, Answer):
                    return answer
            else:
                answer = self._follow_expression(question)
            result += self._regions.write(instance, answer.masks, answer.scores)
            messages.append(answer.message)
            if answer.masks and instance.score is not None:
                score = max(score, instance.score)
            masks = (_or_none(mask) for mask in answer.masks)
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
            describe_tracked(instance, masks, kept_track=kept_track, unused=answer.unused),
        )

    def _no_object(self, instance: InstanceState) -> Answer:
        """Forget prompts that lead to no object: one slip must not cost the track before."""
        prompts = self._call.request.prompts

        def change(task: TaskState) -> TaskState:
            now = task.instances.get(instance.index)
            return task if now is None else task.with_instance(now.without_prompts(prompts))

        self._states.change(self._key, change)
        return Answer(message=describe_no_object(instance, prompts))

    def _follow_expression(self, question: _Question) -> _InstanceAnswer:
        """The track as the expression gave it, with the annotator's own pages in it."""
        instance = question.instance
        kept = describe_kept_pages(instance) if question.message else ""
        return _InstanceAnswer(
            _with_paint(instance),
            question.scores or (1.0,) * len(instance.track),
            instance.request_digest("words", self._call.version),
            " ".join(text for text in (question.message, kept) if text),
        )


def _with_instances(task: TaskState, instances: Sequence[InstanceState]) -> TaskState:
    for instance in instances:
        task = task.with_instance(instance)
    return task


def _paint_agrees(instance: InstanceState) -> bool:
    """Whether painted pages show the object of the expression, by their mean overlap with the track."""
    if not instance.track:
        return True
    overlaps = [
        iou(decode_rle(painted), decode_rle(tracked)) if tracked is not None else AGREEMENT
        for page, painted in instance.painted_masks.items()
        if page < len(instance.track)
        for tracked in (instance.track[page],)
        if tracked is None or tracked["size"] == painted["size"]
    ]
    return not overlaps or sum(overlaps) / len(overlaps) >= AGREEMENT


def _with_paint(instance: InstanceState) -> tuple[RLE, ...]:
    """The track with the annotator's own pages in it; empty where no page has a mask."""
    sized = next((mask for mask in (*instance.track, *instance.painted.values()) if mask is not None), None)
    if sized is None:
        return ()
    height, width = sized["size"]
    empty = _empty_mask(height, width)
    masks = [instance.painted.get(page, mask) for page, mask in enumerate(instance.track)]
    return tuple(empty if mask is None else mask for mask in masks)


def _or_none(mask: RLE) -> RLE | None:
    """The mask; ``None`` for an empty one."""
    return None if mask_digest(mask) == EMPTY_MASK else mask


@lru_cache(16)
def _empty_mask(height: int, width: int) -> RLE:
    return encode_rle(np.zeros((height, width), dtype=bool))
