"""Local media of a task: the side that is used, and how its frames map to the other side."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.media_cache import file_digest
from ml_backend.label_studio.task import Task, task_value
from ml_backend.settings import Settings
from steerseg.errors import VideoError
from steerseg.runtime.lru import LruCache
from steerseg.video import VideoLimits
from steerseg.video.isolation import IsolatedDecoder
from steerseg.video.player import PlayerTimeline

STRIDE_KEY = "stride"
"""Key of a task's data: frames of the video from one page to the next; the command ``import`` writes it."""

VIDEO_STRIDE_KEY = "video_stride"
"""Key of a task's data: frames of the original from one frame of the task's own video to the next. ``fps`` is the rate
of the thinned video, so this is not :data:`STRIDE_KEY`, by which the rate of pages is divided. The command ``import``
writes it of videos that it thinned; those of earlier releases lack it."""

FIRST_FRAME_KEY = "first_frame"
"""Key of the task's data with the frame of the original video at which a part of it begins."""


log = logging.getLogger(__name__)

MEDIA_FOLDER = "media"
"""Folder of fetched media below the data folder."""
_TIMELINES = 256


@dataclass(frozen=True)
class Media:
    """A task's media on this machine.

    Attributes:
        path: A video file, or a folder of frames.
        digest: SHA-256 of the content, with what else decides how it is read.
        fps: Pages a second of a folder of frames, where the task says so.
        frames: The frames side of the task, if it has one.
        video: The video side of the task, if it has one.
        stride: Frames of the original video from one frame of the media to the next.
        timeline: When a player shows the frames of a video file; ``None`` for a folder of frames.
    """

    path: Path
    digest: str
    fps: float | None = None
    frames: FramesSide | None = None
    video: VideoSide | None = None
    stride: int = 1
    timeline: PlayerTimeline | None = None


def media_limits(settings: Settings) -> VideoLimits:
    """The limits of the videos that tasks bring."""
    return VideoLimits(max_bytes=settings.max_download_bytes, bare_streams=False)


class Loader(Protocol):
    """Finds and fetches the media of a task; see :class:`MediaLoader`."""

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        """The task's media on this machine; see :meth:`MediaLoader.load`."""


class MediaLoader:
    """Fetches the media of tasks into a cache below the data folder."""

    def __init__(self, settings: Settings) -> None:
        self._decoder = IsolatedDecoder(media_limits(settings))
        self._timelines: LruCache[tuple[Path, int, int], tuple[PlayerTimeline | None]] = LruCache(_TIMELINES)
        self._timelines_lock = threading.Lock()
        self._store = MediaStore(
            settings.data_dir / MEDIA_FOLDER,
            download_timeout=settings.download_timeout,
            max_bytes=settings.max_download_bytes,
            cache_bytes=settings.media_cache_bytes,
            allowed_hosts=settings.allowed_hosts,
            allow_private_addresses=settings.allow_private_addresses,
            local_roots=settings.local_roots,
            local_files_root=settings.local_files_root,
            cloud_roots=settings.cloud_roots,
        )

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        """Fetch what the task is about.

        A task may have pages and a video at once. The pages are then the media, being few, and the boxes on
        the video are interpolated between them.

        Args:
            task: The task.
            controls: The controls of its project.
            host: Its Label Studio, if known.

        Raises:
            VideoError: The task names no media, or they cannot be had.
        """
        frames, video = controls.frames, controls.video
        pages = None if frames is None else task_value(task.data, frames.data_key)
        address = None if video is None else task_value(task.data, video.data_key)
        if frames is not None and pages:
            stride = page_stride(task.data)
            rate = positive_number(task.data.get("fps"))
            fps = None if rate is None else rate / stride
            folder = self._store.fetch_frames(pages, host=host, task_id=task.id)
            return Media(
                path=folder,
                digest=_digest_of_text(f"{folder.name}\n{fps}"),  # the folder is named by its content
                fps=fps,
                frames=frames,
                video=video if address else None,
                stride=stride,
            )
        if video is not None and address:
            path = self._store.fetch(address, host=host, task_id=task.id)
            return Media(path=path, digest=_digest_of_file(path), video=video, timeline=self._timeline(path))
        raise VideoError(_no_media(task.data, frames, video))

    def _timeline(self, path: Path) -> PlayerTimeline | None:
        """The timeline of a video; ``None`` for a file that is none, of which the model process says so."""
        try:
            stat = path.stat()
        except OSError as error:
            raise VideoError(f"the task's video cannot be read: {error.strerror}; ask again") from error
        key = (path, stat.st_mtime_ns, stat.st_size)
        with self._timelines_lock:
            known = self._timelines.get(key)
        if known is not None:
            return known[0]
        try:
            timeline = self._decoder.read_timeline(path)
        except VideoError as error:
            log.info("no timeline: %s", error)
            timeline = None
        with self._timelines_lock:
            self._timelines.put(key, (timeline,))
        return timeline


def positive_number(value: object) -> float | None:
    """A finite number above zero, written as a number or as text; else ``None``."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def page_stride(data: Mapping[str, Any]) -> int:
    """Frames of the original video from one page to the next."""
    return _stride(data, STRIDE_KEY)


def video_stride(data: Mapping[str, Any]) -> int:
    """Frames of the original from one frame of the task's own video to the next; 1 where nothing says it."""
    return _stride(data, VIDEO_STRIDE_KEY)


def _stride(data: Mapping[str, Any], key: str) -> int:
    number = positive_number(data.get(key))
    return 1 if number is None else max(1, round(number))


def _no_media(data: Mapping[str, Any], frames: FramesSide | None, video: VideoSide | None) -> str:
    keys = [repr(side.data_key) for side in (frames, video) if side is not None]
    there = ", ".join(repr(key) for key in list(data)[:10]) or "nothing"
    return (
        f"the task's data has no media under {' or '.join(keys)}, which the labelling configuration shows; "
        f"it has {there}"
    )


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise VideoError(f"the task's video cannot be read: {error.strerror}; ask again") from error
