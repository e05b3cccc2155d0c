"""How far tracks move as stated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from steerseg.motion.agreement import WITHOUT_WAY, motion_agreement
from steerseg.motion.reading import Motion

KEYFRAMES, HEIGHT, WIDTH = 8, 90, 160
Place = tuple[float, float] | None
TIMES = np.linspace(0, 1, KEYFRAMES)


def track(places: Sequence[Place], sides: Sequence[int] = (12,) * KEYFRAMES) -> torch.Tensor:
    """(K, 90, 160) masks of a square with its centre at places in [0, 1]; ``None`` hides it."""
    masks = torch.zeros(len(places), HEIGHT, WIDTH)
    for mask, place, side in zip(masks, places, sides, strict=True):
        if place is not None:
            x, y = round(place[0] * WIDTH), round(place[1] * HEIGHT)
            half = side // 2
            mask[max(0, y - half) : max(0, y + half), max(0, x - half) : max(0, x + half)] = 1.0
    return masks


def triangle(phase: float) -> float:
    return abs((phase % 1.0) * 2 - 1)


PASSES: list[Place] = [(0.3 + 0.2 * t, 0.4 + 0.2 * t) for t in TIMES]
TRACKS = {
    Motion.LEFT: track([(0.9 - 0.6 * t, 0.5) for t in TIMES]),
    Motion.RIGHT: track([(0.1 + 0.6 * t, 0.4 + 0.05 * t) for t in TIMES]),
    Motion.UP: track([(0.5, 0.9 - 0.7 * t) for t in TIMES]),
    Motion.DOWN: track([(0.3, 0.1 + 0.7 * t) for t in TIMES]),
    Motion.STILL: track([(0.5 + 0.01 * math.sin(9 * t), 0.5) for t in TIMES]),
    Motion.CIRCLING: track(
        [(0.5 + 0.15 * math.cos(9 * t), 0.5 + 0.15 * WIDTH / HEIGHT * math.sin(9 * t)) for t in TIMES]
    ),
    Motion.BACK_AND_FORTH: track([(0.3 + 0.4 * triangle(2 * t), 0.5) for t in TIMES]),
    Motion.STARTS: track([(0.2 + 1.2 * max(0.0, t - 0.5), 0.5) for t in TIMES]),
    Motion.STOPS: track([(0.2 + 1.2 * min(0.5, t), 0.5) for t in TIMES]),
    Motion.LEAVES: track([None if t > 0.7 else (0.6 + 0.5 * t, 0.5) for t in TIMES]),
    Motion.ENTERS: track([None if t < 0.3 else (1.1 - 0.5 * t, 0.5) for t in TIMES]),
    Motion.RETURNS: track([None if 0.3 < t < 0.7 else (0.2 + 0.4 * t, 0.5) for t in TIMES]),
    Motion.GROWING: track(PASSES, [10, 12, 14, 16, 18, 20, 22, 24]),
    Motion.SHRINKING: track(PASSES, [24, 22, 20, 18, 16, 14, 12, 10]),
}


def agreement(motion: Motion, masks: Sequence[torch.Tensor], shifts: object = None) -> list[float]:
    moved = np.zeros((KEYFRAMES, 2)) if shifts is None else np.asarray(shifts, dtype=np.float64)
    grades: list[float] = motion_agreement(
        [motion], torch.stack(list(masks)), [True] * len(masks), moved, (HEIGHT, WIDTH), TIMES
    ).tolist()
    assert all(0 <= grade <= 1 for grade in grades)
    return grades


@pytest.mark.parametrize("motion", TRACKS)
def test_what_moves_as_stated_agrees_most(motion: Motion) -> None:
    grades = dict(zip(TRACKS, agreement(motion, list(TRACKS.values())), strict=True))
    assert grades[motion] >= 0.6
    assert max(grades, key=lambda other: grades[other]) == motion


def test_what_moves_in_any_way_moves_and_what_goes_to_and_fro_bounces() -> None:
    still, left = TRACKS[Motion.STILL], TRACKS[Motion.LEFT]
    assert agreement(Motion.MOVING, [left])[0] > 0.9 > 0.1 > agreement(Motion.MOVING, [still])[0]
    bounces = track([(0.1 + 0.8 * triangle(1.7 * t), 0.1 + 0.8 * triangle(2.3 * t)) for t in TIMES])
    grades = agreement(Motion.BOUNCING, [bounces, left, still])
    assert grades[0] > 0.5 > max(grades[1:])


def test_the_motion_of_the_camera_is_taken_out() -> None:
    rests = track([(0.8 - 0.5 * t, 0.5) for t in TIMES])
    shifts = [(-0.5 * t, 0.0) for t in TIMES]
    assert agreement(Motion.LEFT, [rests])[0] > 0.9
    assert agreement(Motion.LEFT, [rests], shifts)[0] <= 0.5
    assert agreement(Motion.STILL, [rests], shifts)[0] > 0.9


@pytest.mark.parametrize("motion", sorted(WITHOUT_WAY))
def test_the_camera_is_of_no_account_where_no_way_tells_a_motion(motion: Motion) -> None:
    tracks, shifts = list(TRACKS.values()), [(-0.5 * t, 0.3 * t) for t in TIMES]
    assert agreement(motion, tracks, shifts) == agreement(motion, tracks)


@pytest.mark.parametrize("motion", list(Motion))
def test_nothing_and_a_single_sight_have_a_grade(motion: Motion) -> None:
    nowhere = track([None] * KEYFRAMES)
    once = track([(0.5, 0.5), *[None] * (KEYFRAMES - 1)])
    agreement(motion, [nowhere, once])


def test_speeds_count_beside_those_of_the_same_kind() -> None:
    ways = [track([(0.2 + way * t, 0.3) for t in TIMES]) for way in (0.6, 0.3, 0.0)]
    assert agreement(Motion.FASTER, ways) == sorted(agreement(Motion.FASTER, ways), reverse=True)
    assert agreement(Motion.SLOWER, ways) == sorted(agreement(Motion.SLOWER, ways))
    assert agreement(Motion.FASTER, ways)[0] == agreement(Motion.SLOWER, ways)[2] == 1.0
    assert agreement(Motion.FASTER, ways[1:])[0] == 1.0
    kinds = [False, True, True]  # the fastest of all is of another kind: of the rest the first is the fastest
    fastest = motion_agreement(
        [Motion.FASTER], torch.stack(ways), kinds, np.zeros((KEYFRAMES, 2)), (HEIGHT, WIDTH), TIMES
    )
    assert fastest[1] == 1.0 > fastest[0]


def test_what_is_hardly_seen_has_no_speed() -> None:
    slow, once = track([(0.3 + 0.2 * t, 0.5) for t in TIMES]), track([(0.5, 0.5), *[None] * (KEYFRAMES - 1)])
    assert agreement(Motion.SLOWER, [slow, once]) == agreement(Motion.FASTER, [slow, once]) == [1.0, 0.0]


def test_only_what_is_seen_on_both_sides_of_a_gap_returns() -> None:
    shown = {"enters": "00111111", "leaves": "11111100", "is there": "11111111", "returns": "00010100"}
    tracks = [track([(0.5, 0.5) if one == "1" else None for one in seen]) for seen in shown.values()]
    assert agreement(Motion.RETURNS, tracks) == [0.0, 0.0, 0.0, 1.0]


def test_keyframes_need_not_be_equally_far_apart() -> None:
    """What moves evenly neither starts nor stops, whenever one looks at it."""
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    even = track([(0.1 + 0.8 * t, 0.5) for t in times])[None]
    args = ([Motion.STARTS], even, [True], np.zeros((KEYFRAMES, 2)), (HEIGHT, WIDTH))
    assert float(motion_agreement(*args, times=times)[0]) == pytest.approx(0.5, abs=0.1)


def test_what_is_behind_at_first_and_before_in_the_end_overtakes() -> None:
    overtakes, passed = (
        track([(0.1 + way * t + lead, 0.5) for t in TIMES]) for way, lead in ((0.8, 0), (0.3, 0.2))
    )
    still, meets = track([(0.5, 0.2)] * KEYFRAMES), track([(0.9 - 0.8 * t, 0.8) for t in TIMES])
    grades = agreement(Motion.OVERTAKES, [overtakes, passed, still, meets])
    assert grades[0] > 0.6 > 0.1 > max(grades[1:])


def test_what_spins_is_told_by_its_pictures() -> None:
    evidence = np.array([0.9, 0.1])
    grades = motion_agreement(
        [Motion.SPINNING],
        torch.stack([TRACKS[Motion.STILL], TRACKS[Motion.LEFT]]),
        [True, True],
        np.zeros((KEYFRAMES, 2)),
        (HEIGHT, WIDTH),
        TIMES,
        evidence,
    )
    assert grades.tolist() == pytest.approx(evidence.tolist())


def test_what_moves_as_stated_and_is_of_another_kind_counts_less() -> None:
    masks = TRACKS[Motion.LEFT].expand(2, -1, -1, -1)
    grades = motion_agreement(
        [Motion.LEFT], masks, [True, False], np.zeros((KEYFRAMES, 2)), (HEIGHT, WIDTH), TIMES
    )
    assert grades[0] > grades[1] > 0.5


def test_several_motions_count_alike() -> None:
    masks = TRACKS[Motion.LEFT][None]
    both = motion_agreement(
        [Motion.LEFT, Motion.RIGHT], masks, [True], np.zeros((KEYFRAMES, 2)), (HEIGHT, WIDTH), TIMES
    )
    assert both.tolist() == pytest.approx([0.5], abs=0.01)
