"""Label Studio's frame numbers of a video, and the frame that its player shows at each of them.

Label Studio knows no frames, only a frame rate. It shows number ``n`` by seeking the browser's player to
``(n - 1) / rate`` seconds, rounded to steps of 2 ms and one step later. So a number is a time, and which frame it
means depends on the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.controls import VideoSide, frame_rate
from steerseg.video.player import PlayerTimeline

_STEP = 0.002  # seconds; Label Studio's precision of seeking


@dataclass(frozen=True, eq=False)
class FrameNumbers:
    """What Label Studio's player shows of a video.

    Attributes:
        rate: Frames a second by which Label Studio numbers the frames.
        shown: (L,) index of the frame that is shown at number 1, 2, ...
        frames: Frames of the video.
        reachable: Numbers that the player can be taken to: fewer than L where its duration ends too early.
    """

    rate: float
    shown: NDArray[np.int64] = field(repr=False)
    frames: int
    reachable: int

    @classmethod
    def of(cls, timeline: PlayerTimeline, rate: float) -> FrameNumbers:
        """The numbers of a video at a rate."""
        length = max(1, round(max(timeline.duration, timeline.end) * rate))
        seconds = np.round(np.arange(length) / rate / _STEP) * _STEP + _STEP
        return cls(
            rate=rate,
            shown=timeline.frames_at(seconds),
            frames=len(timeline.times),
            reachable=max(1, round(timeline.duration * rate)),
        )

    @classmethod
    def constant(cls, count: int, rate: float) -> FrameNumbers:
        """The numbers of ``count`` frames at the rate by which Label Studio numbers them."""
        return cls(rate, np.arange(count), count, count)

    @property
    def is_plain(self) -> bool:
        """Whether number ``n`` is frame ``n - 1``."""
        return len(self.shown) == self.frames and self.shows_all

    @property
    def shows_all(self) -> bool:
        """Whether number ``n`` is frame ``n - 1`` for all frames, whatever the player shows after the last."""
        return np.array_equal(self.shown[: self.frames], np.arange(self.frames))

    def showing(self, frames: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the numbers at which given frames are shown.

        Args:
            frames: Rising indices of frames.

        Returns:
            (N,) numbers from 0 (Label Studio's less one), and (N,) for each the position in ``frames``.
        """
        wanted = np.asarray(frames, dtype=np.int64)
        positions = np.searchsorted(wanted, self.shown)
        numbers = np.flatnonzero(positions < len(wanted))
        numbers = numbers[wanted[positions[numbers]] == self.shown[numbers]]
        return numbers, positions[numbers]

    def describe_hidden(self) -> str:
        """Say which frames the player never shows and what to do; empty where it shows all but perhaps the last."""
        hidden = self.frames - len(np.unique(self.shown[: self.reachable]))
        if hidden <= 1:
            return ""
        return (
            f"Label Studio's player never shows {hidden} of the {self.frames} frames of this file at {self.rate:g} "
            "frames a second, so boxes on them cannot be seen or corrected. Bring the video to the project by "
            '`steerseg-backend import`, and write frameRate="$fps" into <Video>.'
        )


def numbers_of_video(
    timeline: PlayerTimeline | None, rate: float, pts: NDArray[np.float64] | None = None
) -> FrameNumbers:
    """The numbers of a video file.

    Args:
        timeline: The file's timeline; where it is not known, the file is taken to begin at 0.
        rate: Frames a second by which Label Studio numbers the frames.
        pts: (T,) times of the frames that could be decoded, from the file's start; all frames if not given.

    Raises:
        ValueError: Neither is given.
    """
    if timeline is None:
        if pts is None:
            raise ValueError("neither a timeline nor times were given")
        timeline = PlayerTimeline.of_times(pts)
    elif pts is not None:
        timeline = timeline.decoded(pts)
    return FrameNumbers.of(timeline, rate)


def rate_beside_pages(side: VideoSide, data: Mapping[str, Any]) -> float:
    """Frames a second of a video beside its pages, which is not read: what the task says, else Label Studio's own rate.

    Args:
        side: The video side of the project.
        data: The task's data; ``fps`` is the video's rate.
    """
    return frame_rate(data.get("fps")) or side.fps(data)


def numbers_beside_pages(side: VideoSide, data: Mapping[str, Any], pages: int, stride: int) -> FrameNumbers:
    """The numbers of a video beside its pages, which is taken to have the constant rate that the task names.

    Args:
        side: The video side of the project.
        data: The task's data; see :func:`rate_beside_pages`.
        pages: How many pages the task has.
        stride: Frames of the video from one page to the next.
    """
    timeline = PlayerTimeline.constant((pages - 1) * stride + 1, rate_beside_pages(side, data))
    return FrameNumbers.of(timeline, side.fps(data))
