"""In the model process: videos that were decoded lately, and those that are decoded for the next requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from steerseg.errors import Cancelled
from steerseg.runtime.lru import LruCache
from steerseg.video import Progress, Video
from steerseg.video.isolation import IsolatedDecoder

log = logging.getLogger(__name__)

_Key = tuple[Path, int, int, float | None]

_MOST_AHEAD = 4
"""Videos that are read ahead: the one whose turn has come, and the next ones, which are named before that is taken."""

_POLL = 0.1
"""Seconds between two reports of whoever waits for a video that is being read ahead."""


@dataclass(eq=False)
class _Ahead:
    """A video that is being decoded before it is asked for.

    Attributes:
        key: Of the video.
        future: Where it arrives; ``None`` in place of a video that cannot be decoded.
        fraction: Part of it that is decoded, in [0, 1].
        abandoned: Whether nobody is to ask for it any more.
    """

    key: _Key
    future: Future[Video | None] = field(default_factory=Future)
    fraction: float = 0.0
    abandoned: bool = False

    @property
    def video(self) -> Video | None:
        """The video, where it has arrived."""
        return self.future.result() if self.future.done() else None

    @property
    def nbytes(self) -> int:
        """Bytes of its frames; 0 until it has arrived."""
        return 0 if self.video is None else self.video.frames.nbytes


class RecentVideos:
    """Loads videos and keeps them, the least recently used first out. Some are read ahead, one at a time.

    What is read ahead counts as well: there is less room for the others, and none where it is as large as the budget.
    Nothing further is begun then.

    Args:
        decoder: Decodes them.
        most_bytes: Bytes of decoded frames that are kept; a video that is larger by itself is only read ahead.
    """

    def __init__(self, decoder: IsolatedDecoder, most_bytes: int) -> None:
        self._decoder = decoder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # what is read ahead arrives in a thread of its own
        self._turn = threading.Lock()  # held by the thread that decodes ahead
        self._videos: LruCache[_Key, Video] = LruCache(most_bytes, weigh=lambda video: video.frames.nbytes)
        self._ahead: LruCache[_Key, _Ahead] = LruCache(_MOST_AHEAD, on_evict=_abandon)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded frames that it holds."""
        with self._lock:
            return int(self._videos.weight) + self._ahead_bytes

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
        with self._lock:
            video = self._videos.get(key)
        if video is None:
            video = self._read_ahead(key, progress)
            if video is None:
                video = self._decoder.load_video(media, fps=fps, progress=progress)
            with self._lock:
                self._keep(key, video)
        return video

    def read_ahead(self, media: Path, fps: float | None) -> None:
        """Begin to decode a video that is probably asked for next, or after one that was read ahead before.

        Args:
            media: The file or folder.
            fps: Frames per second of a folder.
        """
        key = _key_of(media, fps)
        with self._lock:
            if key is None or key in self._videos or key in self._ahead:
                return
        ahead = _Ahead(key)
        try:
            threading.Thread(target=self._decode, args=(ahead,), name="read-ahead", daemon=True).start()
        except RuntimeError as error:  # no thread more can be had: it is decoded when it is asked for
            log.warning("a video is not read ahead: %s", error)
            return
        with self._lock:
            self._ahead.put(key, ahead)
            self._make_room()

    def arrived(self, media: Path, fps: float | None) -> Video | None:
        """The video of a file or a folder of frames where it is decoded already.

        Args:
            media: The file or folder.
            fps: Frames per second of a folder.
        """
        key = _key_of(media, fps)
        if key is None:
            return None
        with self._lock:
            ahead = self._ahead.peek(key)
            return self._videos.peek(key) if ahead is None else ahead.video

    def settle(self, needed: Collection[tuple[Path, float | None]]) -> None:
        """Take what was read ahead for others than these as any other video: it is kept where there is room.

        Args:
            needed: Files or folders, with the frames per second of a folder.
        """
        keys = {_key_of(media, fps) for media, fps in needed}
        with self._lock:
            for key, ahead in self._ahead.items():
                if key not in keys:
                    self._ahead.pop(key)
                    _abandon(key, ahead)
                    if ahead.video is not None:
                        self._keep(key, ahead.video)

    def _decode(self, ahead: _Ahead) -> None:
        def note(stage: str, fraction: float) -> None:
            ahead.fraction = fraction
            if ahead.abandoned:
                raise Cancelled("nobody is to ask for the video any more")

        media, _, _, fps = ahead.key
        video = None
        try:
            with self._turn:
                if not ahead.abandoned and self._has_room_ahead():
                    video = self._decoder.load_video(media, fps=fps, progress=note)
        except Exception as error:  # whoever asks for it has it decoded again, and is told
            log.debug("a video could not be read ahead: %s", error)
        finally:
            with self._lock:
                ahead.future.set_result(video)
                self._make_room()

    def _read_ahead(self, key: _Key, progress: Progress | None) -> Video | None:
        """The video that was read ahead, waited for; ``None`` where it was not, or could not be."""
        with self._lock:
            ahead = self._ahead.get(key)
        if ahead is None:
            return None
        while True:
            if progress is not None:
                progress("decode", ahead.fraction)  # may cancel: then it is there for the next who asks
            if wait((ahead.future,), timeout=_POLL).done:
                break
        with self._lock:
            self._ahead.pop(key)
        return ahead.future.result()

    def _has_room_ahead(self) -> bool:
        """Whether one more may be read ahead; always where none is there."""
        with self._lock:
            held = self._ahead_bytes
        return held == 0 or held < self._most_bytes

    @property
    def _ahead_bytes(self) -> int:
        return sum(ahead.nbytes for ahead in self._ahead.values())

    def _keep(self, key: _Key, video: Video) -> None:
        """Keep a video as the newest one, where it fits beside what was read ahead."""
        if video.frames.nbytes <= self._most_bytes - self._ahead_bytes:
            self._videos.put(key, video)
            self._make_room()

    def _make_room(self) -> None:
        """Drop the oldest videos until the others fit beside what was read ahead."""
        self._videos.shrink(self._most_bytes - self._ahead_bytes)


def _abandon(_: _Key, ahead: _Ahead) -> None:
    """Let the decoding of a video end, or not begin."""
    ahead.abandoned = True


def _key_of(media: Path, fps: float | None) -> _Key | None:
    """What tells a file from another, and from itself after a change; ``None`` where there is no such file."""
    try:
        stat = media.stat()
    except OSError:
        return None
    return media, stat.st_mtime_ns, stat.st_size, fps
