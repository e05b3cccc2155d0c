"""Frames of a proposal that a person should look at first, each with the reason.

Four signs show in what a proposal stores (our choice): the segmenter was not certain whether the object is there, the
mask jumped from one frame to the next, the object came or went for a moment, or it is another one when it is tracked
in the other direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ml_backend.proposals import StoredBothWays, StoredProposal, StoredTracklet
from steerseg.masks import mask_area, rle_iou
from steerseg.words.counting import choose_candidates, instances_meant

MOST_FRAMES = 8
"""Frames of one proposal that are named, the most doubtful ones."""
_UNSURE = 0.4  # doubt of a score from which on a frame is named: scores from 0.3 to 0.7
_DIP = 0.2  # by which a score lies below the median of the frames that show the object
_JUMP = 0.5  # share of the usual overlap of neighbouring masks below which a mask has jumped
_MOMENT = 3  # frames
_SAME = 0.5  # overlap from which on two tracks follow one object


@dataclass(frozen=True)
class DoubtfulFrame:
    """A frame to check.

    Attributes:
        frame: Its decode index.
        seconds: Its time in the media.
        doubt: In [0, 1].
        reasons: Why, for a person; the weightiest first.
    """

    frame: int
    seconds: float
    doubt: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Sign:
    frame: int
    doubt: float
    reason: str


def doubtful_frames(proposal: StoredProposal, limit: int = MOST_FRAMES) -> tuple[DoubtfulFrame, ...]:
    """The frames of a proposal to look at first, in their order.

    Of the tracklets, those count that the expression means: the best one, or all of them. None does where presence is
    refused, since nobody was shown any.

    Args:
        proposal: The proposal.
        limit: Most frames.
    """
    signs: dict[int, list[_Sign]] = {}
    for rank in choose_candidates(proposal.offered, instances_meant(proposal.expression)):
        for sign in _signs(proposal.offered[rank]):
            signs.setdefault(sign.frame, []).append(sign)
    found = []
    for frame, there in signs.items():
        there.sort(key=lambda sign: -sign.doubt)
        reasons = tuple(dict.fromkeys(sign.reason for sign in there))
        found.append(DoubtfulFrame(frame, float(proposal.pts[frame]), there[0].doubt, reasons))
    found.sort(key=lambda one: (-one.doubt, one.frame))
    return tuple(sorted(found[:limit], key=lambda one: one.frame))


def doubt_of_task(frames: Sequence[DoubtfulFrame]) -> float:
    """How doubtful a proposal is as a whole: the sum over its frames, so that many doubts weigh more than one."""
    return sum(one.doubt for one in frames)


def _signs(tracklet: StoredTracklet) -> Iterator[_Sign]:
    shown = np.array([mask_area(rle) > 0 for rle in tracklet.rles], dtype=bool)
    yield from _of_scores(np.asarray(tracklet.frame_scores, dtype=np.float64), shown)
    yield from _of_jumps(tracklet, shown)
    yield from _of_moments(shown)
    if tracklet.both_ways is not None:
        yield from _of_directions(tracklet.both_ways)


def _of_scores(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> Iterator[_Sign]:
    usual = float(np.median(scores[shown])) if shown.any() else 1.0
    for frame, score in enumerate(scores):
        doubt = 1.0 - abs(2.0 * float(np.clip(score, 0.0, 1.0)) - 1.0)
        dip = usual - float(score) if shown[frame] else 0.0
        if doubt >= _UNSURE or dip >= _DIP:
            yield _Sign(frame, min(1.0, max(doubt, dip)), f"certainty {score:.2f} that the object is there")


def _of_jumps(tracklet: StoredTracklet, shown: NDArray[np.bool_]) -> Iterator[_Sign]:
    """A fast object overlaps little from frame to frame all the time: what counts is how much less than usual."""
    later = [frame for frame in range(1, len(shown)) if shown[frame] and shown[frame - 1]]
    overlaps = {frame: rle_iou(tracklet.rles[frame - 1], tracklet.rles[frame]) for frame in later}
    usual = float(np.median(list(overlaps.values()))) if overlaps else 0.0
    for frame, overlap in overlaps.items():
        if overlap < _JUMP * usual:
            doubt = 1.0 - overlap / usual
            yield _Sign(frame, doubt, f"the mask jumps: overlap {overlap:.2f}, usually {usual:.2f}")


def _of_moments(shown: NDArray[np.bool_]) -> Iterator[_Sign]:
    edges = np.flatnonzero(np.diff(shown)) + 1
    for start, end in pairwise(edges):
        if end - start <= _MOMENT:
            frames = f"{end - start} frame{'' if end - start == 1 else 's'}"
            reason = f"shown for {frames} alone" if shown[start] else f"not shown for {frames}"
            yield _Sign(int(start), 0.6, reason)


def _of_directions(both: StoredBothWays) -> Iterator[_Sign]:
    """Where a track from the first or from the last mask begins to follow something else than the tracklet."""
    ways = (("forwards", both.frames, both.forwards), ("backwards", both.frames[::-1], both.backwards[::-1]))
    for way, frames, overlaps in ways:
        for (_, before), (frame, overlap) in pairwise(zip(frames, overlaps, strict=True)):
            if overlap < _SAME <= before:
                reason = f"tracked {way} from frame {frames[0] + 1}, the object is elsewhere: overlap {overlap:.2f}"
                yield _Sign(int(frame), 1.0 - float(overlap), reason)
