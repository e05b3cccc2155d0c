"""A video that browsers play: copied as it is, or encoded anew where they would not play it."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_backend.importing.media import MediaFolder, appearing
from ml_backend.importing.pages import PageOptions
from ml_backend.label_studio.frame_numbers import FrameNumbers
from steerseg.video import FileKind, VideoLimits, frame_files, write_video
from steerseg.video.decoding import DEFAULT_FPS
from steerseg.video.isolation import IsolatedDecoder
from steerseg.video.loading import picture_size
from steerseg.video.player import PlayerTimeline

# What Chromium and Firefox both play.
_PLAYABLE: dict[str, dict[str, frozenset[str] | None]] = {
    "mp4": {"h264": frozenset({"yuv420p", "yuvj420p", "yuv444p", "yuvj444p"}), "vp9": None, "av1": None},
    "webm": {"vp8": None, "vp9": None, "av1": None},
}


@dataclass(frozen=True)
class PlayableVideo:
    """What was written of a video.

    Attributes:
        paths: The file, or one for each part.
        fps: Frames a second.
        note: What was done, and what the backend cannot do with it; empty for a copy.
    """

    paths: tuple[Path, ...]
    fps: float
    note: str


def video_stride(source: Path, options: PageOptions) -> int:
    """The stride of a task that consists of the video alone: with ``auto``, the first that the backend can track.

    Raises:
        VideoError: The video cannot be read.
    """
    kind = _kind(source, options.decoder)
    return options.cut.step(kind.packets, _most_frames(kind, options.decoder.limits))


def write_playable(
    source: Path, name: str, media: MediaFolder, options: PageOptions, *, stride: int, part: int | None
) -> PlayableVideo:
    """Put a video that browsers play where Label Studio serves it. One picture at a time is in memory.

    The video is copied as it is, unless browsers cannot play its codec, it is thinned or split, or frame n is not what
    they show at n / fps seconds: Label Studio numbers frames by time.

    Args:
        source: The video, or a folder of frames.
        name: Name of the file to write, less its suffix.
        media: The folder of imported media.
        options: Frame rate and decoder.
        stride: One frame in so many is taken.
        part: Frames of each part, where the video is split.

    Raises:
        VideoError: The video cannot be read.
        ConfigError: The file cannot be written.
    """
    videos, folder = media.media_dir / "videos", source.is_dir()
    kind, limits = _kind(source, options.decoder), options.decoder.limits
    timeline = None if folder else options.decoder.read_timeline(source)
    rate = (options.fps or DEFAULT_FPS) if timeline is None else timeline.fps
    count = math.ceil(kind.packets / stride)
    if part is not None and count <= part:
        part = None
    beyond = _beyond_limits(source, kind, min(count, part or count), rate / stride, limits)
    reason = _reason(source, kind, timeline, rate, stride, part)
    if not reason:
        path = videos / f"{name}.{_container(kind, source)}"
        if not path.exists():
            with appearing(path) as building:
                shutil.copyfile(source, building)
        return PlayableVideo((path,), round(rate, 6), beyond)
    suffix = ("" if folder else "-h264") + (f"-s{stride}" if stride > 1 else "")
    suffix += f"-{options.fps:g}fps" if options.fps and folder else ""
    pictures = iter(options.decoder.stream(source, fps=options.fps, stride=stride))
    note = "; ".join(filter(None, (reason, beyond)))
    if part is None:
        path = videos / f"{name}{suffix}.mp4"
        if not path.exists():
            with appearing(path) as building:
                write_video(building, pictures, rate / stride)
        return PlayableVideo((path,), round(rate / stride, 6), note)
    parts = videos / f"{name}{suffix}-p{part}"
    if not parts.exists():
        with appearing(parts) as building:
            _write_parts(building, pictures, rate / stride, part)
    return PlayableVideo(tuple(sorted(parts.iterdir())), round(rate / stride, 6), note)


def _write_parts(folder: Path, pictures: Iterator[NDArray[np.uint8]], fps: float, size: int) -> None:
    """Write ``00001.mp4``, ``00002.mp4``, ... of ``size`` pictures each, the last one shorter."""
    folder.mkdir()
    for number in itertools.count(1):
        first = next(pictures, None)
        if first is None:
            return
        rest = itertools.islice(pictures, size - 1)
        write_video(folder / f"{number:05d}.mp4", itertools.chain([first], rest), fps)


def _reason(
    source: Path,
    kind: FileKind,
    timeline: PlayerTimeline | None,
    rate: float,
    stride: int,
    part: int | None,
) -> str:
    """Why a video is encoded; empty where it is copied."""
    if timeline is None:
        return "encoded: a folder of frames is no video"
    if _container(kind, source) is None:
        return f"re-encoded: browsers do not play {kind.codec} in {source.suffix or kind.container}"
    if stride > 1:
        return f"re-encoded: one frame in {stride} is taken"
    if part is not None:
        return "re-encoded: it is split"
    if timeline.times[0] > 0.5 / rate:
        return "re-encoded: its first frame does not begin at 0, but Label Studio counts frames by time"
    if not FrameNumbers.of(timeline, round(rate, 6)).shows_all:
        return "re-encoded: its frames do not come at a constant rate, but Label Studio counts frames by time"
    return ""


def _container(kind: FileKind, source: Path) -> str | None:
    """The suffix under which browsers play a file as it is, or ``None``."""
    if "mp4" in kind.container.split(","):
        suffix = "mp4"
    elif "webm" in kind.container.split(",") and source.suffix.lower() == ".webm":
        suffix = "webm"
    else:
        return None
    formats = _PLAYABLE[suffix]
    if kind.codec not in formats:
        return None
    pixels = formats[kind.codec]
    return suffix if pixels is None or kind.pixel_format in pixels else None


def _kind(source: Path, decoder: IsolatedDecoder) -> FileKind:
    """What a file is; of a folder of frames, the number and the size of its pictures."""
    if not source.is_dir():
        return decoder.file_kind(source)
    files = frame_files(source)
    width, height = picture_size(files[0])
    return FileKind("", "", "", len(files), width, height)


def _most_frames(kind: FileKind, limits: VideoLimits) -> int:
    """How many frames of a video's size the backend tracks in one video."""
    return max(1, min(limits.max_frames, limits.max_memory // max(1, 3 * kind.width * kind.height)))


def _beyond_limits(source: Path, kind: FileKind, frames: int, fps: float, limits: VideoLimits) -> str:
    """What the backend will refuse of the video, and what to do; empty where it takes it."""
    most = min(_most_frames(kind, limits), math.floor(limits.max_duration * fps))
    if frames <= most:
        return ""
    return (
        f"warning: {frames} frames of {kind.width}x{kind.height} are more than the {most} that the backend tracks in "
        f"one video; import {source.name} with --stride {math.ceil(frames / most)}, --stride auto, or --split-pages"
    )
