"""In the model process: videos that were decoded lately, and the one that is decoded for the next request."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from steerseg.errors import SteerSegError
from steerseg.runtime.lru import LruCache
from steerseg.video import Progress, Video
from steerseg.video.isolation import IsolatedDecoder

log = logging.getLogger(__name__)

_Key = tuple[Path, int, int, float | None]

_MOST_AHEAD = 2
"""Videos that are read ahead: the one whose turn has come, and the next one, which is named before that is taken."""

_POLL = 0.1
"""Seconds between two reports of whoever waits for a video that is being read ahead."""


@dataclass(eq=False)
class _Ahead:
    """A video that is being decoded before it is asked for.

    Attributes:
        key: Of the video.
        future: Where it arrives; ``None`` in place of a video that cannot be decoded.
        fraction: Part of it that is decoded, in [0, 1].
    """

    key: _Key
    future: Future[Video | None] = field(default_factory=Future)
    fraction: float = 0.0


class RecentVideos:
    """Loads videos and keeps them, the least recently used first out. One is read ahead, in a thread.

    Args:
        decoder: Decodes them.
        most_bytes: Bytes of decoded frames that are kept; a video that is larger by itself is not.
    """

    def __init__(self, decoder: IsolatedDecoder, most_bytes: int) -> None:
        self._decoder = decoder
        self._videos: LruCache[_Key, Video] = LruCache(most_bytes, weigh=lambda video: video.frames.nbytes)
        self._ahead: LruCache[_Key, _Ahead] = LruCache(_MOST_AHEAD)

    def load(self, media: Path, fps: float | None, progress: Progress | None = None) -> Video:
        """The video of a file or a folder of frames; a file that has changed since is decoded anew.

        Args:
            media: The file or folder.
            fps: Frames per second of a folder.
            progress: Called with stage and fraction while it is decoded.

        Raises:
            VideoError: It cannot be decoded, or is beyond the limits.
        """
        key = _key_of(media, fps)
        if key is None:
            return self._decoder.load_video(media, fps=fps, progress=progress)  # says what is wrong
        video = self._videos.get(key)
        if video is None:
            video = self._read_ahead(key, progress)
            if video is None:
                video = self._decoder.load_video(media, fps=fps, progress=progress)
            if video.frames.nbytes <= self._videos.capacity:
                self._videos.put(key, video)
        return video

    def read_ahead(self, media: Path, fps: float | None) -> None:
        """Begin to decode a video that is probably asked for next, or after one that was read ahead before.

        Args:
            media: The file or folder.
            fps: Frames per second of a folder.
        """
        key = _key_of(media, fps)
        if key is None or key in self._videos or key in self._ahead:
            return
        ahead = _Ahead(key)
        try:
            threading.Thread(target=self._decode, args=(ahead,), name="read-ahead", daemon=True).start()
        except RuntimeError as error:  # no thread more can be had: it is decoded when it is asked for
            log.warning("a video is not read ahead: %s", error)
            return
        self._ahead.put(key, ahead)

    def _decode(self, ahead: _Ahead) -> None:
        def note(stage: str, fraction: float) -> None:
            ahead.fraction = fraction

        media, _, _, fps = ahead.key
        video = None
        try:
            video = self._decoder.load_video(media, fps=fps, progress=note)
        except SteerSegError as error:  # whoever asks for it has it decoded again, and is told
            log.debug("a video could not be read ahead: %s", error)
        finally:
            ahead.future.set_result(video)

    def _read_ahead(self, key: _Key, progress: Progress | None) -> Video | None:
        """The video that was read ahead, waited for; ``None`` where it was not, or could not be."""
        ahead = self._ahead.get(key)
        if ahead is None:
            return None
        while True:
            if progress is not None:
                progress("decode", ahead.fraction)  # may cancel: then it is there for the next who asks
            if wait((ahead.future,), timeout=_POLL).done:
                break
        self._ahead.pop(key)
        return ahead.future.result()


def _key_of(media: Path, fps: float | None) -> _Key | None:
    """What tells a file from another, and from itself after a change; ``None`` where there is no such file."""
    try:
        stat = media.stat()
    except OSError:
        return None
    return media, stat.st_mtime_ns, stat.st_size, fps
