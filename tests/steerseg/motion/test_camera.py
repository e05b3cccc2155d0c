"""How far the background moves between frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from steerseg.motion.camera import background_shifts

HEIGHT, WIDTH = 180, 320


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture with corners everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def nothing(frames: int) -> NDArray[np.bool_]:
    return np.zeros((frames, 9, 16), dtype=bool)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_pan_is_found_whatever_moves_in_front_of_it(scale: int) -> None:
    world, thing = noise(400 * scale, 600 * scale, 0), noise(60 * scale, 60 * scale, 1)
    frames, hidden = [], nothing(4)
    for k in range(4):
        x, y = 60 + 12 * k, 40 + 5 * k
        frame = world[y * scale : (y + HEIGHT) * scale, x * scale : (x + WIDTH) * scale].copy()
        left = 200 - 40 * k
        frame[60 * scale : 120 * scale, left * scale : (left + 60) * scale] = thing
        hidden[k, 3:6, left // 20 : (left + 60) // 20] = k % 2 == 0  # with and without knowing of it
        frames.append(frame)
    shifts = background_shifts(np.stack(frames), hidden)
    expected = [(-12 * k / WIDTH, -5 * k / HEIGHT) for k in range(4)]
    assert np.allclose(shifts, expected, atol=0.004)


def test_a_plain_background_is_at_rest_while_things_move() -> None:
    """A large thing is a candidate, and no corner is taken from it; small ones lie in few parts of the picture."""
    frames, hidden = np.full((3, HEIGHT, WIDTH, 3), 120, dtype=np.uint8), nothing(3)
    for k, frame in enumerate(frames):
        frame[40:110, 30 + 15 * k : 100 + 15 * k] = noise(72, 72, 2)[:70, :70]
        hidden[k, 2:6, 1 + k : 6 + k] = True
        frame[120 - 20 * k : 160 - 20 * k, 200:240] = noise(40, 40, 3)
    assert not background_shifts(frames, hidden).any()


def test_pictures_that_have_nothing_in_common_count_as_at_rest() -> None:
    frames = np.stack([noise(HEIGHT, WIDTH, seed) for seed in range(3)])
    assert not background_shifts(frames, nothing(3)).any()
    assert not background_shifts(frames[:1], nothing(1)).any()
