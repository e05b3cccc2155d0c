"""Frames at a segmenter's input size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from steerseg.segmenters import pil_bicubic
from steerseg.segmenters.pil_bicubic import _order, _weights, resize_as_pil
from steerseg.segmenters.pixels import preprocess_bicubic


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (48, 85, 102),
        (45, 70, 64),
        (64, 64, 64),
        (64, 90, 64),
        (300, 97, 64),
        (97, 300, 64),
        (85, 48, 64),
        (7, 500, 33),
        (1, 2, 16),
    ],
)
def test_a_device_resizes_to_the_very_pixels_of_pil(height: int, width: int, size: int) -> None:
    """Enlarged and reduced, with the largest steps between neighbours, which overshoot."""
    rng = np.random.default_rng(height)
    smooth = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    steps = rng.choice(np.array([0, 255], dtype=np.uint8), (height, width, 3))
    frames = np.stack([smooth, steps])
    expected = np.stack([np.asarray(Image.fromarray(frame).resize((size, size))) for frame in frames])
    given = resize_as_pil(torch.from_numpy(frames), size)
    assert given is not None
    assert np.array_equal(given.numpy(), expected)


def test_another_filter_is_left_to_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    _order.cache_clear()
    monkeypatch.setattr(pil_bicubic, "_CURVATURE", -0.75)
    _weights.cache_clear()
    assert resize_as_pil(torch.zeros(1, 20, 30, 3, dtype=torch.uint8), 64) is None
    _weights.cache_clear()
    _order.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("height", [48, 480, 1080])
def test_a_gpu_gives_the_pixels_of_the_host(height: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, height, 160, 3), dtype=np.uint8)
    expected = preprocess_bicubic(frames, 128)
    given = preprocess_bicubic(frames, 128, device=torch.device("cuda")).cpu()
    assert (given - expected).abs().max() <= 1e-6
