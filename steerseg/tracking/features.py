"""Image features of one video, kept within a budget of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.runtime.memory import to_host
from steerseg.segmenters.base import Features
from steerseg.video.frame_file import release_memory
from steerseg.video.loading import Video

STREAMED_FRAMES = 128
"""Features that are kept of a video that is too long to keep all: those of the keyframes, and of the frames that the
paths of a batch look ahead to."""

_READ_BYTES = 64 << 20  # of frames that lie in a file, after which their memory is released


class EncodedVideo:
    """A video with the image features of the frames that were needed so far.

    Features are kept up to ``budget`` bytes, least recently used first out; within it every frame is encoded
    once, however many expressions and candidates ask for it. A video whose features do not all fit is passed
    through in order anyway, and would have lost each one before it comes again: of such a video no more is kept
    than one batch of objects needs.

    Args:
        video: The video.
        device: Where features are kept.
        budget: Bytes of features.
    """

    def __init__(self, video: Video, device: torch.device, budget: int) -> None:
        self.frames: NDArray[np.uint8] = video.frames
        self.device = device
        self.budget = budget
        self._bytes = 0
        self._read = 0
        # No plain LRU cache: frames of the current step stay, however long ago they were used.
        self._features: OrderedDict[int, Features] = OrderedDict()

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.frames.shape[2])

    @property
    def size(self) -> int:
        """Bytes of the frames and of the features that are kept now."""
        return int(self.frames.nbytes) + self._bytes

    @property
    def is_long(self) -> bool:
        """Whether there are more frames than may be encoded before they are needed."""
        return len(self) > STREAMED_FRAMES

    def missing(self, frames: Sequence[int]) -> list[int]:
        """Those of ``frames`` whose features are not there, each once, rising."""
        return sorted({frame for frame in frames if frame not in self._features})

    def store(self, frame: int, features: Features, wanted: Sequence[int]) -> None:
        """Store a frame's features; over budget, drop the longest unused frame that is not ``wanted``."""
        self._features[frame] = features
        self._bytes += _size(features)
        budget = self.budget
        if _size(features) * len(self) > budget:
            budget = min(budget, STREAMED_FRAMES * _size(features))
        while self._bytes > budget:
            oldest = next((f for f in self._features if f not in wanted), None)
            if oldest is None:
                return
            self._bytes -= _size(self._features.pop(oldest))

    def move_to_host(self) -> None:
        """Keep features in the host's memory from now on."""
        self.device = torch.device("cpu")
        for frame, features in self._features.items():
            self._features[frame] = tuple(to_host(level) for level in features)

    def release_read(self, count: int) -> None:
        """Count ``count`` frames as read; now and then, release their memory where they lie in a file."""
        self._read += count * int(self.frames[0].nbytes)
        if self._read >= _READ_BYTES:
            self._read = 0
            release_memory(self.frames)

    def get(self, frame: int) -> Features:
        """Features of a frame that is not missing."""
        self._features.move_to_end(frame)
        return self._features[frame]


def _size(features: Features) -> int:
    return sum(level.numel() * level.element_size() for level in features)
