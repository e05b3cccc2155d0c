"""Frames to check: what a doubtful frame is, and that a calm proposal has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ml_backend.predictions.frame_checks import doubtful_frames
from ml_backend.proposals import StoredBothWays, StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from steerseg.masks import encode_rle, iou, rle_iou
from tests.support.annotation_samples import HEIGHT, WIDTH, square

COUNT = 20


def tracklet(
    places: Sequence[int | None], scores: Sequence[float] | None = None, score: float = 0.8
) -> StoredTracklet:
    """A square at these columns; none where there is no column."""
    masks = [np.zeros((HEIGHT, WIDTH), dtype=bool) if x is None else square(x) for x in places]
    return StoredTracklet(
        rles=tuple(encode_rle(mask) for mask in masks),
        frame_scores=np.array([0.95] * len(places) if scores is None else scores, dtype=np.float32),
        prompt=StoredPoint(0, 0.5, 0.5, 1.0),
        score=score,
    )


def proposal(*tracklets: StoredTracklet, expression: str = "the ball") -> StoredProposal:
    return StoredProposal(
        expression=expression,
        attributes=(),
        tracklets=tracklets,
        maps=StoredMaps((0,), None, None, [[[0.0]]]),
        points=(),
        pts=np.arange(COUNT) / 10,
        fps=10.0,
        height=HEIGHT,
        width=WIDTH,
        versions={},
    )


STEADY = [2 * t for t in range(COUNT)]


def test_a_steady_object_has_no_frame_to_check() -> None:
    assert doubtful_frames(proposal(tracklet(STEADY))) == ()
    assert doubtful_frames(proposal()) == ()
    unsure = proposal(tracklet(STEADY, [0.5] * COUNT))
    assert doubtful_frames(unsure)
    assert doubtful_frames(replace(unsure, refused=True)) == (), "nobody was shown any"
    # A fast one jumps all the time, as is usual for it.
    assert doubtful_frames(proposal(tracklet([abs(7 * t - 49) for t in range(15)]))) == ()


def test_a_dip_of_the_score_is_named_with_its_time() -> None:
    scores = [0.95] * COUNT
    scores[7], scores[12] = 0.55, 0.72
    unsure, dip = doubtful_frames(proposal(tracklet(STEADY, scores)))
    assert (unsure.frame, unsure.seconds, dip.frame) == (7, pytest.approx(0.7), 12)
    assert unsure.doubt > dip.doubt
    assert unsure.reasons == ("certainty 0.55 that the object is there",)


def test_a_jump_is_named_where_the_mask_lands() -> None:
    places = [10] * 10 + [40] * 10
    (jump,) = doubtful_frames(proposal(tracklet(places)))
    assert (jump.frame, jump.doubt) == (10, 1.0)
    assert "jumps" in jump.reasons[0]


def test_a_moment_away_and_a_moment_there_are_named() -> None:
    away: list[int | None] = [10] * COUNT
    away[8] = None
    (gone,) = doubtful_frames(proposal(tracklet(away)))
    assert (gone.frame, gone.reasons) == (8, ("not shown for 1 frame",))
    there: list[int | None] = [None] * COUNT
    there[8] = there[9] = 10
    (shown,) = doubtful_frames(proposal(tracklet(there)))
    assert (shown.frame, shown.reasons) == (8, ("shown for 2 frames alone",))


def test_where_the_other_direction_leads_elsewhere_is_named() -> None:
    keyframes = (0, 5, 10, 15, 19)
    ones, changed = np.ones(5, np.float32), np.array([0.1, 0.2, 0.9, 0.9, 1.0], np.float32)
    steady = replace(tracklet(STEADY), both_ways=StoredBothWays(keyframes, ones, ones))
    assert doubtful_frames(proposal(steady)) == ()
    another = replace(steady, both_ways=StoredBothWays(keyframes, ones, changed))
    (found,) = doubtful_frames(proposal(another))
    assert (found.frame, found.doubt) == (5, pytest.approx(0.8))
    assert found.reasons == ("tracked backwards from frame 20, the object is elsewhere: overlap 0.20",)
    both = replace(steady, both_ways=StoredBothWays(keyframes, changed[::-1], changed))
    assert [one.frame for one in doubtful_frames(proposal(both))] == [5, 15]


def test_only_what_the_expression_means_counts() -> None:
    still, jumping = tracklet([30] * COUNT), tracklet([4] * 10 + [50] * 10, score=0.5)
    assert doubtful_frames(proposal(still, jumping)) == ()
    (found,) = doubtful_frames(proposal(still, jumping, expression="the two balls"))
    assert found.frame == 10


def test_the_most_doubtful_frames_are_named_in_their_order() -> None:
    scores = [0.5 + 0.01 * t for t in range(COUNT)]
    found = doubtful_frames(proposal(tracklet(STEADY, scores)), limit=5)
    assert [one.frame for one in found] == [0, 1, 2, 3, 4]


def test_encoded_masks_overlap_as_decoded_ones_do() -> None:
    for first, second in ((square(2), square(5)), (square(2), square(30))):
        assert rle_iou(encode_rle(first), encode_rle(second)) == pytest.approx(iou(first, second))
    empty = encode_rle(np.zeros((HEIGHT, WIDTH), dtype=bool))
    assert rle_iou(empty, empty) == 1.0
