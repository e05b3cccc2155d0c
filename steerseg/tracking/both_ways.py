"""Whether an object is the same one when it is tracked from its first mask forwards and from its last one backwards.

A tracker that has gone over to another object agrees with itself from there on, and shows no sign of it. Tracked
backwards from where it ended, the other object leads elsewhere (our choice; after the forward-backward error of Kalal
et al., 2010, for points).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerseg.masks import decode_rle, iou, mask_area
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.tracker import Tracker
from steerseg.tracking.tracklets import Prompt, StageProgress, Tracklet


@dataclass(frozen=True)
class BothWays:
    """How two tracks of an object overlap its tracklet, on K frames from its first mask there to its last one.

    Attributes:
        frames: The K frames, rising; fewer than two where the object is on fewer of them.
        forwards: (K,) float32 IoU in [0, 1] of the track from the first mask; 1 where both are empty.
        backwards: (K,) float32 IoU of the track from the last mask.
    """

    frames: tuple[int, ...]
    forwards: NDArray[np.float32]
    backwards: NDArray[np.float32]


NOT_COMPARED = BothWays((), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32))
"""Of an object that is on fewer than two of the frames."""


def track_both_ways(
    tracker: Tracker,
    encoded: EncodedVideo,
    tracklets: Sequence[Tracklet],
    frames: Sequence[int],
    progress: StageProgress | None = None,
) -> tuple[BothWays, ...]:
    """Track objects anew from their first and from their last mask, all as one batch, over some frames alone.

    Args:
        tracker: The tracker.
        encoded: The video; ``frames`` of it are encoded where they are not yet.
        tracklets: The objects over the whole video.
        frames: Where to compare, such as the keyframes. Few of them cost little: the segmenter sees no others.
        progress: Told of each tracked frame.
    """
    wanted = sorted(set(frames))
    shown = [[frame for frame in wanted if mask_area(tracklet.rles[frame])] for tracklet in tracklets]
    compared = [index for index, there in enumerate(shown) if len(there) > 1]
    prompts = [
        Prompt(frame, mask=decode_rle(tracklets[index].rles[frame]))
        for index in compared
        for frame in (shown[index][0], shown[index][-1])
    ]
    starts = tracker.start_each(encoded, prompts)
    found = [NOT_COMPARED] * len(tracklets)
    if not starts:
        return tuple(found)
    tracked = tracker.propagate(encoded, starts, wanted, progress)
    for position, index in enumerate(compared):
        span = slice(wanted.index(shown[index][0]), wanted.index(shown[index][-1]) + 1)
        proposed = [decode_rle(tracklets[index].rles[frame]) for frame in wanted[span]]
        found[index] = BothWays(
            tuple(wanted[span]),
            _overlaps(tracked.masks(2 * position)[span], proposed),
            _overlaps(tracked.masks(2 * position + 1)[span], proposed),
        )
    return tuple(found)


def _overlaps(masks: Iterable[NDArray[np.bool_]], others: Iterable[NDArray[np.bool_]]) -> NDArray[np.float32]:
    return np.array([iou(mask, other) for mask, other in zip(masks, others, strict=True)], dtype=np.float32)
