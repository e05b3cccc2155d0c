"""What is exported: the accepted objects of each task, frame by frame, with where every mask comes from."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml_backend.corrections.records import Correction, Evidence
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import page_stride, positive_number, video_stride
from steerseg.errors import ConfigError
from steerseg.masks import RLE, decode_rle, mask_area

Categories = Literal["label", "expression"]
"""What an object's category is: its label in Label Studio, or its expression."""

DEFAULT_FPS = 25.0
"""Stands for the frame rate of a video of which nothing says it."""


class Provenance(enum.StrEnum):
    """Who made a mask."""

    HUMAN = "human"  # an annotator drew or changed it, or said that nothing is visible
    PROPAGATED = "propagated"  # SAM 2 made it from masks of other frames
    PROPOSED = "proposed"  # the backend proposed it, and an annotator accepted it as it was


_TRUSTED = (Provenance.HUMAN, Provenance.PROPAGATED, Provenance.PROPOSED)


@dataclass(frozen=True)
class ExportedMask:
    """One object on one frame.

    Attributes:
        rle: The (H, W) mask; ``None`` where the object is not visible.
        provenance: Who made it.
        confidence: In [0, 1]; 1 for what an annotator made.
        from_box: Whether SAM 2 made it of a box that an annotator drew.
        iou: Overlap in [0, 1] with what was proposed, where that is known.
    """

    rle: RLE | None = field(repr=False)
    provenance: Provenance
    confidence: float
    from_box: bool = False
    iou: float | None = None

    @property
    def visible(self) -> bool:
        """Whether it has any foreground."""
        return self.rle is not None and mask_area(self.rle) > 0


@dataclass(frozen=True)
class ExportedObject:
    """One object of a sequence.

    Attributes:
        correction_id: Number of the correction that it comes from.
        annotation_id: Annotation in Label Studio.
        category: What it is, for formats with classes.
        expression: The instance's expression.
        version: Version of the proposal that it began from, where that is known.
        masks: By frame; frames on which nobody knows whether it is there are missing.
        name: What tells it from the annotation's other instances.
        rejected: Frames on which an annotator rejected it; they stay without a mask.
    """

    correction_id: int
    annotation_id: int
    category: str
    expression: str
    version: str | None
    masks: Mapping[int, ExportedMask] = field(repr=False)
    name: str = ""
    rejected: frozenset[int] = frozenset()

    @property
    def ever_visible(self) -> bool:
        """Whether any frame shows it."""
        return self.visible_on(self.masks)

    def visible_on(self, frames: Iterable[int]) -> bool:
        """Whether any of these frames shows it."""
        return any(index in self.masks and self.masks[index].visible for index in frames)


@dataclass(frozen=True)
class LabelledSequence:
    """The frames of one task with the objects on them.

    Attributes:
        name: Unique in the export, and a valid name of a folder.
        task_id: Task in Label Studio.
        correction: One of its corrections: knows the media.
        num_frames: T.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        fps: Frames a second; :data:`DEFAULT_FPS` of the video where nothing says how many it has.
        stride: Frames of the original video from one page to the next; 1 for a video.
        objects: At least one.
        knows_fps: Whether the task, its configuration or its video says how many frames a second there are.
        video_stride: How the task's video was thinned when it was imported: frames of the original from one of its
            frames to the next. 1 for pages, and where nothing says it.
    """

    name: str
    task_id: int
    correction: Correction = field(repr=False)
    num_frames: int
    height: int
    width: int
    fps: float
    stride: int
    objects: tuple[ExportedObject, ...]
    knows_fps: bool = True
    video_stride: int = 1

    def undecided(self) -> list[int]:
        """Frames on which at least one object is neither known to be there nor known not to be."""
        return [
            index
            for index in range(self.num_frames)
            if any(index not in object_.masks for object_ in self.objects)
        ]

    def decided(self) -> list[int]:
        """The other frames."""
        left_out = set(self.undecided())
        return [index for index in range(self.num_frames) if index not in left_out]

    def partly_decided(self) -> list[int]:
        """Frames on which something is known of at least one object."""
        return sorted({index for object_ in self.objects for index in object_.masks})


def sequences(
    corrections: Iterable[Correction], confidence: float, categories: Categories = "label"
) -> list[LabelledSequence]:
    """The objects of each task, by task.

    Args:
        corrections: What was chosen; see :func:`ml_backend.exporting.selection.select`.
        confidence: Least confidence in [0, 1] of a mask that nobody looked at.
        categories: What categories are.
    """
    by_task: dict[int, list[Correction]] = {}
    for correction in corrections:
        by_task.setdefault(correction.task_id, []).append(correction)
    return [_sequence(task, members, confidence, categories) for task, members in sorted(by_task.items())]


def disjoint(sequence: LabelledSequence, index: int) -> dict[int, NDArray[np.bool_]]:
    """The masks of a frame without overlaps, for formats that give a pixel to one object.

    What an annotator decided stands above what was propagated, and that above what was proposed; among equals
    the smaller mask is on top, since it would vanish otherwise.

    Returns:
        By number of the object from 1, its (H, W) mask; objects that are not visible are missing.
    """
    shown: list[tuple[int, ExportedMask, RLE]] = []
    for number, object_ in enumerate(sequence.objects, start=1):
        mask = object_.masks.get(index)
        if mask is not None and mask.rle is not None and mask.visible:
            shown.append((number, mask, mask.rle))
    shown.sort(key=lambda entry: (_TRUSTED.index(entry[1].provenance), mask_area(entry[2])))
    covered = np.zeros((sequence.height, sequence.width), dtype=bool)
    result = {}
    for number, _, rle in shown:
        own = decode_rle(rle) & ~covered
        covered |= own
        if own.any():
            result[number] = own
    return dict(sorted(result.items()))


def _sequence(
    task: int, corrections: list[Correction], confidence: float, categories: Categories
) -> LabelledSequence:
    first = corrections[0]
    # Pages lie ``stride`` frames apart; the task's rate is that of the video.
    stride = page_stride(first.task_data) if first.side == "frames" else 1
    rate = _stated_fps(first)
    return LabelledSequence(
        name=f"task-{task:06d}",
        task_id=task,
        correction=first,
        num_frames=first.num_frames,
        height=first.height,
        width=first.width,
        fps=(rate or DEFAULT_FPS) / stride,
        stride=stride,
        objects=tuple(
            ExportedObject(
                correction_id=one.id,
                annotation_id=one.annotation_id,
                category=_category(one, categories),
                expression=one.expression,
                version=None if one.proposed is None else one.proposed.version,
                masks=_masks(one, confidence),
                name=one.object,
                rejected=one.undecided,
            )
            for one in corrections
        ),
        knows_fps=rate is not None,
        video_stride=video_stride(first.task_data) if first.side == "video" else 1,
    )


def _stated_fps(correction: Correction) -> float | None:
    """Frames a second of the task's video, by the task or else by its configuration; ``None`` where neither says it."""
    data = correction.task_data
    stated = positive_number(data.get("fps"))
    if stated is not None:
        return stated
    try:
        video = parse_controls(correction.label_config).video
    except ConfigError:
        return None
    return video.given_fps(data) if video is not None and task_value(data, video.data_key) else None


def _category(correction: Correction, categories: Categories) -> str:
    first, second = correction.label, correction.expression
    if categories == "expression":
        first, second = second, first
    return first or second or "object"


def _masks(correction: Correction, confidence: float) -> dict[int, ExportedMask]:
    masks: dict[int, ExportedMask] = {}
    # What fills the frames of a proposal that was accepted as it was is the proposal itself.
    filled = Provenance.PROPAGATED if correction.touched else Provenance.PROPOSED
    for index, frame in correction.propagated.items():
        if frame.confidence >= confidence:
            masks[index] = ExportedMask(frame.rle, filled, frame.confidence)
    for index, decided in correction.frames.items():
        masks[index] = ExportedMask(
            rle=decided.rle,
            provenance=Provenance.HUMAN if decided.touched else Provenance.PROPOSED,
            confidence=decided.confidence,
            from_box=decided.kind is Evidence.BOX and decided.touched,
            iou=decided.iou,
        )
    return dict(sorted(masks.items()))
