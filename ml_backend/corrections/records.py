"""Corrections: what an annotator accepted for one object of one task, with what had been proposed.

A correction is made in two steps. *Ingestion* (:mod:`ml_backend.corrections.ingestion`) turns an annotation
into what its annotator decided, frame by frame, without looking at the media: that needs nothing but the
annotation, and is committed together with the note that its webhook was processed. *Completion*
(:mod:`ml_backend.corrections.completion`) then fetches the media, checks sizes, turns boxes into masks,
compares with the proposal, and propagates masks to the frames that nobody decided. Only completed corrections
are usable.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from ml_backend.corrections.grouping import group_of
from ml_backend.database.tables import ProposalKey
from ml_backend.models.geometry import Box, TrackBox
from ml_backend.models.messages import PropagatedFrame
from ml_backend.settings import Settings
from steerseg.masks import RLE, mask_area

Side = Literal["frames", "video"]
"""Which media of a task the frame numbers count: the pages of ``valueList``, or the frames of the video."""


class Evidence(enum.StrEnum):
    """What an annotator's decision on a frame consists of."""

    MASK = "mask"  # a mask: brush, bitmask, polygon or vector
    BOX = "box"  # a box, from which SAM 2 made a mask: weaker
    EMPTY = "empty"  # the object is not visible there


class Verdict(enum.StrEnum):
    """The annotator's choice for the whole task."""

    ACCEPT = "accept"
    REJECT = "reject"
    NOT_VISIBLE = "not visible"


class Problem(enum.StrEnum):
    """Why a correction is set aside."""

    EMPTY = "empty"  # nothing anywhere, and nobody said that nothing is visible
    UNREADABLE = "unreadable"  # a region is malformed
    NO_EXPRESSION = (
        "no expression"  # nothing says what the object is; of releases before instances without words
    )
    FRAME_RATE = "another frame rate"  # a track is numbered at another rate than the video's
    WRONG_SIZE = "wrong size"  # masks and media differ in size, or a frame is beyond the end
    MEDIA_GONE = "media gone"  # the video or its pages cannot be had any more; tried again later
    NO_MASK = "no mask"  # SAM 2 found nothing that fills the boxes
    MODEL = "model"  # the model failed; tried again later
    RETURNED = "returned"  # by a reviewer, until it is changed or accepted


TRIED_AGAIN = (Problem.MEDIA_GONE, Problem.MODEL)
"""What may have passed when a project is read the next time."""


@dataclass(frozen=True)
class Weights:
    """How much a frame counts in training.

    Attributes:
        corrected: A mask that the annotator drew or changed.
        untouched: Factor for a proposal that was accepted as it was.
        box: Factor for what a box track says: the masks that SAM 2 made of it, and that nothing is beside it.
    """

    corrected: float = 1.0
    untouched: float = 0.5
    box: float = 0.5

    @classmethod
    def from_settings(cls, settings: Settings) -> Weights:
        """The weights that the settings name."""
        return cls(untouched=settings.untouched_weight, box=settings.box_weight)

    def of(self, kind: Evidence, touched: bool, confidence: float = 1.0) -> float:
        """The weight of one frame; the less certain a proposal was, the less its acceptance counts."""
        weight = self.corrected if touched else self.corrected * self.untouched * confidence
        return weight * self.box if kind is Evidence.BOX else weight


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True)
class FrameCorrection:
    """What an annotator decided on one frame.

    Attributes:
        kind: What the decision consists of.
        rle: The (H, W) mask; ``None`` for :attr:`Evidence.EMPTY`.
        boxes: The upright boxes around what was drawn, for :attr:`Evidence.BOX`: several where the object is in
            several tracks.
        touched: Whether it differs from what was proposed; ``True`` where nothing was.
        weight: How much it counts in training, in [0, 1].
        iou: Overlap in [0, 1] with what was proposed for this frame (1 where both are empty); ``None`` where
            nothing was proposed, or the proposal is no longer there.
        confidence: In [0, 1]; 1 for what the annotator made, the backend's own for what it proposed.
    """

    kind: Evidence
    rle: RLE | None = field(repr=False)
    boxes: tuple[Box, ...]
    touched: bool
    weight: float
    iou: float | None
    confidence: float = 1.0


@dataclass(frozen=True)
class ProposalReference:
    """The proposal that a correction began from.

    Attributes:
        key: Content, expression and prompt version of the proposal.
        path: Its file, relative to the data folder; see :class:`ml_backend.proposals.ProposalFiles`.
        rank: Which of its tracklets, from 0.
    """

    key: ProposalKey
    path: str
    rank: int

    @property
    def version(self) -> str:
        """Name of the version that proposed, as Label Studio shows it."""
        return self.key.version


@dataclass(frozen=True)
class Correction:
    """One object of one annotation, ready to be learned from.

    Attributes:
        id: Number of the correction; it stays when the annotation is changed.
        revision: Hash of all that a refinement can see of it; a changed annotation changes it.
        project_id: Project in Label Studio.
        task_id: Task in Label Studio.
        annotation_id: Annotation in Label Studio.
        object: Name of the instance within the annotation: its label, numbered from the second one on.
        expression: The expression that it stands for; empty where nothing says it: then it is exported, and trains
            nothing.
        media_digest: Key of the media, as in :class:`ml_backend.database.tables.ProposalKey`.
        task_data: The task's data, with which
            :class:`ml_backend.label_studio.task_media.MediaLoader` loads the media again.
        label_config: The labelling configuration by which the annotation was read; names the keys of the data.
        side: Which media the frame numbers count.
        num_frames: T of the media.
        height: Of its frames, in pixels.
        width: Of its frames, in pixels.
        frames: By decode index (page index on the frames side), what the annotator decided.
        propagated: By index, what SAM 2 made of the other frames; may lack some, or all.
        proposed: What it began from; ``None`` where that is not known.
        verdict: The annotator's choice; ``None`` where none was made.
        lead_time: Seconds of work, where Label Studio tells.
        created_at: When the annotation was created.
        updated_at: When the annotation was last changed, by Label Studio's clock.
        changed_at: When it last became usable.
        label: Its class in Label Studio; empty where it has none.
        undecided: Frames on which the annotator accepted nothing, and which nothing fills.
        notes: What a person should know of it.
        ground_truth: Whether its annotation carries Label Studio's star.
        content: Hash of what its annotation shows, whoever made it: the same for a copy.
    """

    id: int
    revision: str
    project_id: int
    task_id: int
    annotation_id: int
    object: str
    expression: str
    media_digest: str
    task_data: Mapping[str, Any] = field(repr=False)
    label_config: str = field(repr=False)
    side: Side
    num_frames: int
    height: int
    width: int
    frames: Mapping[int, FrameCorrection] = field(repr=False)
    propagated: Mapping[int, PropagatedFrame] = field(repr=False)
    proposed: ProposalReference | None
    verdict: Verdict | None
    lead_time: float | None
    created_at: datetime | None
    updated_at: datetime | None
    changed_at: datetime
    label: str = ""
    undecided: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    ground_truth: bool = False
    content: str = ""

    @property
    def group(self) -> str:
        """Its video, as what is independent of others: parts of one video have the same."""
        return group_of(self.task_data, self.media_digest)

    @property
    def rejected(self) -> bool:
        """Whether the proposal was rejected: an example for ranking, never a mask for training."""
        return self.verdict is Verdict.REJECT

    @cached_property
    def masks(self) -> dict[int, RLE | None]:
        """The decided masks by frame, ``None`` where not visible; none at all of a rejected one."""
        return {} if self.rejected else {index: frame.rle for index, frame in sorted(self.frames.items())}

    @cached_property
    def visible(self) -> bool:
        """Whether any decided frame shows the object."""
        return any(rle is not None and mask_area(rle) > 0 for rle in self.masks.values())

    @property
    def touched(self) -> bool:
        """Whether the annotator changed anything."""
        return any(frame.touched for frame in self.frames.values())

    @property
    def weight(self) -> float:
        """Weight of the whole correction in [0, 1]: of its heaviest frame."""
        return max((frame.weight for frame in self.frames.values()), default=0.0)

    @property
    def iou(self) -> float | None:
        """Mean overlap with the proposal over the decided frames; ``None`` where nothing can be compared."""
        known = [frame.iou for frame in self.frames.values() if frame.iou is not None]
        return sum(known) / len(known) if known else None

    def filled(self, confidence: float) -> dict[int, RLE | None]:
        """Decided masks, and propagated ones of at least this confidence, by frame."""
        if self.rejected:
            return {}
        sure = {i: frame.rle for i, frame in self.propagated.items() if frame.confidence >= confidence}
        return dict(sorted((sure | self.masks).items()))


@dataclass(frozen=True)
class DecidedFrame:
    """What an annotation says about one frame, read without the media.

    Attributes:
        rle: The mask, where there is one.
        boxes: The boxes, where there are some; neither where the object is not visible.
        changed: Whether Label Studio says that the region was changed; ``None`` where it does not say.
        confidence: How certain the proposed region was, in [0, 1]; ``None`` where it does not say.
    """

    rle: RLE | None = field(repr=False)
    boxes: tuple[TrackBox, ...] = ()
    changed: bool | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Decision:
    """One object of one annotation, as ingestion reads it.

    Attributes:
        object: See :class:`Correction`.
        expression: See :class:`Correction`.
        side: Which media the frame numbers count.
        frames: By index, what the annotation shows; frames that it says nothing about are missing.
        absent_elsewhere: Whether frames that are missing were decided to be empty, as by the verdict
            *not visible*.
        erased: Whether a missing frame is empty where a mask had been proposed for it: regions of the proposal
            are still there, so that those which are not were deleted.
        verdict: The annotator's choice.
        proposed_expression: The expression of the regions' proposal, where they note it.
        parent_prediction: Number of the prediction in Label Studio that the annotation began from.
        task_data: The task's data.
        label_config: The labelling configuration.
        lead_time: Seconds of work.
        created_at: Of the annotation.
        updated_at: Of the annotation.
        problem: Why it cannot be used, with the reason for a person.
        label: See :class:`Correction`.
        undecided: See :class:`Correction`.
        notes: See :class:`Correction`.
        numbering: How many frames a box track counts, and how many a second, where it says so.
    """

    object: str
    expression: str
    side: Side
    frames: Mapping[int, DecidedFrame] = field(repr=False)
    absent_elsewhere: bool
    erased: bool
    verdict: Verdict | None
    proposed_expression: str | None
    parent_prediction: int | None
    task_data: Mapping[str, Any] = field(repr=False)
    label_config: str = field(repr=False)
    lead_time: float | None
    created_at: datetime | None
    updated_at: datetime | None
    problem: tuple[Problem, str] | None = None
    label: str = ""
    undecided: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    numbering: tuple[int, float] | None = None


@dataclass(frozen=True)
class Completion:
    """What completion adds to a decision; see :class:`Correction` for the fields."""

    media_digest: str
    num_frames: int
    height: int
    width: int
    frames: Mapping[int, FrameCorrection] = field(repr=False)
    propagated: Mapping[int, PropagatedFrame] = field(repr=False)
    proposed: ProposalReference | None


@dataclass(frozen=True)
class SetAsideCorrection:
    """A correction that cannot be used, and why."""

    id: int
    project_id: int
    task_id: int
    annotation_id: int
    object: str
    problem: Problem
    reason: str
    since: datetime


@dataclass(frozen=True)
class CorrectionCounts:
    """How a project's corrections stand.

    Attributes:
        usable: Ready for refinement, rejected ones included.
        changed: Of these, corrected by the annotator.
        untouched: Of these, proposals accepted as they were.
        rejected: Of these, proposals rejected.
        pending: Waiting for media or model.
        set_aside: Unusable.
        skipped: Annotations that were skipped (cancelled) by their annotators.
        unprocessed: Webhook events that are committed but not yet processed.
    """

    usable: int
    changed: int
    untouched: int
    rejected: int
    pending: int
    set_aside: int
    skipped: int
    unprocessed: int

    def __str__(self) -> str:
        parts = [f"{self.usable} usable"]
        if self.usable:
            parts[0] += f" ({self.changed} corrected, {self.untouched} accepted, {self.rejected} rejected)"
        for number, name in (
            (self.pending, "pending"),
            (self.set_aside, "set aside"),
            (self.skipped, "skipped"),
            (self.unprocessed, "events waiting"),
        ):
            if number:
                parts.append(f"{number} {name}")
        return ", ".join(parts)
