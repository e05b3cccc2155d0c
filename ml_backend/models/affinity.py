"""Which workers have seen which videos: one that has decoded and encoded a video answers about it in less time."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable

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
        self._ahead: dict[int, set[Hashable]] = {}  # by worker, the videos that it reads ahead

    def note(self, worker: int, video: Hashable | None) -> Sighting:
        """Note that a worker begins a job about a video; return who had seen it before."""
        if video is None:
            return Sighting.NONE
        with self._lock:
            seen_by = frozenset(self._holders.get(video, ()))
            self._hold(worker, video)
            for ahead in self._ahead.values():
                ahead.discard(video)
        if worker in seen_by:
            return Sighting.SAME_WORKER
        return Sighting.OTHER_WORKER if seen_by else Sighting.NEW

    def expect(self, worker: int, videos: Iterable[Hashable]) -> None:
        """Note that a worker reads videos ahead, in place of any that it read ahead before."""
        with self._lock:
            self._ahead[worker] = set(videos)

    def forget(self, worker: int) -> None:
        """Forget the videos of a worker whose process is gone."""
        with self._lock:
            self._ahead.pop(worker, None)
            for video in self._seen.pop(worker, ()):
                self._drop(worker, video)

    def holders(self, video: Hashable | None) -> frozenset[int]:
        """The workers that have seen a video lately."""
        with self._lock:
            return frozenset(self._holders.get(video, ()))

    def readers(self, video: Hashable | None) -> frozenset[int]:
        """The workers that read a video ahead, for a job about it that none has begun."""
        with self._lock:
            return self._readers(video)

    def _readers(self, video: Hashable | None) -> frozenset[int]:
        return frozenset(worker for worker, ahead in self._ahead.items() if video in ahead)

    def _hold(self, worker: int, video: Hashable) -> None:
        self._holders.setdefault(video, set()).add(worker)
        seen = self._seen.setdefault(worker, OrderedDict())
        seen[video] = None
        seen.move_to_end(video)
        if len(seen) > _KEPT:
            self._drop(worker, seen.popitem(last=False)[0])

    def _drop(self, worker: int, video: Hashable) -> None:
        holders = self._holders[video]
        holders.discard(worker)
        if not holders:
            del self._holders[video]
