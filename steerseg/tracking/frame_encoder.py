"""Frames encoded when tracking needs them: once each, in batches, and ahead while something else is done."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from steerseg.runtime.memory import free_bytes, to_device, to_host
from steerseg.segmenters.base import Features, Segmenter
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.tracklets import StageProgress
from steerseg.video.loading import Video

ENCODE_BATCH = 4
_BATCHES_A_GAP = 3
"""A GPU is given so many batches while it decodes eight tokens of an answer: 80 frames within one of 60 tokens."""


class FrameEncoder:
    """Encodes frames by a segmenter and stores their features with the video.

    Args:
        segmenter: Encodes frames.
        feature_bytes: How many bytes of a video's features are kept.

    Attributes:
        batch: How many frames are encoded at once.
    """

    def __init__(self, segmenter: Segmenter, feature_bytes: int) -> None:
        self.segmenter = segmenter
        self.feature_bytes = feature_bytes
        self.batch = ENCODE_BATCH
        self._on_host = False

    def halve(self) -> None:
        """Encode half as many frames at once, and keep the features of videos to come in the host's memory."""
        self.batch = max(1, self.batch // 2)
        self._on_host = True

    def open(self, video: Video) -> EncodedVideo:
        """A video without features; its frames are encoded when they are first needed."""
        return EncodedVideo(video, self._storage(video), self.feature_bytes)

    def _storage(self, video: Video) -> torch.device:
        """The segmenter's device, unless the features would take more than a third of its free memory."""
        device = self.segmenter.device
        if device.type != "cuda":
            return device
        if self._on_host:
            return torch.device("cpu")
        wanted = min(len(video) * self.segmenter.frame_bytes, self.feature_bytes)
        return device if wanted < free_bytes(device) / 3 else torch.device("cpu")

    def encode(
        self,
        encoded: EncodedVideo,
        frames: Sequence[int] | None = None,
        progress: StageProgress | None = None,
        *,
        staying: Sequence[int] = (),
    ) -> None:
        """Encode the frames whose features are missing.

        Args:
            encoded: The video.
            frames: Indices of the wanted frames; all where left out.
            progress: Told of each batch.
            staying: Frames whose features make no room for these.
        """
        wanted = range(len(encoded)) if frames is None else frames
        missing = encoded.missing(wanted)
        done = 0
        for part in self.batches(missing):
            features = self.segmenter.encode_frames(encoded.frames[part])
            self.store(encoded, part, features, wanted=[*part, *staying])
            done += len(part)
            if progress is not None:
                progress(done / len(missing))

    @contextlib.contextmanager
    def ahead(self, encoded: EncodedVideo, first: Sequence[int]) -> Iterator[Callable[[], None]]:
        """Inside, frames are encoded while something else is done: ``first`` these, then the others.

        A CPU encodes in a thread of its own: two passes side by side fill two cores better than one pass that is spread
        over both. A GPU does so where it is told that there is a gap: decoding an answer waits for its memory, and
        encoding frames for its arithmetic.

        What is begun when the block ends is kept, the rest is left to :meth:`encode`. Of a long video, only ``first``
        is encoded.

        Args:
            encoded: The video. Inside, nobody else encodes frames.
            first: Indices of the frames that are needed soonest.

        Yields:
            To be called in a gap; it never waits for the device.
        """
        others = () if encoded.is_long else range(len(encoded))
        missing = [frame for frame in each_once((*first, *others)) if encoded.missing([frame])]
        way = self._in_a_thread if self.segmenter.device.type == "cpu" else self._in_gaps
        with way(encoded, first, self.batches(missing)) as in_a_gap:
            yield in_a_gap

    @contextlib.contextmanager
    def _in_gaps(
        self, encoded: EncodedVideo, first: Sequence[int], parts: Sequence[list[int]]
    ) -> Iterator[Callable[[], None]]:
        """Inside, a GPU encodes on a stream of its own what is handed to it in gaps."""
        device = self.segmenter.device
        if encoded.device != device:  # there is no room for what comes early
            yield lambda: None
            return
        side, main = _side_stream(device), torch.cuda.current_stream(device)
        left = iter(parts)
        begun: list[tuple[list[int], list[Features]]] = []

        def encode_some() -> None:
            with torch.cuda.stream(side):
                for part in itertools.islice(left, _BATCHES_A_GAP):
                    begun.append((part, self._encode_part(encoded, part)))

        side.wait_stream(main)
        try:
            yield encode_some
        finally:
            main.wait_stream(side)
            for part, features in begun:
                for level in itertools.chain.from_iterable(features):
                    level.record_stream(main)
                self.store(encoded, part, features, wanted=first)

    @contextlib.contextmanager
    def _in_a_thread(
        self, encoded: EncodedVideo, first: Sequence[int], parts: Sequence[list[int]]
    ) -> Iterator[Callable[[], None]]:
        """Inside, a CPU encodes in a thread of its own."""
        thread = ThreadPoolExecutor(1, "encode")
        coming = [thread.submit(self._encode_part, encoded, part) for part in parts]
        try:
            yield lambda: None
        finally:
            thread.shutdown(cancel_futures=True)
            for part, features in zip(parts, coming, strict=True):
                if not features.cancelled():
                    self.store(encoded, part, features.result(), wanted=first)

    def batches(self, frames: Sequence[int]) -> list[list[int]]:
        """Frames in their order, as many at a time as are encoded at once."""
        return [list(frames[start : start + self.batch]) for start in range(0, len(frames), self.batch)]

    def _encode_part(self, encoded: EncodedVideo, frames: list[int]) -> list[Features]:
        return self.segmenter.encode_frames(encoded.frames[frames])

    @staticmethod
    def store(
        encoded: EncodedVideo, frames: Sequence[int], features: list[Features], wanted: Sequence[int]
    ) -> None:
        """Store features of frames of a video; while that fills its memory, those that are ``wanted`` stay."""
        for frame, levels in zip(frames, features, strict=True):
            on_host = encoded.device.type == "cpu"
            encoded.store(frame, tuple(map(to_host, levels)) if on_host else levels, wanted=wanted)
        encoded.release_read(len(frames))

    def levels(self, encoded: EncodedVideo, frames: Sequence[int]) -> list[Tensor]:
        """Features of one frame a row, encoded where they are missing: (N, C, h, w) of each level."""
        self.encode(encoded, frames, staying=frames)
        device = self.segmenter.device
        if len(set(frames)) == 1:
            return [
                to_device(level, device)[None].expand(len(frames), -1, -1, -1)
                for level in encoded.get(frames[0])
            ]
        # From the host in the device's own order: a copy to the host may not be complete yet.
        stored = [[to_device(level, device) for level in encoded.get(frame)] for frame in frames]
        return [torch.stack(level) for level in zip(*stored, strict=True)]


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Lookahead:
    """Has the frames encoded that tracking comes to, a batch at a time. A context: its end stops the encoding.

    On a CPU the next batch is encoded in a thread of its own: a step of tracking is a thousand small operations in
    turn, which leave cores idle that the encoder's large products fill. A GPU has its own queue.

    Args:
        encoder: Encodes frames.
        encoded: The video.
    """

    def __init__(self, encoder: FrameEncoder, encoded: EncodedVideo) -> None:
        self._encoder = encoder
        self._encoded = encoded
        on_cpu = encoder.segmenter.device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, "encode") if on_cpu else None
        self._coming: list[tuple[list[int], Future[list[Features]]]] = []

    def __enter__(self) -> Lookahead:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and drop what is not encoded yet."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def require(self, paths: Sequence[Sequence[int]], index: int) -> None:
        """Have the frames at an index of some paths encoded, and begin with those that come after them."""
        encoded = self._encoded
        now = [path[index] for path in paths]
        if not encoded.missing(now):
            return
        if self._thread is None:
            soon = full_batches(encoded, paths, index, self._encoder.batch)
            self._encoder.encode(encoded, soon, staying=now)
            return
        batch = self._encoder.batch
        soon, later = (
            each_once(frame for path in paths for frame in path[start : start + batch])
            for start in (index, index + batch)
        )
        for part, features in self._coming:
            self._encoder.store(encoded, part, features.result(), wanted=soon)
        self._coming.clear()
        self._encoder.encode(encoded, soon, staying=now)
        missing = [frame for frame in later if encoded.missing([frame])]
        self._coming = [
            (part, self._thread.submit(self._encoder.segmenter.encode_frames, encoded.frames[part]))
            for part in self._encoder.batches(missing)
        ]


def each_once(frames: Iterable[int]) -> list[int]:
    """Frames in their order, without repetitions."""
    return list(dict.fromkeys(frames))


def full_batches(encoded: EncodedVideo, paths: Sequence[Sequence[int]], index: int, batch: int) -> list[int]:
    """Frames that paths come to soon, such that the missing ones fill batches: about a batch a path.

    Args:
        encoded: The video.
        paths: Frames of each path, in the order of tracking.
        index: Where the paths are.
        batch: Frames that are encoded at once.
    """
    soon: dict[int, None] = {}
    missing = 0
    longest = max(len(path) for path in paths)
    for ahead in range(index, min(longest, index + 3 * batch)):
        for path in paths:
            if ahead - index >= batch and missing % batch == 0:
                return list(soon)
            if ahead < len(path) and path[ahead] not in soon:
                soon[path[ahead]] = None
                missing += len(encoded.missing([path[ahead]]))
    return list(soon)
