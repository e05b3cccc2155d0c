"""A video's frames as JPEG pages, with a manifest of their times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict

from ml_backend.importing.media import MediaFolder, appearing
from ml_backend.importing.strides import Cut
from steerseg.video import frame_files
from steerseg.video.isolation import IsolatedDecoder

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


@dataclass(frozen=True)
class PageOptions:
    """How a video becomes tasks.

    Attributes:
        cut: Stride, most pages of a task, and whether longer videos are split.
        fps: Frames a second of folders of frames; ``None`` for 25. Files have their own rate.
        decoder: Decodes videos, within its limits of what one may cost.
    """

    cut: Cut
    fps: float | None
    decoder: IsolatedDecoder


def write_pages(source: Path, name: str, media: MediaFolder, options: PageOptions) -> tuple[Path, Manifest]:
    """Write the frames as ``00000.jpg``, ... with a manifest, or find them written.

    Args:
        source: The video, or a folder of frames.
        name: Name of the folder to write, less what the options add.
        media: The folder of imported media.
        options: Stride, frame rate and decoder.

    Returns:
        The folder of the pages, and its manifest.

    Raises:
        VideoError: The video cannot be read, or has more pages than a task can show.
        ConfigError: The folder cannot be written.
    """
    total = len(frame_files(source)) if source.is_dir() else options.decoder.file_kind(source).packets
    fps, cut = options.fps, options.cut
    stride = cut.step(total, cut.max_pages)
    cut.check_pages(source.name, total, stride)
    suffix = (f"-s{stride}" if stride > 1 else "") + (f"-{fps:g}fps" if fps and source.is_dir() else "")
    folder = media.media_dir / "frames" / (name + suffix)
    if (folder / _MANIFEST).is_file():
        return folder, Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    stream = options.decoder.stream(source, fps=fps, stride=stride)
    with appearing(folder) as building:
        building.mkdir()
        height = width = 0
        for page, frame in enumerate(stream):
            height, width = frame.shape[:2]
            Image.fromarray(frame).save(building / page_name(page), quality=JPEG_QUALITY)
        pts = stream.pts
        manifest = Manifest(
            source=source.name,
            digest=stream.digest,
            fps=round(stream.fps * stride, 6),
            stride=stride,
            width=width,
            height=height,
            frames=[page_name(page) for page in range(len(pts))],
            frame_indices=[page * stride for page in range(len(pts))],
            pts=[round(float(seconds), 6) for seconds in pts],
        )
        (building / _MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return folder, manifest


def page_name(page: int) -> str:
    """File name of a page, from 0."""
    return f"{page:05d}.jpg"
