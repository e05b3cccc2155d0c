"""In the model process: videos that were decoded lately, so that a further click does not decode them again."""

from __future__ import annotations

from pathlib import Path

from steerseg.runtime.lru import LruCache
from steerseg.video import Progress, Video
from steerseg.video.isolation import IsolatedDecoder

_Key = tuple[Path, int, int, float | None]


class RecentVideos:
    """Loads videos and keeps them, the least recently used first out.

    Args:
        decoder: Decodes them.
        most_bytes: Bytes of decoded frames that are kept; a video that is larger by itself is not.
    """

    def __init__(self, decoder: IsolatedDecoder, most_bytes: int) -> None:
        self._decoder = decoder
        self._videos: LruCache[_Key, Video] = LruCache(most_bytes, weigh=lambda video: video.frames.nbytes)

    def load(self, media: Path, fps: float | None, progress: Progress | None = None) -> Video:
        """The video of a file or a folder of frames; a file that has changed since is decoded anew.

        Args:
            media: The file or folder.
            fps: Frames per second of a folder.
            progress: Called with stage and fraction while it is decoded.

        Raises:
            VideoError: It cannot be decoded, or is beyond the limits.
        """
        try:
            stat = media.stat()
        except OSError:
            return self._decoder.load_video(media, fps=fps, progress=progress)  # says what is wrong
        key = (media, stat.st_mtime_ns, stat.st_size, fps)
        video = self._videos.get(key)
        if video is None:
            video = self._decoder.load_video(media, fps=fps, progress=progress)
            if video.frames.nbytes <= self._videos.capacity:
                self._videos.put(key, video)
        return video
