"""The interface of a segmenter: encode frames, decode prompts, encode memories, and step.

A segmenter is frozen and keeps nothing of a video: features and memories are handed out and in again. The driver
(:mod:`steerseg.tracking`) decides when it computes, and what is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = tuple[Tensor, ...]
"""Image features of one frame: (C, h, w) of each level, lowest resolution last."""


@dataclass(frozen=True)
class DecodedMask:
    """The answer to one prompt on its frame, without a batch dimension.

    Attributes:
        predicted_iou: The segmenter's own estimate in [0, 1] of the mask's overlap with the object.
        logits: (h, w) low-resolution mask logits; the grid covers the whole frame.
        mask: (h, w) bool on the CPU, where the logits are above 0.
        input_logits: (S, S) mask logits at the segmenter's input size.
        pointer: (C,) object pointer.
        presence: (1,) object score logit.
        clicked: Whether clicks or a box led to it, and not a mask.
    """

    predicted_iou: float
    logits: Tensor
    mask: Tensor
    input_logits: Tensor
    pointer: Tensor
    presence: Tensor
    clicked: bool


@dataclass(frozen=True)
class ObjectMemory:
    """The memory of one object on one prompted frame, without a batch dimension.

    Attributes:
        logits: (h, w) low-resolution mask logits.
        pointer: (C,) object pointer.
        presence: (1,) object score logit.
        spatial: Spatial memory, in a shape of the segmenter's own.
    """

    logits: Tensor
    pointer: Tensor
    presence: Tensor
    spatial: Tensor


@dataclass(frozen=True)
class AttendedMemories:
    """Which memories a step attends to.

    Attributes:
        spatial: (temporal position, index on the path) of each spatial memory.
        pointers: (distance in steps, index on the path) of each object pointer.
        span: Divisor of the distances.
    """

    spatial: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]
    span: int


class MemoryReach(NamedTuple):
    """For how many steps a memory may still be attended to.

    Attributes:
        spatial: Steps of a spatial memory.
        pointers: Steps of an object pointer, at least as many.
    """

    spatial: int
    pointers: int


class StepOutput(NamedTuple):
    """The output of a step for N objects.

    Attributes:
        logits: (N, h, w) float32 low-resolution mask logits; the grid covers the whole frame.
        pointers: (N, C) object pointers.
        spatial: (N, ...) spatial memories.
        presence: (N,) float32 probability in [0, 1] that the object is visible.
    """

    logits: Tensor
    pointers: Tensor
    spatial: Tensor
    presence: Tensor


class Segmenter(Protocol):
    """A frozen segmenter of the SAM 2 family: spatial memories and object pointers carry an object through time.

    Attributes:
        model: The frozen network.
        version: Name and hash of configuration and weights.
        device: Where the network is.
    """

    model: Any
    version: str
    device: torch.device

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's features on a GPU, estimated before any frame is encoded."""
        ...

    @property
    def logits_side(self) -> int:
        """Side of the low-resolution mask logits."""
        ...

    @property
    def memory_reach(self) -> MemoryReach:
        """How long memories count."""
        ...

    def forget_steps(self) -> None:
        """Drop captured steps, where there are any, with the memory that they hold."""
        ...

    def encode_frames(self, frames: NDArray[np.uint8]) -> list[Features]:
        """Encode frames.

        Args:
            frames: (B, H, W, 3) uint8 RGB.
        """
        ...

    def decode_clicks(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        earlier: NDArray[np.bool_] | None = None,
    ) -> list[DecodedMask]:
        """Decode one set of clicks a row, without memory of other frames; see :meth:`decode_correction` for with.

        Args:
            levels: (N, C, h, w) features of each row's frame, of each level.
            positions: (N, P, 2) float32 x and y in [0, 1] of the frame.
            labels: (N, P) int32: 1 on the object, 0 beside it, 2 and 3 on the first and last corner of a box.
            earlier: (H, W) bool; a mask that the clicks of a single row correct.
        """
        ...

    def decode_correction(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        conditioned: Tensor,
        logits: Tensor,
    ) -> DecodedMask:
        """Decode clicks that correct a tracked frame.

        Args:
            levels: (1, C, h, w) features of the frame, of each level.
            positions: (1, P, 2) float32 x and y in [0, 1] of the frame.
            labels: (1, P) int32, as :meth:`decode_clicks` takes them.
            conditioned: (1, C, h, w) features of the frame that have attended to the object's memories.
            logits: (1, h, w) low-resolution mask logits that the frame was tracked with.
        """
        ...

    def decode_mask(self, levels: Sequence[Tensor], mask: NDArray[np.bool_]) -> DecodedMask:
        """Take a mask as the truth on its frame.

        Args:
            levels: (1, C, h, w) features of the frame, of each level.
            mask: (H, W) bool; covers the whole frame.
        """
        ...

    def encode_memories(self, levels: Sequence[Tensor], decoded: Sequence[DecodedMask]) -> list[ObjectMemory]:
        """Turn decoded masks into the memories that condition other frames.

        Args:
            levels: (N, C, h, w) features of each mask's frame, of each level.
            decoded: N masks, all from clicks or all from masks.
        """
        ...

    def attended_memories(self, index: int, prompted: Collection[int], num_frames: int) -> AttendedMemories:
        """Choose the memories of a step, on a path whose earlier indices are all known.

        Args:
            index: Of the step, counted from the path's start.
            prompted: Indices with a prompt, in their order; negative ones lie behind the start.
            num_frames: Of the video.
        """
        ...

    def attend(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        spatial: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> Tensor:
        """Features of N frames that have attended to memories: (N, C, h, w); arguments as of :meth:`step`."""
        ...

    def step(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        spatial: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> StepOutput:
        """Track N objects on one frame each, and remember them there.

        Args:
            attended: The chosen memories.
            levels: (N, C, h, w) features of each row's frame, of each level.
            spatial: (N, ...) of each entry of ``attended.spatial``.
            pointers: (N, C) of each entry of ``attended.pointers``.
            distances: (P,) float32 distances of ``attended.pointers``, on the device.
        """
        ...

    @property
    def captures_steps(self) -> bool:
        """Whether steps are captured as CUDA graphs and replayed."""
        ...

    @property
    def capture_seconds(self) -> float:
        """Seconds that capturing steps has taken so far."""
        ...

    def capturing_at_once(self) -> AbstractContextManager[None]:
        """Inside, a form of a step is captured when it is first seen; a memory was encoded before."""
        ...
