"""The data of tracking: prompts, candidates and tracklets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steerseg.masks import RLE, decode_rle, encode_rle
from steerseg.points import PointPrompt
from steerseg.segmenters.base import DecodedMask, ObjectMemory
from steerseg.tracking.packed_masks import mask_at_size
from steerseg.verification import Opinion

StageProgress = Callable[[float], None]
"""Called with the fraction in [0, 1] of a stage that is done. May raise :class:`steerseg.errors.Cancelled`."""


@dataclass(frozen=True)
class Tracklet:
    """One candidate object over the whole video.

    Attributes:
        rles: One encoded (H, W) mask per frame of the video; empty where the object is not visible.
        frame_scores: (T,) float32, the segmenter's object score as a probability in [0, 1] per frame.
        prompt: The point at which it started.
        score: Rank score (Pearson correlation with the grounding maps) in [-1, 1].
        opinion: What the LVLM thinks of it; ``None`` where it was not asked, or said nothing.
    """

    rles: tuple[RLE, ...] = field(repr=False)
    frame_scores: NDArray[np.float32] = field(repr=False)
    prompt: PointPrompt
    score: float
    opinion: Opinion | None = None

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """(T, H, W) bool."""
        return np.stack([decode_rle(rle) for rle in self.rles])


@dataclass(frozen=True)
class Prompt:
    """A prompt for one object on one frame, by an annotator or a grounding map: clicks and a box, or a mask.

    Attributes:
        frame: Index of the frame in the video.
        points: (x, y) clicks, each coordinate in [0, 1] of the frame's width and height.
        labels: Per click, whether it lies on the object.
        box: (x, y, width, height) in [0, 1].
        mask: (H, W) bool at the video's size; taken as the truth on that frame.
        earlier: (H, W) bool at the video's size; an answer that the clicks or the box correct.
    """

    frame: int
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[bool, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    earlier: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.points) != len(self.labels):
            raise ValueError(f"{len(self.points)} points came with {len(self.labels)} labels; give one each")
        if self.mask is None and not self.points and self.box is None:
            raise ValueError("a prompt needs clicks, a box or a mask")
        if self.mask is not None and (self.points or self.box is not None or self.earlier is not None):
            raise ValueError("a mask prompt is the truth on its frame; give no clicks or box beside it")

    def as_point(self) -> PointPrompt:
        """A point that stands for the prompt: the first click on the object, or the centre of box or mask."""
        x, y = 0.5, 0.5
        if self.mask is not None and self.mask.any():
            rows, columns = np.nonzero(self.mask)
            height, width = self.mask.shape
            x, y = (float(columns.mean()) + 0.5) / width, (float(rows.mean()) + 0.5) / height
        elif any(self.labels):
            x, y = self.points[self.labels.index(True)]
        elif self.box is not None:
            x, y = self.box[0] + self.box[2] / 2, self.box[1] + self.box[3] / 2
        return PointPrompt(frame=self.frame, x=x, y=y, value=1.0)


@dataclass(frozen=True)
class DecodedPrompt:
    """A prompt, as the point that stands for it, and the segmenter's answer to it.

    Attributes:
        point: The point that stands for the prompt.
        answer: The decoded mask.
    """

    point: PointPrompt
    answer: DecodedMask

    @property
    def score(self) -> float:
        """Predicted overlap plus the map's value, in [0, 2]."""
        return self.answer.predicted_iou + self.point.value


@dataclass(frozen=True)
class TrackedFrames:
    """One object on some frames.

    Attributes:
        frames: The F frames, rising.
        logits: (F, h, w) low-resolution mask logits on the CPU.
        presence: (F,) float32 probability in [0, 1] that the object is visible.
    """

    frames: tuple[int, ...]
    logits: Tensor
    presence: NDArray[np.float32]


@dataclass(frozen=True)
class TrackedFrame:
    """What a correction of a tracked frame starts from.

    Attributes:
        conditioned: (1, C, h, w) image features that have attended to the object's memories.
        logits: (1, h, w) low-resolution mask logits that the frame was tracked with.
    """

    conditioned: Tensor
    logits: Tensor


class TrackBuilder:
    """Collects one candidate's answers from both directions of time; a ``MaskSink``.

    Args:
        frames: The frames to collect, rising.
    """

    def __init__(self, frames: tuple[int, ...]) -> None:
        self.frames = frames
        self._index = {frame: index for index, frame in enumerate(frames)}
        self._missing = set(frames)
        self._logits: Tensor | None = None
        self._presence = np.zeros(len(frames), dtype=np.float32)

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame; frames that are not collected are passed over.

        Args:
            frame: Index in the video.
            logits: (h, w) float32 mask logits on the CPU; copied.
            presence: Probability in [0, 1] that the object is visible.
        """
        index = self._index.get(frame)
        if index is None:
            return
        if self._logits is None:
            self._logits = logits.new_empty(len(self.frames), *logits.shape)
        self._logits[index] = logits  # what came may be a part of a block in page-locked memory
        self._presence[index] = presence
        self._missing.discard(frame)

    def track(self) -> TrackedFrames:
        """All frames together.

        Raises:
            RuntimeError: A frame is missing.
        """
        if self._logits is None or self._missing:
            raise RuntimeError("the track is incomplete: some of its frames were not tracked yet")
        return TrackedFrames(self.frames, self._logits, self._presence)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An object that a prompt started, not yet or partly tracked.

    Attributes:
        prompt: The point at which it started.
        score: Predicted overlap plus the map's value at the point, in [0, 2]; the first score.
        predicted_iou: The segmenter's own estimate in [0, 1] of the mask's overlap with the object.
        memories: The object's memories, by prompted frame.
        tracked: Where it was tracked; ``None`` before.
        origin: The frame that it was tracked from when it was corrected; ``None`` where it was not.
    """

    prompt: PointPrompt
    score: float
    predicted_iou: float
    memories: dict[int, ObjectMemory] = field(repr=False)
    tracked: TrackedFrames | None = field(default=None, repr=False)
    origin: int | None = None

    @property
    def first_frame(self) -> int:
        """The frame that tracking goes from, in both directions of time: the first that was prompted at the start.

        Corrections do not move it, so that the frames between it and a correction are tracked as they were before.
        """
        return min(self.memories) if self.origin is None else self.origin


@dataclass(frozen=True, eq=False)
class Propagation:
    """Candidates tracked over some frames.

    Attributes:
        candidates: The N candidates.
        frames: The F frames, rising.
        logits: (N, F, h, w) low-resolution mask logits on the CPU; the grid covers the whole frame.
        frame_scores: (N, F) float32 probability in [0, 1] that the object is visible.
        height: Of the video's frames.
        width: Of the video's frames.
    """

    candidates: tuple[Candidate, ...]
    frames: tuple[int, ...]
    logits: Tensor = field(repr=False)
    frame_scores: NDArray[np.float32] = field(repr=False)
    height: int
    width: int

    def soft_masks(self) -> Tensor:
        """(N, F, h, w) float32 probabilities in [0, 1] on the segmenter's own grid."""
        return self.logits.float().sigmoid()

    def frame_masks(self, index: int) -> Iterator[NDArray[np.bool_]]:
        """The (H, W) bool masks of one candidate at the video's size, frame by frame."""
        for logits in self.logits[index]:
            yield mask_at_size(logits, self.height, self.width)

    def masks(self, index: int) -> NDArray[np.bool_]:
        """(F, H, W) bool masks of one candidate at the video's size."""
        return np.stack(list(self.frame_masks(index)))

    def on(self, frames: Sequence[int]) -> Propagation:
        """The candidates on some of the frames, rising."""
        indices = [self.frames.index(frame) for frame in frames]
        return replace(
            self,
            frames=tuple(frames),
            logits=self.logits[:, indices],
            frame_scores=self.frame_scores[:, indices],
        )

    def tracklets(self) -> tuple[Tracklet, ...]:
        """The candidates as tracklets of these frames, with a score of 0 until they are ranked."""
        return tuple(
            Tracklet(
                rles=tuple(encode_rle(mask) for mask in self.frame_masks(i)),
                frame_scores=self.frame_scores[i],
                prompt=candidate.prompt,
                score=0.0,
            )
            for i, candidate in enumerate(self.candidates)
        )
