"""Point prompts -> tracklets, by SAM 2: frames encoded once, candidates decoded and propagated as batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from steerseg.masks import RLE, decode_rle
from steerseg.points import PointPrompt


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
