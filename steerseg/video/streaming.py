"""Videos as streams of pictures: one in memory at a time, however long the video is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steerseg.errors import VideoError
from steerseg.video.decoding import DEFAULT_FPS, FrameStream, VideoLimits, content_digest
from steerseg.video.loading import frame_files, picture_digest, read_image


class PictureStream(Protocol):
    """The pictures of a video, with what is known of them after the last one."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, upright, in display order; iterated once."""

    @property
    def pts(self) -> NDArray[np.float64]:
        """(T,) seconds of the pictures so far, strictly increasing."""

    @property
    def fps(self) -> float:
        """Pictures a second of those so far."""

    @property
    def digest(self) -> str:
        """The digest that :func:`~steerseg.video.load_video` gives the video."""


class FolderStream:
    """The pictures of a folder of frames, in the order of :func:`~steerseg.video.frame_files`.

    Args:
        folder: The folder.
        fps: Frames a second before the stride.
        limits: Limits of each picture.
        stride: Every ``stride``-th frame is given, beginning with the first.
        one_size: Whether all must have one size.
    """

    def __init__(
        self, folder: Path, *, fps: float, limits: VideoLimits, stride: int = 1, one_size: bool = True
    ) -> None:
        self._files = frame_files(folder)[::stride]
        self._limits, self._one_size = limits, one_size
        self._stride, self._rate = stride, fps
        self._count = 0
        self.fps = fps / stride

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures in order.

        Raises:
            VideoError: One cannot be read, or they have several sizes.
        """
        first: tuple[int, ...] | None = None
        for file in self._files:
            image = read_image(file, self._limits)
            first = first or image.shape
            if self._one_size and image.shape != first:
                raise VideoError(
                    f"{file} is {image.shape[1]}x{image.shape[0]}, but {self._files[0].name} is "
                    f"{first[1]}x{first[0]}; all frames of a video must have one size."
                )
            self._count += 1
            yield image

    @property
    def pts(self) -> NDArray[np.float64]:
        """(T,) seconds of the pictures so far."""
        return np.arange(self._count) / self.fps

    @property
    def digest(self) -> str:
        """The digest that :func:`~steerseg.video.load_video` gives the folder."""
        digest = content_digest("folder", f"stride={self._stride}", f"fps={self._rate!r}")
        for file in self._files:
            digest.update(picture_digest(file))
        return digest.hexdigest()


def open_stream(
    source: Path,
    *,
    fps: float | None,
    limits: VideoLimits,
    stride: int = 1,
    square: bool = True,
    one_size: bool = True,
) -> PictureStream:
    """The pictures of a video file or a folder of frames.

    Args:
        source: The file or folder.
        fps: Frames a second of a folder; 25 if not given. Files have their own.
        limits: Limits of each picture; as nothing is kept, the video may be as long as it likes.
        stride: Every ``stride``-th frame is given, beginning with the first.
        square: Of a file: see :class:`~steerseg.video.decoding.FrameStream`.
        one_size: Whether the frames of a folder must have one size.
    """
    if source.is_dir():
        return FolderStream(source, fps=fps or DEFAULT_FPS, limits=limits, stride=stride, one_size=one_size)
    endless = replace(limits, max_duration=math.inf)
    return FrameStream(source, name=str(source), limits=endless, stride=stride, square=square)
