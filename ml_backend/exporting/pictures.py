"""The pictures of a sequence: pages as they are, frames of a video one at a time."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerseg.errors import VideoError
from steerseg.video import frame_files
from steerseg.video.isolation import IsolatedDecoder
from steerseg.video.loading import is_upright_jpeg

JPEG_QUALITY = 95


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
        decoder: Decodes it.
        size: Height and width of the masks; ``None`` where nothing is known of them. Masks of a video whose pixels
            are not square may be as large as its stored frames.
    """

    path: Path
    decoder: IsolatedDecoder
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
        with contextlib.closing(self._stream(square=square)) as pictures:
            height, width, _ = next(pictures).shape
        return height, width

    def _stream(self, *, square: bool) -> Generator[NDArray[np.uint8], None, None]:
        return iter(self.decoder.stream(self.path, square=square))

    def jpegs(self) -> Iterator[bytes]:
        """See :class:`Pictures`."""
        return (_jpeg(Image.fromarray(frame)) for frame in self.frames())


@dataclass(frozen=True)
class PagePictures:
    """A folder of pages, ordered by name.

    Attributes:
        folder: The folder.
        decoder: Decodes them.
    """

    folder: Path
    decoder: IsolatedDecoder

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See :class:`Pictures`."""
        return iter(self.decoder.stream(self.folder, one_size=False))

    def jpegs(self) -> Iterator[bytes]:
        """See :class:`Pictures`. Upright JPEG pages are passed on as they are, unless others are to be decoded."""
        files = frame_files(self.folder)
        if all(is_upright_jpeg(file) for file in files):
            return (file.read_bytes() for file in files)
        return (
            file.read_bytes() if is_upright_jpeg(file) else _jpeg(Image.fromarray(picture))
            for file, picture in zip(files, self.frames(), strict=True)
        )


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


def pictures_at(path: Path, decoder: IsolatedDecoder, size: tuple[int, int] | None = None) -> Pictures:
    """The pictures of a video file or of a folder of pages.

    Args:
        path: The file or folder.
        decoder: Decodes it.
        size: Height and width of the masks; see :class:`VideoPictures`.
    """
    return PagePictures(path, decoder) if path.is_dir() else VideoPictures(path, decoder, size)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
