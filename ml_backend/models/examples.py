"""Examples that a refinement trains and is judged on: corrections and replayed clips."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steerseg.masks import RLE, mask_area
from steerseg.replay import Part

Masks = Mapping[int, RLE | None]
"""Masks by frame; ``None`` where the object is not visible."""


class Pool(enum.StrEnum):
    """The origin of an example, which decides how often it is drawn."""

    NEW = "new"  # the champion has not seen it
    OLD = "old"  # the champion was trained on it
    PRESET = "preset"  # replayed from what the preset's own prompts were trained on


@dataclass(frozen=True)
class TaskRef:
    """A task, as far as :class:`ml_backend.label_studio.task_media.MediaLoader` needs it to load its media again."""

    task_id: int
    data: Mapping[str, Any] = field(repr=False)
    label_config: str = field(repr=False)


@dataclass(frozen=True)
class CorrectionExample:
    """One correction as an example.

    Attributes:
        key: Identifies it within a refinement: the correction and its revision.
        correction: Number of the correction.
        revision: Revision of the correction.
        video: Digest of the media.
        group: Its video, whose parts count as one (:attr:`ml_backend.corrections.records.Correction.group`): videos in
            this sense are what is split, and what the bootstrap draws.
        expression: The expression.
        pool: Whether the champion has seen it.
        weight: Weight of the example, in [0, 1].
        truth: The masks to learn; frames that nobody knows are missing.
        shares: How much each frame of ``truth`` counts within the example, in [0, 1].
        decided: Frames of ``truth`` that an annotator decided: those a candidate is judged by.
        rejected: Masks that are wrong answers.
        num_frames: Number of frames of the media.
        height: Height of its frames, in pixels.
        width: Width of its frames, in pixels.
        task: Loads the media.
        overlap: Mean IoU in [0, 1] of what was proposed; ``None`` where nothing was.
    """

    key: str
    correction: int
    revision: str
    video: str
    group: str
    expression: str
    pool: Pool
    weight: float
    truth: Masks = field(repr=False)
    shares: Mapping[int, float] = field(repr=False)
    decided: frozenset[int] = field(repr=False)
    rejected: tuple[Masks, ...] = field(repr=False)
    num_frames: int
    height: int
    width: int
    task: TaskRef = field(repr=False)
    overlap: float | None = None

    @property
    def judges(self) -> bool:
        """Whether a candidate can be judged by it: what an annotator decided shows the object."""
        return any(shows_object(rle) for frame, rle in self.truth.items() if frame in self.decided)


@dataclass(frozen=True)
class ReplayExample:
    """One clip of the preset's replay set; see :mod:`steerseg.replay`."""

    part: Part
    index: int

    @property
    def key(self) -> str:
        """Identifies it within a refinement."""
        return f"replay-{self.part}-{self.index}"

    @property
    def group(self) -> str:
        """The clip, as what the bootstrap draws."""
        return self.key

    @property
    def pool(self) -> Pool:
        """Its origin."""
        return Pool.PRESET

    @property
    def weight(self) -> float:
        """Weight of the example; all clips count the same."""
        return 1.0


Example = CorrectionExample | ReplayExample


def shows_object(rle: RLE | None) -> bool:
    """Whether a mask has any pixel; ``None`` stands for an empty one."""
    return rle is not None and mask_area(rle) > 0
