"""A video that browsers play: copied as it is, or encoded anew where they would not play it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_backend.importing.media import MediaFolder, appearing
from steerseg.video import FileKind, Video, VideoLimits, file_kind, load_video, write_video

# What Chromium and Firefox both play.
_PLAYABLE: dict[str, dict[str, frozenset[str] | None]] = {
    "mp4": {"h264": frozenset({"yuv420p", "yuvj420p"}), "vp9": None, "av1": None},
    "webm": {"vp8": None, "vp9": None, "av1": None},
}


def write_playable(
    source: Path, name: str, media: MediaFolder, fps: float | None, limits: VideoLimits
) -> tuple[Path, float, str]:
    """Put a video that browsers play where Label Studio serves it.

    The video is copied as it is, unless browsers cannot play its codec, or frame n is not at n / fps seconds
    in it: Label Studio numbers frames by time, so its boxes would stand on other frames than ours.

    Args:
        source: The video, or a folder of frames.
        name: Name of the file to write, less its suffix.
        media: The folder of imported media.
        fps: Frames a second of a folder of frames.
        limits: What a video may cost.

    Returns:
        The written file, its frames a second, and a note of what was done (empty for a copy).

    Raises:
        VideoError: The video cannot be read.
        ConfigError: The file cannot be written.
    """
    videos = media.media_dir / "videos"
    if source.is_dir():
        video = load_video(source, fps=fps, limits=limits)
        path = videos / f"{name}.mp4"
        _encode(path, video.frames, video.fps)
        return path, round(video.fps, 6), "encoded: a folder of frames is no video"
    kind = file_kind(source)
    container = _container(kind, source)
    # A hundred frames show the rate and whether it varies, without a long video in memory.
    sampling = max(1, kind.packets // 100)
    sample = load_video(source, stride=sampling, limits=limits)
    rate = sample.fps * sampling
    if container is None:
        reason = f"browsers do not play {kind.codec} in {source.suffix or kind.container}"
    elif not _is_constant(sample, rate, sampling):
        reason = "its frame rate varies, but Label Studio counts frames by time"
    else:
        path = videos / f"{name}.{container}"
        if not path.exists():
            with appearing(path) as building:
                shutil.copyfile(source, building)
        return path, round(rate, 6), ""
    path = videos / f"{name}-h264.mp4"
    if not path.exists():
        video = sample if sampling == 1 else load_video(source, limits=limits)
        rate = video.fps
        _encode(path, video.frames, rate)
    return path, round(rate, 6), f"re-encoded: {reason}"


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


def _is_constant(video: Video, rate: float, stride: int) -> bool:
    """Whether every frame is the one that a player shows at its number divided by the rate."""
    expected = np.arange(len(video)) * stride / rate
    return bool(np.abs(video.pts - expected).max() < 0.5 / rate)


def _encode(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    if path.exists():
        return
    with appearing(path) as building:
        write_video(building, frames, fps)
