"""Examples that a refinement trains and is judged on: corrections and replayed clips."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steerseg.masks import RLE, mask_area
from steerseg.replay import Part

Masks = Mapping[int, RLE | None]


class Pool(enum.StrEnum):
    """Where an example comes from, which decides how often it is drawn."""

    NEW = "new"  # the champion has not seen it
    OLD = "old"  # the champion was trained on it
    PRESET = "preset"  # replayed from what the preset's own prompts were trained on


@dataclass(frozen=True)
class TaskRef:
    """What loads an example's media again; see :class:`ml_backend.label_studio.task_media.MediaLoader`."""

    task_id: int
    data: Mapping[str, Any] = field(repr=False)
    label_config: str = field(repr=False)


@dataclass(frozen=True)
class CorrectionExample:
    """One correction as an example.

    Attributes:
        key: Its name within a refinement: the correction and its revision.
        correction: Number of the correction.
        revision: The revision that was taken.
        video: Digest of the media: what is split, and what the bootstrap draws.
        expression: What is asked for.
        pool: Whether the champion has seen it.
        weight: Of the example, in [0, 1].
        truth: What is to be learned; frames that nobody knows are missing.
        shares: How much each frame of ``truth`` counts within the example, in [0, 1].
        decided: Frames of ``truth`` that an annotator decided: those a candidate is judged by.
        rejected: Masks that are wrong answers.
        num_frames: Of the media.
        height: Of its frames, in pixels.
        width: Of its frames, in pixels.
        task: What loads the media.
    """

    key: str
    correction: int
    revision: str
    video: str
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
        """Its name within a refinement."""
        return f"replay-{self.part}-{self.index}"

    @property
    def video(self) -> str:
        """What the bootstrap draws."""
        return self.key

    @property
    def pool(self) -> Pool:
        return Pool.PRESET

    @property
    def weight(self) -> float:
        return 1.0


Example = CorrectionExample | ReplayExample


def shows_object(rle: RLE | None) -> bool:
    return rle is not None and mask_area(rle) > 0
