"""What an annotator's call means: words, clicks, boxes and paint on the frames; words on the video."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ml_backend.expressions import (
    InstanceCount,
    choose_candidates,
    instances_meant,
    read_typed_text,
    typed_expressions,
)
from ml_backend.interactive.messages import describe_no_object, describe_tracked
from ml_backend.interactive.request import InteractiveRequest, Regions, read_regions, texts_of
from ml_backend.interactive.state import NOTHING, InstanceState, TaskState, fingerprint
from ml_backend.interactive.store import UNKNOWN, TaskStateKey, TaskStateStore
from ml_backend.interactive.submitted_pages import with_answers
from ml_backend.interactive.update import Event, Heard, adopt, hear
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide, choose_label
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import Result, instance_id, region_labels
from ml_backend.label_studio.task import Task, task_value
from ml_backend.label_studio.task_media import Media, page_stride
from ml_backend.models.messages import AGREEMENT, SteerAnswer, SteerRequest
from ml_backend.predictions.messages import Guidance, describe_answer, describe_instances
from ml_backend.proposals import StoredProposal
from steerseg.errors import ExpressionError
from steerseg.masks import RLE, decode_rle, encode_rle, iou, mask_area


class Work(Protocol):
    """A proposal on its way, with the media that it is about."""

    @property
    def media(self) -> Media | None: ...

    @property
    def outcome(self) -> Future[StoredProposal]: ...

    @property
    def progress(self) -> str: ...


@dataclass(frozen=True)
class Call:
    """One interactive call.

    Attributes:
        project_id: The project.
        task: The task.
        told: What the call says; there is something to do in it.
        context: The same as Label Studio sent it.
        video: The video side, where the task has a video beside its pages.
        version: The version of the project's predictions.
        own_expression: What the task itself names, if anything.
        deadline: By :func:`time.monotonic`; an answer is due by then.
        propose: Has a proposal made for words, in the background.
        fetch: Gives the task's media.
    """

    project_id: int
    task: Task
    told: InteractiveRequest
    context: tuple[Mapping[str, Any], ...] = field(repr=False)
    video: VideoSide | None = field(repr=False)
    version: str
    own_expression: str | None
    deadline: float
    propose: Callable[[str], Work] = field(repr=False)
    fetch: Callable[[], Media] = field(repr=False)

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class Answer:
    """What Label Studio is given.

    Attributes:
        result: Regions; they replace those of the same ids.
        message: For the annotator.
        score: Of the best region, in [0, 1].
        late: Whether it was not ready in time, and is to be asked for again.
    """

    result: tuple[Result, ...] = field(default=(), repr=False)
    message: str | None = None
    score: float = 0.0
    late: bool = False


class FrameCalls:
    """Answers calls about the pages of a task.

    Args:
        memory: What annotators told so far.
        jobs: What asks SAM 2.
        guidance: What the preset says about its answers.
    """

    def __init__(self, memory: TaskStateStore, jobs: SteeringJobs, guidance: Guidance) -> None:
        self._memory = memory
        self._jobs = jobs
        self._guidance = guidance

    def answer(self, call: Call, side: FramesSide) -> Answer:
        """Take a call in, remember it, and answer it.

        Raises:
            SteerSegError: It cannot be answered; the message is for the annotator.
        """
        return _FrameCall(self._memory, self._jobs, self._guidance, call, side).answer()


class _FrameCall:
    """One call about the pages of one task."""

    def __init__(
        self, memory: TaskStateStore, jobs: SteeringJobs, guidance: Guidance, call: Call, side: FramesSide
    ) -> None:
        self._memory = memory
        self._jobs = jobs
        self._guidance = guidance
        self._call = call
        self._side = side
        self._labels = side.mask.labels
        draft = call.task.draft
        annotator = UNKNOWN if draft is None or draft.annotator is None else draft.annotator
        self._key = TaskStateKey(call.project_id, call.task.id, annotator, side.name)
        self._young = False  # whether the draft has the last answer in it
        self._draft: Regions | None = None
        if draft is not None:
            self._draft = read_regions(self._current(draft.results), side, call.task.id)
        pages = task_value(call.task.data, side.data_key)
        self._pages = len(pages) if isinstance(pages, Sequence) and not isinstance(pages, str) else 0

    def _current(self, results: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """A draft; of an editor that stayed open after a submission, with the answers of before it."""
        key = self._key
        if self._memory.get(key).objects:
            return results
        told = self._memory.submitted_last(key)
        return results if told is None else with_answers(results, told, self._side, key.task_id) or results

    def answer(self) -> Answer:
        heard = self._take_in()
        if heard.event is Event.MARKS:
            steered = heard.task.objects[heard.place]
            return self._noted(self._steer([(steered, "")]))
        return self._noted(self._words(heard))

    # --- what is remembered

    def _take_in(self) -> Heard:
        told = self._call.told
        known = self._memory.get(self._key)
        self._young = self._draft is not None and bool(known.message) and self._draft.status == known.message

        def heard_by(task: TaskState) -> Heard:
            return hear(task, told, self._draft, self._labels)

        first = heard_by(known)
        place = self._meant_place(first)
        # Reading what stands on the pages takes its time: before the transaction, not within.
        newcomer = None if place in first.task.objects else self._adopted(place)
        kept: list[Heard] = []

        def change(task: TaskState) -> TaskState:
            heard = heard_by(task)
            remembered = replace(heard.task, active=place)
            if newcomer is not None and place not in remembered.objects:
                remembered = remembered.with_object(newcomer)
            if heard.event is Event.MARKS and place in remembered.objects:
                remembered = remembered.with_object(remembered.objects[place].with_marks(told.marks))
            kept[:] = [Heard(heard.event, place, remembered)]
            return remembered

        self._memory.change(self._key, change)
        return kept[0]

    def _meant_place(self, heard: Heard) -> int:
        """The object that the call is about; words may name it themselves."""
        if heard.event is Event.WORDS:
            label = read_typed_text(self._call.told.texts[-1], self._labels).label
            if label is not None:
                return self._labels.index(label)
        return heard.place

    def _adopted(self, place: int) -> InstanceState:
        task = self._call.task
        predictions = [read_regions(found, self._side, task.id) for found in task.predictions]
        return adopt(place, self._label(place), self._pages, self._draft, predictions)

    def _noted(self, answer: Answer) -> Answer:
        """The answer, its message remembered: a draft with it is younger than the answer."""
        message = answer.message
        if message is not None:
            self._memory.change(self._key, lambda task: replace(task, message=message))
        return answer

    def _remember(self, steered: InstanceState) -> None:
        """Note what was answered, unless the annotator went on meanwhile: then only that it was."""

        def change(task: TaskState) -> TaskState:
            now = task.objects.get(steered.place)
            if now is not None and (now.marks != steered.marks or now.expression != steered.expression):
                return task.with_object(now.with_known(dict(enumerate(steered.shown))))
            return task.with_object(steered)

        self._memory.change(self._key, change)

    # --- words

    def _words(self, heard: Heard) -> Answer:
        words = read_typed_text(self._call.told.texts[-1], self._labels)
        steered = heard.task.objects[heard.place]
        expression = words.expression
        if words.pick is not None:
            typed = next(typed_expressions(self._call.told.texts, self._labels), "")
            expression = steered.expression or typed or self._call.own_expression or ""
            if not expression:
                raise ExpressionError(
                    f"#{words.pick} is the number of a candidate, but nothing was asked for yet; type what to track"
                )
        work = self._call.propose(expression)
        try:
            proposal = work.outcome.result(self._call.seconds_left)
        except TimeoutError:
            return _still_working(work.progress)
        if words.pick is not None and not 0 < words.pick <= len(proposal.tracklets):
            return Answer(message=_no_candidate(words.pick, expression, proposal))
        if not proposal.tracklets:
            return Answer(message=describe_answer(proposal, 0, self._guidance))
        several = None if words.pick is not None else instances_meant(proposal.expression)
        ranks = self._ranks(proposal, steered, words.pick, several)
        ranks = ranks[: max(1, len(self._labels) - heard.place)]
        asked: list[tuple[InstanceState, str]] = []
        for offset, rank in enumerate(ranks):
            place = heard.place + offset
            before = heard.task.objects.get(place) or self._adopted(place)
            asked.append((self._named(before, proposal, rank, alone=several is None), ""))
        if several is None:
            message = describe_answer(proposal, ranks[0], self._guidance)
        else:
            labels = [named.label for named, _ in asked]
            message = describe_instances(proposal, ranks, labels, several.most if several.exact else None)
        self._memory.change(self._key, lambda task: _with_objects(task, [named for named, _ in asked]))
        return self._steer(
            [(named, message if i == 0 else "") for i, (named, _) in enumerate(asked)], proposal, ranks
        )

    def _ranks(
        self,
        proposal: StoredProposal,
        steered: InstanceState,
        pick: int | None,
        several: InstanceCount | None,
    ) -> list[int]:
        if pick is not None:
            return [pick - 1]
        same = steered.expression.casefold() == proposal.expression.casefold()
        if several is None and same and steered.marks and steered.rank < len(proposal.tracklets):
            return [steered.rank]  # clicks were about this candidate
        return choose_candidates(proposal, several)

    def _named(
        self, before: InstanceState, proposal: StoredProposal, rank: int, *, alone: bool
    ) -> InstanceState:
        """The object with what words gave; its clicks stay if they were about the same."""
        tracklet = proposal.tracklets[rank]
        same = before.expression.casefold() == proposal.expression.casefold() and before.rank == rank
        track = tuple(_visible(rle) for rle in tracklet.rles)
        named = replace(
            before,
            label=self._label_for(before.place, proposal, alone=alone),
            expression=proposal.expression,
            attributes=proposal.attributes,
            rank=rank,
            score=tracklet.score,
            track=track,
            anchor=tracklet.prompt.frame,
            marks=before.marks if same else (),
            told=before.told if same else "",
        )
        return named

    # --- SAM 2

    def _steer(
        self,
        asked: Sequence[tuple[InstanceState, str]],
        proposal: StoredProposal | None = None,
        ranks: Sequence[int] = (),
    ) -> Answer:
        """The answer for objects, each with what is told of it where words alone say where it is."""
        result: list[Result] = []
        messages: list[str] = []
        score = 0.0
        media: Media | None = None
        for i, (steered, told) in enumerate(asked):
            follows = steered.marks or (steered.fixed_masks and _agrees(steered))
            if follows:
                media = media or self._call.fetch()
                digest = steered.steering_digest(media.digest, self._call.version)
                wish = self._jobs.request(
                    digest,
                    SteerRequest(
                        media=media.path,
                        fps=media.fps,
                        track=steered.track,
                        anchor=steered.anchor,
                        prompts=steered.frame_marks(),
                        painted=steered.fixed_masks,
                        hidden=steered.hidden_pages,
                    ),
                    owner=(self._call.project_id, self._call.task.id),
                )
                try:
                    answer = wish.future.result(self._call.seconds_left)
                except TimeoutError:
                    return _still_working(wish.progress)
                shown, scores = _shown(answer)
                if self._call.told.marks and not any(mask_area(rle) for rle in shown):
                    return self._nothing_there(steered)
                kept = answer.kept_track or not steered.track
                messages.append(describe_tracked(steered, shown, kept_track=kept, unused=answer.unused))
            else:
                digest = steered.steering_digest("words", self._call.version)
                if proposal is not None:
                    tracklet = proposal.tracklets[ranks[i]]
                    scores = tuple(float(s) for s in tracklet.frame_scores)
                else:
                    scores = (1.0,) * len(steered.track)
                shown = _with_paint(steered)
                messages.append(told + _kept_words(steered, told))
            result += self._regions(steered, shown, scores)
            if shown:
                score = max(score, 0.0 if steered.score is None else steered.score)
            self._remember(steered.with_answer((_visible(rle) for rle in shown), scores, digest))
        return Answer(
            result=tuple(result),
            message=" ".join(message for message in messages if message) or None,
            score=round(min(max(score, 0.0), 1.0), 4),
        )

    def _nothing_there(self, steered: InstanceState) -> Answer:
        """Forget marks that lead to nothing: one slip must not cost what was tracked before."""
        marks = self._call.told.marks

        def change(task: TaskState) -> TaskState:
            now = task.objects.get(steered.place)
            return task if now is None else task.with_object(now.without_marks(marks))

        self._memory.change(self._key, change)
        return Answer(message=describe_no_object(steered, marks))

    def _regions(
        self, steered: InstanceState, shown: tuple[RLE, ...], scores: tuple[float, ...]
    ) -> list[Result]:
        there = set(steered.visible_pages)
        settled: set[int] = set()
        if self._draft is not None:
            drawn = self._draft.series.get(steered.place, {})
            there |= drawn.keys()
            named = self._draft.labels.get(steered.place), self._draft.notes.get(steered.place)
            if self._young and named == (steered.label, steered.expression or steered.label):
                # What stands there already is not sent again: a stroke that no draft has yet would be lost.
                settled = {
                    page
                    for page, rle in drawn.items()
                    if page < len(shown) and fingerprint(shown[page]) == fingerprint(rle)
                }
        track = MaskTrack(shown, np.asarray(scores, dtype=np.float32))
        name = instance_id(self._call.task.id, "", steered.place)
        expression = steered.expression or steered.label
        regions = tracklet_to_frames_regions(
            track,
            self._side,
            instance_id=name,
            expression=expression,
            attributes=steered.attributes,
            label=steered.label,
            skipped_pages=settled | steered.painted.keys(),
            blank_pages=there,
        )
        video, data = self._call.video, self._call.task.data
        if video is not None and shown:
            stride = page_stride(data)
            there_now = () if self._call.task.draft is None else self._call.task.draft.results
            regions += tracklet_to_video_region(
                track,
                video,
                instance_id=name,
                expression=expression,
                attributes=steered.attributes,
                fps=video.fps(data),
                label=steered.label if steered.label in video.labels else None,
                frames=range(0, len(shown) * stride, stride),
                region_texts=_texts_beside(there_now, video.task.region_text, name),
            )
        return regions

    # --- labels

    def _label(self, place: int) -> str:
        return self._labels[min(place, len(self._labels) - 1)]

    def _label_for(self, place: int, proposal: StoredProposal, *, alone: bool) -> str:
        """The label that the words name, else the object's own by its place."""
        if alone and place == 0:
            return choose_label(self._labels, proposal.expression, proposal.attributes) or self._label(place)
        return self._label(place)


def _with_objects(task: TaskState, objects: Sequence[InstanceState]) -> TaskState:
    for steered in objects:
        task = task.with_object(steered)
    return task


def _no_candidate(pick: int, expression: str, proposal: StoredProposal) -> str:
    count = len(proposal.tracklets)
    offer = f"candidates #1 to #{count}" if count > 1 else f"{count or 'no'} candidate"
    return f"There is no #{pick} for “{expression}”: it has {offer}."


def _still_working(progress: str) -> Answer:
    return Answer(message=f"Still working: {progress}. Press Enter again in a while.", late=True)


def _agrees(steered: InstanceState) -> bool:
    """Whether painted pages show what the words gave; if not, words and paint speak of different objects."""
    if not steered.track:
        return True
    overlaps = [
        iou(decode_rle(rle), decode_rle(there)) if there is not None else AGREEMENT
        for page, rle in steered.fixed_masks.items()
        if page < len(steered.track)
        for there in (steered.track[page],)
        if there is None or there["size"] == rle["size"]
    ]
    return not overlaps or sum(overlaps) / len(overlaps) >= AGREEMENT


def _with_paint(steered: InstanceState) -> tuple[RLE, ...]:
    """The track as it stands, with the annotator's own pages in it."""
    sized = next((rle for rle in (*steered.track, *steered.painted.values()) if rle is not None), None)
    if sized is None:
        return ()
    height, width = sized["size"]
    empty = _nothing(height, width)
    masks = [steered.painted.get(page, rle) for page, rle in enumerate(steered.track)]
    return tuple(empty if rle is None else rle for rle in masks)


def _kept_words(steered: InstanceState, told: str) -> str:
    if not steered.painted or not told:
        return ""
    pages = ", ".join(str(page + 1) for page in sorted(steered.painted))
    return (
        f" Kept as you made it: frame {pages}; it shows something else, so the other frames follow the words."
    )


def _shown(answer: SteerAnswer) -> tuple[tuple[RLE, ...], tuple[float, ...]]:
    tracklet = answer.tracklet
    return tracklet.rles, tuple(round(float(score), 4) for score in tracklet.frame_scores)


def _visible(rle: RLE) -> RLE | None:
    return None if fingerprint(rle) == NOTHING else rle


@lru_cache(16)
def _nothing(height: int, width: int) -> RLE:
    return encode_rle(np.zeros((height, width), dtype=bool))


# --- the video


def answer_video(call: Call, side: VideoSide, guidance: Guidance) -> Answer:
    """Answer words about the video, or about one of its box tracks.

    The region that is replaced keeps its label and the text beside it, which Label Studio would forget.

    Args:
        call: The call.
        side: The video side of the project.
        guidance: What the preset says about its answers.

    Raises:
        SteerSegError: It cannot be answered; the message is for the annotator.
    """
    told = call.told
    name = told.region or instance_id(call.task.id, "", 0)
    if told.region is None and not told.texts:
        return Answer()
    words = read_typed_text(told.region_text if told.region else told.texts[-1], side.labels)
    expression = words.expression
    if words.pick is not None:
        expression = next(typed_expressions(told.texts, side.labels), call.own_expression or "")
        if not expression:
            raise ExpressionError(
                f"#{words.pick} is the number of a candidate, but nothing was asked for yet; type what to track"
            )
    work = call.propose(expression)
    try:
        proposal = work.outcome.result(call.seconds_left)
    except TimeoutError:
        return _still_working(work.progress)
    if not proposal.tracklets:
        return Answer(message=describe_answer(proposal, 0, guidance))
    if words.pick is not None and not 0 < words.pick <= len(proposal.tracklets):
        return Answer(message=_no_candidate(words.pick, expression, proposal))
    several = None if words.pick is not None or told.region else instances_meant(proposal.expression)
    ranks = [words.pick - 1] if words.pick is not None else choose_candidates(proposal, several)
    there = [*(() if call.task.draft is None else call.task.draft.results), *call.context]
    media = work.media
    assert media is not None
    result: list[Result] = []
    labels: list[str] = []
    for place, rank in enumerate(ranks):
        region = name if place == 0 else instance_id(call.task.id, "", place)
        label = _region_label(there, region) or words.label
        if label is None and several is not None and side.labels:
            label = side.labels[min(place, len(side.labels) - 1)]
        result += tracklet_to_video_region(
            proposal.tracklets[rank],
            side,
            instance_id=region,
            expression=proposal.expression,
            attributes=proposal.attributes,
            fps=side.fps(call.task.data),
            label=label,
            frames=range(0, len(proposal.tracklets[rank].rles) * media.stride, media.stride),
            region_texts=_texts_beside(there, side.task.region_text, region),
        )
        labels.append(label or f"object {place + 1}")
    score = round(min(max(proposal.tracklets[ranks[0]].score, 0.0), 1.0), 4)
    message = describe_answer(proposal, ranks[0], guidance)
    if several is not None:
        message = describe_instances(proposal, ranks, labels, several.most if several.exact else None)
    return Answer(tuple(result), message, score)


def _region_label(results: Sequence[Mapping[str, Any]], region: str) -> str | None:
    """The label that a box track has now."""
    found = None
    for item in results:
        if str(item.get("id")) == region and item.get("type") in ("videorectangle", "labels"):
            found = next(iter(region_labels(item)), found)
    return found


def _texts_beside(results: Sequence[Mapping[str, Any]], control: str | None, region: str) -> list[str]:
    """The newest texts beside a box track; what comes later counts."""
    texts: list[str] = []
    for item in results:
        if control is not None and item.get("from_name") == control and str(item.get("id")) == region:
            texts = texts_of(item)
    return texts


def video_beside(controls: Controls, task: Task) -> VideoSide | None:
    """The video side, where the task has a video."""
    video = controls.video
    return video if video is not None and task_value(task.data, video.data_key) else None
