"""Which frames are added to the keyframes."""

from itertools import pairwise

import numpy as np

from steerseg.keyframes import LEAST_SECONDS, moments_between
from steerseg.video import keyframe_indices


def test_the_middles_of_the_gaps_come_first() -> None:
    pts = np.arange(57) / 4
    assert moments_between(pts, keyframe_indices(57, 8), 7) == (4, 12, 20, 28, 36, 44, 52)


def test_fewer_than_there_are_gaps_are_spread_over_the_video() -> None:
    pts = np.arange(301) / 10
    chosen = moments_between(pts, keyframe_indices(301, 16), 7)
    assert chosen[0] < 20
    assert chosen[-1] > 280
    assert max(b - a for a, b in pairwise(chosen)) < 80


def test_times_count_and_not_the_numbers_of_frames() -> None:
    pts = np.array([0.0, 0.1, 0.2, 0.3, 3.0, 6.0])
    assert moments_between(pts, (0, 5), 1) == (4,)


def test_only_frames_within_are_chosen_and_none_that_lies_close_to_what_was_seen() -> None:
    pts = np.arange(60) / 12
    within = np.zeros(60, dtype=bool)
    within[20:40] = True
    chosen = moments_between(pts, (0, 19, 40, 59), 50, within)
    assert all(20 <= frame < 40 for frame in chosen)
    seen = sorted({19, 40, *chosen})
    assert min(b - a for a, b in pairwise(seen)) >= LEAST_SECONDS * 12
    assert moments_between(pts, (0, 59), 0) == ()


def test_a_video_that_was_seen_whole_has_no_further_moment() -> None:
    assert moments_between(np.arange(5) / 12, range(5), 8) == ()
    assert moments_between(np.zeros(1), (0,), 8) == ()
