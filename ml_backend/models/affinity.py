"""Which workers have seen which videos: one that has decoded and encoded a video answers about it in less time."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Hashable

_KEPT = 32
"""Videos that are remembered of a worker (our choice). Its memory of them is bounded by bytes, so it may hold fewer."""


class Sighting(enum.StrEnum):
    """Whether the video of a job was seen before it began."""

    NONE = "none"  # the job is about no video
    NEW = "new"
    SAME_WORKER = "same_worker"
    OTHER_WORKER = "other_worker"


class VideoAffinity:
    """Remembers the latest videos of each worker, by its index. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, OrderedDict[Hashable, None]] = {}
        self._holders: dict[Hashable, set[int]] = {}

    def note(self, worker: int, video: Hashable | None) -> Sighting:
        """Note that a worker begins a job about a video; return who had seen it before."""
        if video is None:
            return Sighting.NONE
        with self._lock:
            holders = self._holders.setdefault(video, set())
            known, held = bool(holders), worker in holders
            holders.add(worker)
            seen = self._seen.setdefault(worker, OrderedDict())
            seen[video] = None
            seen.move_to_end(video)
            if len(seen) > _KEPT:
                self._drop(worker, seen.popitem(last=False)[0])
        if held:
            return Sighting.SAME_WORKER
        return Sighting.OTHER_WORKER if known else Sighting.NEW

    def forget(self, worker: int) -> None:
        """Forget the videos of a worker whose process is gone."""
        with self._lock:
            for video in self._seen.pop(worker, ()):
                self._drop(worker, video)

    def holders(self, video: Hashable | None) -> frozenset[int]:
        """The workers that have seen a video lately."""
        with self._lock:
            return frozenset(self._holders.get(video, ()))

    def _drop(self, worker: int, video: Hashable) -> None:
        holders = self._holders[video]
        holders.discard(worker)
        if not holders:
            del self._holders[video]
