"""The part of the contract about a step of a training that several workers share.

The gradients of a step are sums over its rows, so any worker computes those of any row. Prompts and gradients travel in
the messages: two matrices of some hundred kilobytes. It is plain data, as in :mod:`ml_backend.models.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steerseg.config import Placement


@dataclass(frozen=True)
class StepRow:
    """One pass of a training step: an example's question about its whole video, or about one image of it.

    Attributes:
        key: Key of the example.
        image: Index of the image; ``None`` for the whole video.
        tokens: Visual tokens that the model reads, which are frames times tokens of a frame.
    """

    key: str
    image: int | None
    tokens: int

    @property
    def shape(self) -> tuple[bool, int]:
        """What its cost depends on: whether it is about a video, and its tokens."""
        return self.image is None, self.tokens


@dataclass(frozen=True, eq=False)
class PromptMatrices:
    """The soft prompts of a step, in the message itself.

    Attributes:
        frame: (n, d) float32, for frame passes.
        video: (n, d) float32, for video passes.
        placement: Their position in the chat.
    """

    frame: NDArray[np.float32] = field(repr=False)
    video: NDArray[np.float32] = field(repr=False)
    placement: Placement


@dataclass(frozen=True, eq=False)
class StepGradients:
    """The gradients of one whole step.

    Attributes:
        step: The step, from 0.
        frame: (n, d) float32 of the frame prompt; ``None`` where no row is of an image.
        video: (n, d) float32 of the video prompt; ``None`` where no row is of a video.
        loss: The loss before the step, without the anchor's.
    """

    step: int
    frame: NDArray[np.float32] | None = field(repr=False)
    video: NDArray[np.float32] | None = field(repr=False)
    loss: float


@dataclass(frozen=True)
class GradientRequest:
    """Compute a share of a step's gradients.

    Attributes:
        folder: Folder of the refinement.
        features: Folder of vision features.
        prompts: The soft prompts of the step.
        rows: The share: one row at least.
        videos: How many rows of the whole step are of videos.
        images: How many rows of the whole step are of images.
    """

    folder: Path
    features: Path
    prompts: PromptMatrices
    rows: tuple[StepRow, ...] = field(repr=False)
    videos: int
    images: int


@dataclass(frozen=True, eq=False)
class GradientShare:
    """The gradients of a share, or of the part that was done before something more urgent came.

    Attributes:
        frame: (n, d) float32 of the frame prompt; ``None`` where no row that was done is of an image.
        video: (n, d) float32 of the video prompt; ``None`` where no row that was done is of a video.
        loss: Their part of the step's loss.
        left: The rows that were not done.
        seconds: By shape of a row, how long one took.
    """

    frame: NDArray[np.float32] | None = field(repr=False)
    video: NDArray[np.float32] | None = field(repr=False)
    loss: float
    left: tuple[StepRow, ...] = field(repr=False)
    seconds: Mapping[tuple[bool, int], float] = field(repr=False)
