"""Files of strangers, decoded in a process of their own, within limits of memory, time and files.

Decoders are large programs that read hostile bytes. Here one works on one file, and nothing but its frames and a few
numbers comes back. A file that takes too much ends its own process alone, and a caller who has waited enough ends it
at any moment.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import steerseg
from steerseg.errors import ArtefactError, VideoError
from steerseg.video.decoder_messages import (
    DecodedFrames,
    DecodeFailure,
    DecodeProgress,
    DecodeRequest,
    DecoderReport,
    FrameTimes,
    read_report,
)
from steerseg.video.decoding import VideoLimits
from steerseg.video.loading import Progress, Video
from steerseg.video.player import PlayerTimeline
from steerseg.video.shared_frames import SharedFrames

MEMORY = 400 * 2**20
"""Bytes of memory that decoding may take, besides the frames themselves (our choice): 4096 x 2304 in 10 bits needs
about 300 MiB."""
DECODE_SECONDS = 900.0
TIMES_SECONDS = 60.0
_POLL = 0.1
_LONGEST_REPORT = 64 * 2**20
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
class _Child:
    """A process that waits for its one request, and the files for its frames."""

    process: subprocess.Popen[bytes]
    frames: SharedFrames

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


class IsolatedDecoder:
    """Decodes files of strangers. Safe to share between threads.

    From the first file on, a process waits for the next one, so that no file waits for a process to start. Times are
    read from one file at a time.

    Args:
        limits: Limits of the videos.
        memory: Bytes of memory that decoding one may take, besides the frames themselves.
        seconds: That decoding one may take.
    """

    def __init__(self, limits: VideoLimits, *, memory: int = MEMORY, seconds: float = DECODE_SECONDS) -> None:
        self._limits = limits
        self._memory = memory
        self._seconds = seconds
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._waiting: _Child | None = None

    def start(self) -> None:
        """Have a process waiting for the first file already.

        Raises:
            VideoError: The machine has no room for one.
            ArtefactError: There is no folder for temporary files.
        """
        with self._lock:
            if self._waiting is None:
                self._waiting = _start()

    def load_video(
        self, path: Path, *, stride: int = 1, fps: float | None = None, progress: Progress | None = None
    ) -> Video:
        """Decode a video file or a folder of frames; see :func:`steerseg.video.load_video`.

        Args:
            path: The file or folder.
            stride: See there.
            fps: See there.
            progress: Called again and again, also while nothing moves; may raise to stop.

        Raises:
            VideoError: See there; also where decoding takes too much memory or time, or crashes.
            ArtefactError: See there.
        """
        request = DecodeRequest(
            path=path.absolute(), limits=self._limits, memory=self._memory, stride=stride, fps=fps
        )
        with self._child() as child:
            report = _ask(child, request, self._seconds, progress)
            if not isinstance(report, DecodedFrames):
                raise VideoError(f"{path} could not be decoded: the decoder gave another answer.")
            child.stop()  # nothing writes into the frames any more
            frames = child.frames.read(report.shape, on_disk=report.on_disk)
        if len(report.pts) != len(frames):
            raise VideoError(f"{path} could not be decoded: the decoder gave other times than frames.")
        return Video(frames, np.array(report.pts), report.fps, str(path), report.digest, stride)

    def read_timeline(self, path: Path) -> PlayerTimeline:
        """Read a file's timeline; see :func:`steerseg.video.player.read_timeline`.

        Raises:
            VideoError: See there; also where it takes too much memory or time, or crashes.
        """
        request = DecodeRequest(
            path=path.absolute(), limits=self._limits, memory=self._memory, times_only=True
        )
        with self._one_at_a_time, self._child() as child:
            report = _ask(child, request, min(self._seconds, TIMES_SECONDS), None)
        if not isinstance(report, FrameTimes) or len(report.entries) != len(report.entry_frames):
            raise VideoError(f"{path} could not be read: the decoder gave another answer.")
        return PlayerTimeline(
            times=np.array(report.times),
            duration=report.duration,
            end=report.end,
            start=report.start,
            entries=np.array(report.entries, dtype=np.float64),
            entry_frames=np.clip(np.array(report.entry_frames, dtype=np.int64), 0, len(report.times) - 1),
        )

    def close(self) -> None:
        """End the process that waits. May be repeated."""
        with self._lock:
            child, self._waiting = self._waiting, None
        if child is not None:
            child.end()

    @contextlib.contextmanager
    def _child(self) -> Iterator[_Child]:
        """A process for one file; the next one is started meanwhile."""
        with self._lock:
            child, self._waiting = self._waiting, None
        if child is None or child.process.poll() is not None:
            if child is not None:
                child.end()
            child = _start()
        try:
            self.start()
            yield child
        finally:
            child.end()


def _start() -> _Child:
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
    return _Child(process, frames)


def _ask(child: _Child, request: DecodeRequest, seconds: float, progress: Progress | None) -> DecoderReport:
    """Send a request and wait for its answer."""
    assert child.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # reading finds out why
        child.process.stdin.write(request.model_dump_json().encode() + b"\n")
        child.process.stdin.flush()
    last = DecodeProgress(stage="decode", fraction=0.0)

    def go_on() -> None:
        if progress is not None:
            progress(last.stage, last.fraction)

    for line in _lines(child, request.path, seconds, go_on):
        try:
            report = read_report(line)
        except ValueError:
            break
        if isinstance(report, DecodeFailure):
            kinds = {"VideoError": VideoError, "ArtefactError": ArtefactError}
            raise kinds[report.error](report.message)
        if not isinstance(report, DecodeProgress):
            return report
        last = report
        go_on()
    raise VideoError(f"{request.path} could not be decoded: {_end_of(child.process)}.")


def _lines(child: _Child, path: Path, seconds: float, go_on: Callable[[], None]) -> Iterator[bytes]:
    """The lines that a process writes.

    Args:
        child: The process.
        path: What it works on.
        seconds: That it has in all.
        go_on: Called now and then; may raise to stop.

    Raises:
        VideoError: It takes too long.
    """
    assert child.process.stdout is not None
    deadline = time.monotonic() + seconds
    pending = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.process.stdout, selectors.EVENT_READ)
        while len(pending) < _LONGEST_REPORT:
            if time.monotonic() > deadline:
                raise VideoError(
                    f"{path} takes longer than the limit of {seconds:g} s to be decoded. Use a shorter or smaller "
                    "clip, or convert it to MP4 (H.264)."
                )
            if not selector.select(_POLL):
                go_on()
                continue
            data = os.read(child.process.stdout.fileno(), 2**16)
            if not data:
                return
            pending += data
            *complete, rest = pending.split(b"\n") if b"\n" in data else (pending,)
            pending = rest
            yield from map(bytes, complete)


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
