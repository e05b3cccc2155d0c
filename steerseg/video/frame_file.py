"""Decoded frames of long videos on disk: mapped into memory as an array, but resident only where they are used.

Ten minutes of 360p are ten gigabytes of decoded frames. In a file without a name, in the folder for temporary
files (``TMPDIR``), they cost disk in place of memory, and go when nothing refers to them any more, also when the
process is killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

from steerseg.errors import ArtefactError

_STEP = 64 * 2**20  # bytes by which the file grows, and after which written pages are released


class FrameFile:
    """Images of one shape, appended to an unnamed file.

    Args:
        shape: (H, W, 3) of every image.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._bytes = int(np.prod(shape))
        self._file = tempfile.TemporaryFile(prefix="steerseg-frames-")  # noqa: SIM115 - it lives as long as the map
        self._room = 0
        self._count = 0
        self._resident = 0
        self._map: mmap.mmap | None = None

    def append(self, image: NDArray[np.uint8]) -> None:
        """Copy one image to the end.

        Raises:
            ArtefactError: The disk is full.
        """
        end = (self._count + 1) * self._bytes
        if end > self._room:
            self._grow(end + _STEP)
        np.copyto(self._array(self._count + 1)[self._count], image)
        self._count += 1
        self._resident += self._bytes
        if self._resident >= _STEP and self._map is not None:
            _release_pages(self._map)
            self._resident = 0

    def finish(self) -> NDArray[np.uint8]:
        """(T, H, W, 3) of what was appended, backed by the file."""
        os.ftruncate(self._file.fileno(), self._count * self._bytes)
        self._map = mmap.mmap(self._file.fileno(), self._count * self._bytes)
        return self._array(self._count)

    def _grow(self, room: int) -> None:
        try:
            # Reserved and not only promised: writing to a map for which the disk has no room ends the process.
            os.posix_fallocate(self._file.fileno(), 0, room)
        except OSError as error:
            raise ArtefactError(
                f"the decoded frames need {room / 2**20:.0f} MiB in {tempfile.gettempdir()}, which cannot hold "
                f"them ({error.strerror}); free some space, name another folder by TMPDIR, or use a larger stride"
            ) from error
        self._room = room
        self._map = mmap.mmap(self._file.fileno(), room)

    def _array(self, count: int) -> NDArray[np.uint8]:
        assert self._map is not None
        flat = np.frombuffer(self._map, dtype=np.uint8, count=count * self._bytes)
        return flat.reshape((count, *self._shape))


def release_memory(frames: NDArray[np.uint8]) -> None:
    """Release the memory of frames that lie in a file; they are read again when they are needed.

    Frames that are in memory only stay there.

    Args:
        frames: Frames, or a part of them.
    """
    base: object = frames
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap):
        _release_pages(base)


def _release_pages(pages: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):  # of a shared map: what was written stays in the file
        pages.madvise(mmap.MADV_DONTNEED)
