"""The data of tracking: prompts, candidates, memories and tracklets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steerseg.masks import RLE, decode_rle, encode_rle
from steerseg.points import PointPrompt
from steerseg.tracking.packed_masks import mask_at_size

StageProgress = Callable[[float], None]
"""Called with the fraction in [0, 1] of a stage that is done. May raise :class:`steerseg.errors.Cancelled`."""


@dataclass(frozen=True)
class Tracklet:
    """One candidate object over the whole video.

    Attributes:
        rles: One encoded (H, W) mask per frame of the video; empty where the object is not visible.
        frame_scores: (T,) float32, SAM 2's object score as a probability in [0, 1] per frame.
        prompt: The point that started it.
        score: Rank score (Pearson correlation with the grounding maps) in [-1, 1].
    """

    rles: tuple[RLE, ...] = field(repr=False)
    frame_scores: NDArray[np.float32] = field(repr=False)
    prompt: PointPrompt
    score: float

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """(T, H, W) bool."""
        return np.stack([decode_rle(rle) for rle in self.rles])


@dataclass(frozen=True)
class Prompt:
    """What a person, or a map, says about one object on one frame: clicks and a box, or a mask.

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

    def place(self) -> PointPrompt:
        """A point that stands for the prompt: the first click on the object, or the middle of box or mask."""
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
class Memory:
    """What SAM 2 keeps of one object on one frame, without a batch dimension.

    Attributes:
        logits: (h, w) low-resolution mask logits.
        pointer: (C,) object pointer.
        presence: (1,) object score logit.
        features: (C_mem, h_mem, w_mem) spatial memory.
    """

    logits: Tensor
    pointer: Tensor
    presence: Tensor
    features: Tensor


@dataclass(frozen=True)
class Decoded:
    """SAM 2's answer to one prompt.

    Attributes:
        point: What stands for the prompt.
        iou: Predicted overlap in [0, 1].
        logits: (h, w) low-resolution mask logits.
        mask: (h, w) bool on the CPU, where they are above 0.
        large: (S, S) mask logits at the model's input size.
        pointer: (C,) object pointer.
        presence: (1,) object score logit.
        clicked: Whether clicks or a box led to it, and not a mask.
    """

    point: PointPrompt
    iou: float
    logits: Tensor
    mask: Tensor
    large: Tensor
    pointer: Tensor
    presence: Tensor
    clicked: bool

    @property
    def score(self) -> float:
        """Predicted overlap plus the map's value."""
        return self.iou + self.point.value


@dataclass(frozen=True)
class TrackedFrames:
    """One object on some frames: (F, h, w) mask logits and (F,) presence in [0, 1]."""

    frames: tuple[int, ...]
    logits: Tensor
    presence: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An object that a prompt started, not yet or partly tracked.

    Attributes:
        prompt: Where it started.
        score: Predicted overlap plus the map's value at the point, in [0, 2]; the first score.
        predicted_iou: SAM 2's own estimate in [0, 1] of the mask's overlap with the object.
    """

    prompt: PointPrompt
    score: float
    predicted_iou: float
    _memories: dict[int, Memory] = field(repr=False)
    _track: TrackedFrames | None = field(default=None, repr=False)


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
        """(N, F, h, w) float32 probabilities in [0, 1] on SAM 2's own grid."""
        return self.logits.float().sigmoid()

    def frame_masks(self, index: int) -> Iterator[NDArray[np.bool_]]:
        """The (H, W) bool masks of one candidate at the video's size, frame by frame."""
        for logits in self.logits[index]:
            yield mask_at_size(logits, self.height, self.width)

    def masks(self, index: int) -> NDArray[np.bool_]:
        """(F, H, W) bool masks of one candidate at the video's size."""
        return np.stack(list(self.frame_masks(index)))

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
