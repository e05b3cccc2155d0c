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
        self._expected: set[tuple[int, Hashable]] = set()  # worker and video that it only reads ahead so far

    def note(self, worker: int, video: Hashable | None) -> Sighting:
        """Note that a worker begins a job about a video; return who had seen it before."""
        if video is None:
            return Sighting.NONE
        with self._lock:
            seen_by = {one for one in self._holders.get(video, ()) if (one, video) not in self._expected}
            self._expected.discard((worker, video))
            self._hold(worker, video)
        if worker in seen_by:
            return Sighting.SAME_WORKER
        return Sighting.OTHER_WORKER if seen_by else Sighting.NEW

    def expect(self, worker: int, video: Hashable | None) -> None:
        """Note that a worker reads a video ahead, so that the job about it is left to that worker."""
        if video is None:
            return
        with self._lock:
            if worker not in self._holders.get(video, ()):
                self._expected.add((worker, video))
                self._hold(worker, video)

    def forget(self, worker: int) -> None:
        """Forget the videos of a worker whose process is gone."""
        with self._lock:
            for video in self._seen.pop(worker, ()):
                self._drop(worker, video)

    def holders(self, video: Hashable | None) -> frozenset[int]:
        """The workers that have seen a video lately."""
        with self._lock:
            return frozenset(self._holders.get(video, ()))

    def _hold(self, worker: int, video: Hashable) -> None:
        self._holders.setdefault(video, set()).add(worker)
        seen = self._seen.setdefault(worker, OrderedDict())
        seen[video] = None
        seen.move_to_end(video)
        if len(seen) > _KEPT:
            self._drop(worker, seen.popitem(last=False)[0])

    def _drop(self, worker: int, video: Hashable) -> None:
        self._expected.discard((worker, video))
        holders = self._holders[video]
        holders.discard(worker)
        if not holders:
            del self._holders[video]
