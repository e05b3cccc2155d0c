"""Files of strangers, decoded in a process of their own, within limits of memory, time and files.

Decoders are large programs that read hostile bytes. Here a process works on it, and nothing but its frames and a few
numbers comes back. A file that takes too much ends its own process alone, and a caller who has waited enough ends it
at any moment.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steerseg.errors import VideoError
from steerseg.video.decoder_child import DecoderChild, Reports, start_child
from steerseg.video.decoder_messages import (
    DecodedFrames,
    DecodedPicture,
    DecodeRequest,
    FoundKind,
    FrameTimes,
    PicturesEnd,
)
from steerseg.video.decoding import FileKind, VideoLimits
from steerseg.video.loading import Progress, Video
from steerseg.video.player import PlayerTimeline

MEMORY = 400 * 2**20
"""Bytes of memory that decoding may take, besides the frames themselves (our choice): 4096 x 2304 in 10 bits needs
about 300 MiB."""
DECODE_SECONDS = 900.0
TIMES_SECONDS = 60.0


class IsolatedDecoder:
    """Decodes files of strangers. Safe to share between threads.

    From the first file on, a process waits for the next one, so that no file waits for a process to start. Times are
    read from one file at a time.

    Args:
        limits: Limits of the videos.
        memory: Bytes of memory that decoding one may take, besides the frames themselves.
        seconds: That decoding one may take.
        lasting: Whether one process does file after file, for programs of the person whose files they are. It saves
            half a second a file. What a file makes of the process then lasts as well.
    """

    def __init__(
        self,
        limits: VideoLimits,
        *,
        memory: int = MEMORY,
        seconds: float = DECODE_SECONDS,
        lasting: bool = False,
    ) -> None:
        self.limits = limits
        self._lasting = lasting
        self._memory = memory
        self._seconds = seconds
        self._looking_seconds = seconds if lasting else min(seconds, TIMES_SECONDS)
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._waiting: DecoderChild | None = None

    def start(self) -> None:
        """Have a process waiting for the first file already.

        Raises:
            VideoError: The machine has no room for one.
            ArtefactError: There is no folder for temporary files.
        """
        with self._lock:
            if self._waiting is None:
                self._waiting = start_child()

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
            path=path.absolute(), limits=self.limits, memory=self._memory, stride=stride, fps=fps
        )
        with self._child() as child:
            report = Reports(child, request, self._seconds, progress).next()
            if not isinstance(report, DecodedFrames):
                raise VideoError(f"{path} could not be decoded: the decoder gave another answer.")
            child.is_done = False  # its files are taken
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
        request = DecodeRequest(path=path.absolute(), limits=self.limits, memory=self._memory, wanted="times")
        with self._one_at_a_time, self._child() as child:
            report = Reports(child, request, self._looking_seconds, None).next()
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

    def file_kind(self, path: Path) -> FileKind:
        """Look at a file; see :func:`steerseg.video.file_kind`.

        Raises:
            VideoError: See there; also where it takes too much memory or time, or crashes.
        """
        request = DecodeRequest(path=path.absolute(), limits=self.limits, memory=self._memory, wanted="kind")
        with self._one_at_a_time, self._child() as child:
            report = Reports(child, request, self._looking_seconds, None).next()
        if not isinstance(report, FoundKind):
            raise VideoError(f"{path} could not be read: the decoder gave another answer.")
        return report.found

    def stream(
        self,
        path: Path,
        *,
        stride: int = 1,
        fps: float | None = None,
        square: bool = True,
        one_size: bool = True,
    ) -> IsolatedStream:
        """The pictures of a file or a folder; see :func:`steerseg.video.streaming.open_stream`.

        A video may be as long as it likes: the time that decoding may take counts from picture to picture.
        """
        request = DecodeRequest(
            path=path.absolute(),
            limits=self.limits,
            memory=self._memory,
            stride=stride,
            fps=fps,
            wanted="pictures",
            square=square,
            one_size=one_size,
        )

        @contextlib.contextmanager
        def reports() -> Iterator[Reports]:
            with self._child() as child:
                yield Reports(child, request, self._seconds, None)

        return IsolatedStream(reports)

    def close(self) -> None:
        """End the process that waits. May be repeated."""
        with self._lock:
            child, self._waiting = self._waiting, None
        if child is not None:
            child.end()

    @contextlib.contextmanager
    def _child(self) -> Iterator[DecoderChild]:
        """A process for one file; the next one is started meanwhile, where it is not to do the next one too."""
        with self._lock:
            child, self._waiting = self._waiting, None
        if child is None or child.process.poll() is not None:
            if child is not None:
                child.end()
            child = start_child()
        child.is_done = False
        try:
            if not self._lasting:
                self.start()
            yield child
        finally:
            with self._lock:
                if self._lasting and child.is_done and self._waiting is None:
                    self._waiting, child = child, None
            if child is not None:
                child.end()


class IsolatedStream:
    """A :class:`~steerseg.video.streaming.PictureStream` whose pictures come from a process.

    Args:
        reports: Asks for them, when they are iterated.
    """

    def __init__(self, reports: Callable[[], contextlib.AbstractContextManager[Reports]]) -> None:
        self._reports = reports
        self._end: PicturesEnd | None = None

    def __iter__(self) -> Generator[NDArray[np.uint8], None, None]:
        """(H, W, 3) uint8 RGB in order, one in memory at a time; iterated once.

        Raises:
            VideoError: See :meth:`IsolatedDecoder.load_video`.
            ArtefactError: See there.
        """
        with self._reports() as reports:
            while isinstance(report := reports.next(), DecodedPicture):
                yield reports.picture(report.shape)
        if not isinstance(report, PicturesEnd):
            raise VideoError("the decoder gave another answer than pictures")
        self._end = report

    @property
    def pts(self) -> NDArray[np.float64]:
        """(T,) seconds of the pictures, strictly increasing; known after the last one."""
        return np.array(self._known.pts)

    @property
    def fps(self) -> float:
        """Pictures a second; known after the last one."""
        return self._known.fps

    @property
    def digest(self) -> str:
        """See :class:`~steerseg.video.streaming.PictureStream`; known after the last picture."""
        return self._known.digest

    @property
    def _known(self) -> PicturesEnd:
        if self._end is None:
            raise RuntimeError("the pictures were not all taken")
        return self._end
