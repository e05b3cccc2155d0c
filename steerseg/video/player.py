"""Which frame of a file a browser's player shows at a time, by the player's own clock.

Measured with Chromium, which reads files by the same FFmpeg as PyAV does: its clock is that of the file, so a file
whose first frame begins at 2 s shows that frame for every time before; files that begin before 0 are shifted to 0. A
seek begins decoding at a keyframe, and never shows a frame before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from steerseg.errors import VideoError
from steerseg.video.decoding import (
    DEFAULT_FPS,
    declared_rate,
    frames_a_second,
    open_video,
    start_time,
    video_stream,
)

_EARLY = 1e-6  # seconds by which a time may fall short of a frame's own
Seconds = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlayerTimeline:
    """The frames of a video by a player's clock.

    Attributes:
        times: (T,) seconds at which each frame begins, increasing.
        duration: Seconds that the player says the video lasts, and beyond which it does not seek.
        end: Seconds at which the last frame ends.
        start: Seconds at which the earliest sound or picture begins.
        entries: (K,) seconds from which on a seek begins decoding at the K-th keyframe, increasing.
        entry_frames: (K,) index of each keyframe.
    """

    times: Seconds = field(repr=False)
    duration: float
    end: float
    start: float
    entries: Seconds = field(repr=False)
    entry_frames: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of_times(cls, times: Seconds, fps: float | None = None) -> PlayerTimeline:
        """The timeline of frames that begin at given times, in a file that can be entered at each of them.

        Args:
            times: (T,) increasing seconds.
            fps: Frames a second, for the length of the last frame; the median of the others if not given.
        """
        end = float(times[-1]) + (_interval(times) if fps is None else 1.0 / fps)
        none = np.zeros(0)
        return cls(times, end, end, 0.0, none, none.astype(np.int64))

    @classmethod
    def constant(cls, count: int, fps: float) -> PlayerTimeline:
        """The timeline of ``count`` frames of a constant rate, the first one at 0."""
        return cls.of_times(np.arange(count) / fps, fps)

    def frames_at(self, seconds: Seconds) -> NDArray[np.int64]:
        """The frame that the player shows after a seek to each time.

        Args:
            seconds: (N,) times.

        Returns:
            (N,) indices in [0, T).
        """
        reached = seconds + _EARLY
        frames = np.maximum(np.searchsorted(self.times, reached, side="right") - 1, 0)
        if len(self.entries):
            entry = np.searchsorted(self.entries, reached, side="right") - 1
            frames = np.maximum(frames, self.entry_frames[np.maximum(entry, 0)])
        return frames.astype(np.int64)

    def decoded(self, pts: Seconds) -> PlayerTimeline:
        """The timeline of the frames that could be decoded, where a damaged file has others.

        Args:
            pts: (T,) seconds of each from the file's start; see :class:`steerseg.video.Video`.
        """
        if len(pts) == len(self.times):
            return self
        times = pts + self.start
        keys = np.clip(np.searchsorted(times, self.times[self.entry_frames]), 0, len(times) - 1)
        return replace(self, times=times, entry_frames=keys.astype(np.int64))

    @property
    def fps(self) -> float:
        """Frames a second: exact for a constant rate, the median where it varies."""
        return frames_a_second(self.times, DEFAULT_FPS)


def read_timeline(path: Path, *, bare_streams: bool = True) -> PlayerTimeline:
    """Read a file's timeline without decoding it.

    Args:
        path: The file.
        bare_streams: See :class:`~steerseg.video.VideoLimits`.

    Raises:
        VideoError: Not a video, or one without a frame.
        OSError: The file cannot be read.
    """
    with open_video(path, str(path), bare_streams=bare_streams) as container:
        stream = video_stream(container, str(path))
        base, start = stream.time_base, start_time(container)
        shift = min(start, Fraction(0))
        packets = _packets(container, stream) or _untimed_packets(path)
        if not packets:
            raise VideoError(
                f"{path} holds no frame. It may be truncated or empty; export or download it again."
            )
        packets.sort(key=lambda packet: packet.shown)
        keys = [i for i, packet in enumerate(packets) if packet.is_key]
        begins = [packets[i].shown for i in keys]
        if _seeks_by_decoding(container, stream, packets, keys):
            begins = [min(packets[i].decoded, packets[i].shown) for i in keys]
        duration = container.duration
    times = np.array([float(packet.shown * base - shift) for packet in packets])
    end = float(times[-1]) + _interval(times)
    return PlayerTimeline(
        times=times,
        duration=duration / av.time_base if duration else end,
        end=end,
        start=float(start - shift),
        entries=np.array([float(ticks * base - shift) for ticks in begins]),
        entry_frames=np.array(keys, dtype=np.int64),
    )


def _interval(times: Seconds) -> float:
    """The usual seconds from one frame to the next."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / DEFAULT_FPS


@dataclass(frozen=True)
class _Packet:
    """One frame of the file, by the stream's clock: when it is shown, when decoded, and whether decoding can begin."""

    shown: int
    decoded: int
    is_key: bool


def _packets(container: Any, stream: Any) -> list[_Packet]:
    """Every frame that is shown, in the file's order."""
    found: list[_Packet] = []
    demuxed = container.demux(stream)
    while (packet := _next_packet(demuxed)) is not None:
        shown = packet.dts if packet.pts is None else packet.pts
        if packet.size and shown is not None and not packet.is_discard:
            decoded = shown if packet.dts is None else packet.dts
            found.append(_Packet(shown, decoded, packet.is_keyframe))
    return found


def _untimed_packets(path: Path) -> list[_Packet]:
    """The same of a bare stream, whose packets have no times: its frames have the rate that it declares."""
    with open_video(path, str(path)) as container:
        stream = video_stream(container, str(path))
        ticks = 1.0 / (declared_rate(stream) * float(stream.time_base))
        demuxed, keys = container.demux(stream), list[bool]()
        while (packet := _next_packet(demuxed)) is not None:
            if packet.size:
                keys.append(packet.is_keyframe)
    return [_Packet(round(i * ticks), round(i * ticks), is_key) for i, is_key in enumerate(keys)]


def _next_packet(demuxed: Any) -> Any:
    """The next packet; ``None`` at the end, also where the file is cut off."""
    try:
        return next(demuxed, None)
    except av.FFmpegError:
        return None


def _seeks_by_decoding(container: Any, stream: Any, packets: list[_Packet], keys: list[int]) -> bool:
    """Whether FFmpeg finds keyframes by the time of their decoding, as in most files of fragments.

    The file itself is asked: is the frame before a keyframe found by way of that keyframe?
    """
    for i in keys:
        if i and packets[i].decoded <= packets[i - 1].shown < packets[i].shown:
            try:
                container.seek(packets[i - 1].shown, stream=stream, backward=True)
            except av.FFmpegError:
                return False
            first = _next_packet(container.demux(stream))
            return first is not None and first.pts == packets[i].shown
    return False
