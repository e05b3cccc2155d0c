"""Videos that are opened for tracking, with the features that earlier work on them has left."""

from __future__ import annotations

from collections.abc import Callable

from steerseg.runtime.lru import LruCache
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.tracker import Tracker
from steerseg.video.loading import Video


class OpenVideos:
    """Opens videos and keeps them, the least recently opened first out.

    Args:
        tracker: What tracks in them.
        most_bytes: Bytes of frames and features of all videos together; the one in use is kept whatever its size.
        on_drop: Called with the digest of each video that is dropped for want of room.
    """

    def __init__(
        self, tracker: Tracker, most_bytes: int, on_drop: Callable[[str], None] = lambda digest: None
    ) -> None:
        self._tracker = tracker
        self._videos = LruCache[str, EncodedVideo](
            most_bytes, weigh=lambda encoded: encoded.size, on_evict=lambda digest, _: on_drop(digest)
        )

    def open(self, video: Video) -> EncodedVideo:
        """The video for the tracker, with the features that are kept of it."""
        encoded = self._videos.get(video.digest) or self._tracker.open(video)
        self._videos.put(video.digest, encoded)
        return encoded

    def give_memory(self, more: bool) -> None:
        """Where ``more`` is needed, keep features in the host's memory from now on."""
        if more:
            for encoded in self._videos.values():
                encoded.move_to_host()

    def clear(self) -> None:
        """Drop all videos, without calling ``on_drop``."""
        self._videos.clear()

    @property
    def size(self) -> int:
        """Bytes of the videos and their features."""
        return int(self._videos.weight)
