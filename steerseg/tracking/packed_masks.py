"""Masks of long videos: each one is brought to the video's size and encoded as soon as it is known.

SAM 2 answers with a grid of floats for each object and frame, 256 KiB at its usual size: hundreds of MiB for a
minute of video. An encoded mask takes a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steerseg.masks import RLE, encode_rle


def mask_at_size(logits: Tensor, height: int, width: int) -> NDArray[np.bool_]:
    """(h, w) mask logits of a whole frame -> its (H, W) mask, as bilinear logits of that size are above 0."""
    # OpenCV, since torch takes eight times as long for a picture of one channel.
    full = cv2.resize(logits.float().cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full) > 0


class PackedTrack:
    """One object's masks, encoded in whatever order its frames come.

    Args:
        frames: How many frames the video has.
        height: Of its frames.
        width: Of its frames.
    """

    def __init__(self, frames: int, height: int, width: int) -> None:
        self._size = (height, width)
        self._rles: list[RLE | None] = [None] * frames
        self.presence: NDArray[np.float32] = np.zeros(frames, dtype=np.float32)

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame.

        Args:
            frame: Index in the video.
            logits: (h, w) mask logits; not kept.
            presence: Probability in [0, 1] that the object is visible.
        """
        self._rles[frame] = encode_rle(mask_at_size(logits, *self._size))
        self.presence[frame] = presence

    @property
    def rles(self) -> tuple[RLE, ...]:
        """One encoded (H, W) mask per frame.

        Raises:
            RuntimeError: A frame is missing.
        """
        known = tuple(rle for rle in self._rles if rle is not None)
        if len(known) != len(self._rles):
            raise RuntimeError("the track is incomplete: some of its frames were not tracked yet")
        return known


class RefilledTrack(PackedTrack):
    """One object's masks, of which some frames come anew; the others stay.

    Args:
        rles: One encoded (H, W) mask per frame.
        presence: (T,) float32 probabilities in [0, 1] that the object is visible.
        frames: The frames that come anew.
        height: Of the video's frames.
        width: Of the video's frames.
    """

    def __init__(
        self,
        rles: Sequence[RLE],
        presence: NDArray[np.float32],
        frames: Iterable[int],
        height: int,
        width: int,
    ) -> None:
        super().__init__(len(rles), height, width)
        self._rles = list(rles)
        self.presence = presence.copy()
        self._anew = frozenset(frames)

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame; frames that stay are passed over."""
        if frame in self._anew:
            super().put(frame, logits, presence)
