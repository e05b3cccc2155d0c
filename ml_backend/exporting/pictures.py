"""The pictures of a sequence: pages as they are, frames of a video one at a time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from steerseg.errors import VideoError
from steerseg.video import DEFAULT_LIMITS, frame_files
from steerseg.video.decoding import stream_frames

JPEG_QUALITY = 95
_ROTATION = 0x0112  # EXIF's number for how a picture is to be turned


class Pictures(Protocol):
    """The frames of a sequence."""

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB frames in order, one at a time.

        Raises:
            VideoError: They cannot be read.
        """
        ...

    def jpegs(self) -> Iterator[bytes]:
        """The same as JPEG files.

        Raises:
            VideoError: They cannot be read.
        """
        ...


@dataclass(frozen=True)
class VideoPictures:
    """The frames of a video file.

    Attributes:
        path: The file.
        size: Height and width of the masks; ``None`` where nothing is known of them. Masks of a video whose pixels
            are not square may be as large as its stored frames.
    """

    path: Path
    size: tuple[int, int] | None = None

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See :class:`Pictures`."""
        square = self.size is None or self._size(square=True) == self.size
        if not square and self._size(square=False) != self.size:
            height, width = self._size(square=True)
            raise VideoError(
                f"{self.path.name} has frames of {width} x {height}, its masks have another size"
            )
        return self._stream(square=square)

    def _size(self, *, square: bool) -> tuple[int, int]:
        height, width, _ = next(self._stream(square=square)).shape
        return height, width

    def _stream(self, *, square: bool) -> Iterator[NDArray[np.uint8]]:
        return stream_frames(self.path, name=self.path.name, limits=DEFAULT_LIMITS, square=square)

    def jpegs(self) -> Iterator[bytes]:
        """See :class:`Pictures`."""
        return (_jpeg(Image.fromarray(frame)) for frame in self.frames())


@dataclass(frozen=True)
class PagePictures:
    """A folder of pages, ordered by name."""

    folder: Path

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See :class:`Pictures`."""
        for file in frame_files(self.folder):
            yield np.asarray(_open(file))

    def jpegs(self) -> Iterator[bytes]:
        """See :class:`Pictures`. JPEG pages that need no turning are passed on as they are."""
        for file in frame_files(self.folder):
            try:
                with Image.open(file) as image:
                    as_it_is = image.format == "JPEG" and image.getexif().get(_ROTATION, 1) == 1
                content = file.read_bytes() if as_it_is else None
            except OSError as error:
                raise _unreadable(file) from error
            yield content if content is not None else _jpeg(_open(file))


@dataclass(frozen=True)
class Excerpt:
    """Consecutive pictures of others.

    Attributes:
        whole: The others.
        first: Index of the first one.
        count: How many; fewer where the others end before.
    """

    whole: Pictures
    first: int
    count: int

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See :class:`Pictures`."""
        return itertools.islice(self.whole.frames(), self.first, self.first + self.count)

    def jpegs(self) -> Iterator[bytes]:
        """See :class:`Pictures`."""
        return (_jpeg(Image.fromarray(frame)) for frame in self.frames())


def pictures_at(path: Path, size: tuple[int, int] | None = None) -> Pictures:
    """The pictures of a video file or of a folder of pages.

    Args:
        path: The file or folder.
        size: Height and width of the masks; see :class:`VideoPictures`.
    """
    return PagePictures(path) if path.is_dir() else VideoPictures(path, size)


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(file) from error


def _unreadable(file: Path) -> VideoError:
    return VideoError(f"{file.name} cannot be read as an image; import the task's media again")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
