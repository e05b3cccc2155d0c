"""A process that decodes, as whoever asks it sees it: how it starts and ends, and what it answers."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import steerseg
from steerseg.errors import ArtefactError, VideoError
from steerseg.video.decoder_messages import (
    DecodedPicture,
    DecodeFailure,
    DecodeProgress,
    DecodeRequest,
    DecoderReport,
    read_report,
)
from steerseg.video.loading import Progress
from steerseg.video.shared_frames import SharedFrames

_POLL = 0.1
_LONGEST_REPORT = 64 * 2**20
_BLOCK = 2**16
_INHERITED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "VIRTUAL_ENV",
    "PYTHONPATH",
)
"""Variables that the process keeps; the others may be secrets."""
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass
class DecoderChild:
    """A process that waits for a request, and the files for its frames.

    Attributes:
        is_done: Whether it answered its last request to the end.
    """

    process: subprocess.Popen[bytes]
    frames: SharedFrames
    is_done: bool = False

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End the process and close the files."""
        self.stop()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent is not wanted any more
                    pipe.close()
        self.frames.close()


def start_child() -> DecoderChild:
    """Start a process.

    Raises:
        VideoError: The machine has no room for one.
        ArtefactError: There is no folder for temporary files.
    """
    try:
        frames = SharedFrames()
    except OSError as error:
        raise ArtefactError(
            f"no temporary file can be made ({error.strerror}); name a folder by TMPDIR"
        ) from error
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _ENVIRONMENT
    root = str(Path(steerseg.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "steerseg.video.decoder_process", *map(str, frames.descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            pass_fds=frames.descriptors,
        )
    except OSError as error:
        frames.close()
        raise VideoError(
            f"no process could be started to decode the video ({error.strerror}); the machine is short of memory, "
            "processes or open files"
        ) from error
    return DecoderChild(process, frames)


class Reports:
    """What a process answers to one request.

    Args:
        child: The process.
        request: The request, which is sent.
        seconds: That the process has for the answer, or between two pictures of it.
        progress: Called again and again, also while nothing moves; may raise to stop.
    """

    def __init__(
        self, child: DecoderChild, request: DecodeRequest, seconds: float, progress: Progress | None
    ) -> None:
        assert child.process.stdin is not None
        assert child.process.stdout is not None
        self._child, self._path, self._seconds, self._progress = child, request.path, seconds, progress
        self._deadline = time.monotonic() + seconds
        self._source = child.process.stdout.fileno()
        self._pending = bytearray()
        self._last = DecodeProgress(stage="decode", fraction=0.0)
        with contextlib.suppress(BrokenPipeError):  # reading finds out why
            child.process.stdin.write(request.model_dump_json().encode() + b"\n")
            child.process.stdin.flush()

    def next(self) -> DecoderReport:
        """The next report that is neither of progress nor of a failure.

        Raises:
            VideoError: The file cannot be decoded, or it takes too long.
            ArtefactError: See :meth:`IsolatedDecoder.load_video`.
        """
        while True:
            try:
                report = read_report(self._line())
            except ValueError:
                raise self._ended() from None
            if isinstance(report, DecodeFailure):
                self._child.is_done = True
                kinds = {"VideoError": VideoError, "ArtefactError": ArtefactError}
                raise kinds[report.error](report.message)
            if not isinstance(report, DecodeProgress):
                self._child.is_done = not isinstance(report, DecodedPicture)
                return report
            self._last = report
            self._go_on()

    def picture(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """The (H, W, 3) picture that follows its report."""
        size = math.prod(shape)
        while len(self._pending) < size:
            self._pending += self._received()
        picture = np.frombuffer(bytes(self._pending[:size]), np.uint8).reshape(shape)
        del self._pending[:size]
        self._deadline = time.monotonic() + self._seconds
        return picture

    def _line(self) -> bytes:
        searched = 0
        while (end := self._pending.find(b"\n", searched)) < 0:
            searched = len(self._pending)
            if searched > _LONGEST_REPORT:
                raise self._ended()
            self._pending += self._received()
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line

    def _received(self) -> bytes:
        """At least one byte more."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._source, selectors.EVENT_READ)
            while time.monotonic() <= self._deadline:
                if not selector.select(_POLL):
                    self._go_on()
                elif data := os.read(self._source, _BLOCK):
                    return data
                else:
                    raise self._ended()
        raise VideoError(
            f"{self._path} takes longer than the limit of {self._seconds:g} s to be decoded. Use a shorter or "
            "smaller clip, or convert it to MP4 (H.264)."
        )

    def _go_on(self) -> None:
        if self._progress is not None:
            self._progress(self._last.stage, self._last.fraction)

    def _ended(self) -> VideoError:
        return VideoError(f"{self._path} could not be decoded: {_end_of(self._child.process)}.")


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, for a person."""
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "its decoder gave an answer that cannot be read"
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"its decoder was ended by {name}; the file may be damaged, or need too much memory"
    return f"its decoder ended with status {code}; the file may be damaged"
