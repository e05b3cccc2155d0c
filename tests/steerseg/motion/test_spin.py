"""What spins, told by its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steerseg.motion.spin import spin_evidence

KEYFRAMES, HEIGHT, WIDTH = 12, 120, 200
TIMES = np.linspace(0, 1, KEYFRAMES)


def scene(
    angles: Sequence[float], *, width: int = 40, height: int = 16, x: Sequence[float] = (0.5,) * KEYFRAMES
) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """Frames and (1, K, H, W) masks of a box, one half of which is red, at angles in degrees."""
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    rows, columns = slice(32 - height // 2, 32 + height // 2), slice(32 - width // 2, 32 + width // 2)
    picture[rows, columns] = (200, 190, 60, 255)
    picture[rows, 32 : 32 + width // 2] = (200, 30, 30, 255)
    frames = np.full((len(angles), HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    masks = np.zeros((len(angles), HEIGHT, WIDTH), dtype=np.float32)
    for frame, mask, angle, place in zip(frames, masks, angles, x, strict=True):
        turned = cv2.warpAffine(picture, cv2.getRotationMatrix2D((31.5, 31.5), angle, 1.0), (64, 64))
        left = round(place * WIDTH) - 32
        shown = turned[..., 3] > 127
        frame[28:92, left : left + 64][shown] = turned[..., :3][shown]
        mask[28:92, left : left + 64] = shown
    return frames, torch.from_numpy(masks)[None]


@pytest.mark.parametrize("turns", [-2.0, -0.8, 0.8, 2.0])
def test_what_turns_on_and_on_spins(turns: float) -> None:
    assert spin_evidence(*scene(360 * turns * TIMES), TIMES)[0] > 0.8


def test_it_may_move_meanwhile() -> None:
    assert spin_evidence(*scene(400 * TIMES, x=0.2 + 0.6 * TIMES), TIMES)[0] > 0.8


@pytest.mark.parametrize(
    "angles", [0 * TIMES, 20 * np.sin(9 * TIMES), 70 * TIMES], ids=["rests", "sways", "leans"]
)
def test_what_rests_sways_or_leans_does_not_spin(angles: NDArray[np.float64]) -> None:
    assert spin_evidence(*scene(angles), TIMES)[0] < 0.2


def test_a_square_of_one_colour_that_turns_by_itself_is_not_told_from_one_at_rest() -> None:
    frames, masks = scene(90 * np.arange(KEYFRAMES), width=32, height=32)
    frames[:] = 90
    frames[masks[0].numpy() > 0.5] = (200, 30, 30)
    assert spin_evidence(frames, masks, TIMES)[0] < 0.2


def test_too_few_or_cut_pictures_tell_nothing() -> None:
    frames, masks = scene(400 * TIMES)
    masks[:, 2:] = 0
    assert spin_evidence(frames, masks, TIMES).tolist() == [0.0]
    frames, masks = scene(400 * TIMES)
    masks[..., 0, :] = 1
    assert spin_evidence(frames, masks, TIMES).tolist() == [0.0]
    assert spin_evidence(frames[:1], masks[:, :1], TIMES[:1]).tolist() == [0.0]


def test_keyframes_need_not_be_equally_far_apart() -> None:
    times = np.array([0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.45, 0.6, 0.7, 0.8, 0.95, 1.0])
    turning = scene(500 * times)
    assert spin_evidence(*turning, times)[0] > 0.8
