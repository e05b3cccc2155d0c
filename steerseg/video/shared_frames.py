"""Decoded frames that pass from one process to another, without a copy: in a file that both have open.

Short videos stay in memory (a ``memfd``, where the system has such), longer ones on disk. Neither file has a name, so
nothing is left behind.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from steerseg.errors import ArtefactError

IN_MEMORY = 128 * 2**20
"""Bytes of decoded frames that are passed in memory; a video with more of them is passed on disk."""
_BLOCK = 2**24


class SharedFrames:
    """Two open files for the frames of one video, made by whoever wants them."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self._disk = opened.enter_context(tempfile.TemporaryFile(prefix="steerseg-frames-"))
            self._memory = opened.enter_context(_memory_file())
            self._opened = opened.pop_all()

    @property
    def descriptors(self) -> tuple[int, int]:
        """What the process that decodes inherits: the file in memory, and the one on disk."""
        return self._memory.fileno(), self._disk.fileno()

    def read(self, shape: Sequence[int], *, on_disk: bool) -> NDArray[np.uint8]:
        """The frames, once the other process has ended.

        Args:
            shape: (T, H, W, 3).
            on_disk: Which file holds them.

        Raises:
            ArtefactError: The file holds less.
        """
        file = self._disk if on_disk else self._memory
        size = int(np.prod(shape, dtype=np.int64))
        if os.fstat(file.fileno()).st_size < size:  # reading beyond the end would end this process
            raise ArtefactError("the decoded frames were cut off; ask again")
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8, size).reshape(tuple(shape))

    def close(self) -> None:
        """Close the files; frames that were read stay."""
        self._opened.close()


class SharedFrameWriter:
    """Writes the frames of one video into inherited files; a :class:`~steerseg.video.decoding.FrameStore`.

    Args:
        memory: Descriptor of the file in memory.
        disk: Descriptor of the file on disk.
    """

    def __init__(self, memory: int, disk: int) -> None:
        self._memory, self._disk = memory, disk
        self._shape: tuple[int, ...] = ()
        self._count = 0
        self.on_disk = False

    def append(self, image: NDArray[np.uint8]) -> None:
        """Write one (H, W, 3) image to the end.

        Raises:
            ArtefactError: The disk is full.
        """
        self._shape = image.shape
        if not self.on_disk and (self._count + 1) * image.nbytes > IN_MEMORY:
            self._spill()
        self._write(self._disk if self.on_disk else self._memory, np.ascontiguousarray(image).data.cast("B"))
        self._count += 1

    def finish(self) -> NDArray[np.uint8]:
        """(T, H, W, 3) of what was written, as this process sees it."""
        file = self._disk if self.on_disk else self._memory
        shape = (self._count, *self._shape)
        size = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(mmap.mmap(file, size, prot=mmap.PROT_READ), np.uint8, size).reshape(shape)

    def _spill(self) -> None:
        """Move what is in memory to the disk, where the rest follows."""
        os.lseek(self._memory, 0, os.SEEK_SET)
        while block := os.read(self._memory, _BLOCK):
            self._write(self._disk, memoryview(block))
        os.ftruncate(self._memory, 0)
        self.on_disk = True

    def _write(self, file: int, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError as error:
            raise ArtefactError(
                f"the decoded frames do not fit into {tempfile.gettempdir()} ({error.strerror}); free some space, "
                "name another folder by TMPDIR, or use a larger stride"
            ) from error


def _memory_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("steerseg-frames"), "r+b")
    return tempfile.TemporaryFile(prefix="steerseg-frames-")
