"""In the model process: videos that were decoded lately, so that a further click does not decode them again."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from steerseg.video import VideoLimits, load_video

if TYPE_CHECKING:
    from steerseg.pipeline import Progress
    from steerseg.video import Video

_Key = tuple[Path, int, int, float | None]


class RecentVideos:
    """Loads videos and keeps them, the least recently used first out.

    Args:
        limits: What is loaded at all.
        most_bytes: How much of decoded frames is kept; a video that is larger by itself is not.
    """

    def __init__(self, limits: VideoLimits, most_bytes: int) -> None:
        self._limits = limits
        self._most_bytes = most_bytes
        self._videos: OrderedDict[_Key, Video] = OrderedDict()

    def load(self, media: Path, fps: float | None, progress: Progress | None = None) -> Video:
        """The video of a file or a folder of frames; a file that has changed since is decoded anew.

        Args:
            media: The file or folder.
            fps: Frames a second of a folder.
            progress: Called while it is decoded.

        Raises:
            VideoError: It cannot be decoded, or is beyond the limits.
        """
        try:
            stat = media.stat()
        except OSError:
            return load_video(media, limits=self._limits, fps=fps, progress=progress)  # says what is wrong
        key = (media, stat.st_mtime_ns, stat.st_size, fps)
        video = self._videos.pop(key, None)
        if video is None:
            video = load_video(media, limits=self._limits, fps=fps, progress=progress)
        if video.frames.nbytes <= self._most_bytes:
            self._videos[key] = video
        while sum(kept.frames.nbytes for kept in self._videos.values()) > self._most_bytes:
            self._videos.popitem(last=False)
        return video
