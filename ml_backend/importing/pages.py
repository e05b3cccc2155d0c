"""A video's frames as JPEG pages, with a manifest of their times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict

from ml_backend.importing.media import MediaFolder, appearing
from steerseg.errors import VideoError
from steerseg.video import Video, VideoLimits, file_kind, frame_files, load_video

JPEG_QUALITY = 92
_MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """What lies in a folder of pages, as its ``manifest.json`` says.

    Attributes:
        source: Name of the video.
        digest: Digest of the decoded frames.
        fps: Pages a second of the video.
        stride: One frame in so many is a page.
        width: Of the pages, in pixels.
        height: Of the pages, in pixels.
        frames: File name of each page.
        frame_indices: Decode index of each page's frame.
        pts: Time of each page in seconds.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    digest: str
    fps: float
    stride: int
    width: int
    height: int
    frames: list[str]
    frame_indices: list[int]
    pts: list[float]

    @classmethod
    def of(cls, video: Video, source: Path, stride: int) -> Manifest:
        """The manifest of a video whose frames were read with a stride."""
        return cls(
            source=source.name,
            digest=video.digest,
            fps=round(video.fps * stride, 6),
            stride=stride,
            width=video.width,
            height=video.height,
            frames=[f"{page:05d}.jpg" for page in range(len(video))],
            frame_indices=[page * stride for page in range(len(video))],
            pts=[round(float(seconds), 6) for seconds in video.pts],
        )


@dataclass(frozen=True)
class PageOptions:
    """How a video becomes pages.

    Attributes:
        stride: One frame in so many is a page.
        max_pages: Most pages of a task.
        fps: Frames a second of folders of frames; ``None`` for 25. Files have their own rate.
        limits: What a video may cost.
    """

    stride: int
    max_pages: int
    fps: float | None
    limits: VideoLimits


def write_pages(source: Path, name: str, media: MediaFolder, options: PageOptions) -> tuple[Path, Manifest]:
    """Write the frames as ``00000.jpg``, ... with a manifest, or find them written.

    Args:
        source: The video, or a folder of frames.
        name: Name of the folder to write, less what the options add.
        media: The folder of imported media.
        options: Stride, frame rate and limits.

    Returns:
        The folder of the pages, and its manifest.

    Raises:
        VideoError: The video cannot be read, or has more pages than a task can show.
        ConfigError: The folder cannot be written.
    """
    stride, fps = options.stride, options.fps
    suffix = (f"-s{stride}" if stride > 1 else "") + (f"-{fps:g}fps" if fps and source.is_dir() else "")
    folder = media.media_dir / "frames" / (name + suffix)
    if (folder / _MANIFEST).is_file():
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
        if len(manifest.frames) > options.max_pages:
            raise _too_many_pages(source, len(manifest.frames) * stride, options)
        return folder, manifest
    video = _load_pages(source, options)
    manifest = Manifest.of(video, source, stride)
    with appearing(folder) as building:
        building.mkdir()
        for page, frame in zip(manifest.frames, video.frames, strict=True):
            Image.fromarray(frame).save(building / page, quality=JPEG_QUALITY)
        (building / _MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return folder, manifest


def _load_pages(source: Path, options: PageOptions) -> Video:
    """The frames that become pages.

    Raises:
        VideoError: They cannot be read, or are more than a task can show.
    """
    stride, most = options.stride, options.max_pages
    if source.is_dir():
        total = len(frame_files(source))
        if math.ceil(total / stride) > most:
            raise _too_many_pages(source, total, options)
    try:
        # One page more than fits shows that there are too many, without decoding the rest.
        bounded = replace(options.limits, max_frames=most + 1)
        video = load_video(source, stride=stride, fps=options.fps, limits=bounded)
    except VideoError:
        if source.is_dir() or file_kind(source).packets <= most * stride:
            raise
        raise _too_many_pages(source, file_kind(source).packets, options) from None
    if len(video) > most:
        raise _too_many_pages(source, file_kind(source).packets, options)
    return video


def _too_many_pages(source: Path, frames: int, options: PageOptions) -> VideoError:
    fitting = max(options.stride + 1, math.ceil(frames / options.max_pages))
    return VideoError(
        f"{source.name} has about {frames} frames, which at stride {options.stride} are more than "
        f"{options.max_pages} pages; import it with --stride {fitting} ({math.ceil(frames / fitting)} pages), or "
        "cut it into shorter clips"
    )
