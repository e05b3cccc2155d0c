"""Replay of a refinement: clips with known masks, so that new examples do not erase what was known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from steerseg.video import Video

Part = Literal["training", "held_out"]
"""Clips to learn from, and others that a candidate must not be worse on."""


@dataclass(frozen=True)
class ReplayClip:
    """A clip with one expression and its masks, (T, H, W) bool."""

    video: Video
    expression: str
    masks: NDArray[np.bool_] = field(repr=False)


class ReplaySource(Protocol):
    """Clips by number. The same number is the same clip at every time and on every machine."""

    def __call__(self, part: Part, index: int) -> ReplayClip:
        """Make or read a clip.

        Raises:
            ConfigError: There are not as many.
        """
        ...
