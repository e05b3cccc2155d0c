"""Frames and masks at a segmenter's input size."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steerseg.segmenters.pil_bicubic import resize_as_pil


class PixelStatistics(NamedTuple):
    """What a segmenter subtracts from colours in [0, 1], and what it divides them by.

    Attributes:
        mean: Of red, green and blue.
        deviation: Of red, green and blue.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_HOST = torch.device("cpu")

IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def preprocess(frames: Tensor, size: int, statistics: PixelStatistics = IMAGENET) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, size, size) float32 with the statistics that a segmenter expects."""
    pixels = frames.permute(0, 3, 1, 2).float().div_(255)
    pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return _normalised(pixels, statistics)


def preprocess_bicubic(
    frames: NDArray[np.uint8],
    size: int,
    statistics: PixelStatistics = IMAGENET,
    device: torch.device = _HOST,
) -> Tensor:
    """The same by PIL's bicubic filter, which rounds to whole numbers, as SAM 2's own loader of frames.

    A GPU computes PIL's numbers. A CPU asks PIL itself.
    """
    resized: Tensor | None = None
    if device.type == "cuda":
        resized = resize_as_pil(torch.from_numpy(frames).pin_memory().to(device, non_blocking=True), size)
    if resized is None:
        by_pil = [np.asarray(Image.fromarray(frame).resize((size, size))) for frame in frames]
        resized = torch.from_numpy(np.stack(by_pil)).to(device)
    return _normalised(resized.permute(0, 3, 1, 2).float().div_(255), statistics)


def coverage(mask: NDArray[np.bool_], side: int) -> Tensor:
    """An (H, W) mask as (1, 1, side, side) coverage in [0, 1], on the CPU."""
    pixels = torch.from_numpy(mask).float()[None, None]
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def _normalised(pixels: Tensor, statistics: PixelStatistics) -> Tensor:
    mean, deviation = _on_device(statistics, pixels.device)
    return pixels.sub_(mean).div_(deviation)


@functools.cache
def _on_device(statistics: PixelStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and deviation of each colour, there once: bringing them to a GPU waits for all of its work."""
    with torch.inference_mode(False):
        mean, deviation = (torch.tensor(each, device=device).view(3, 1, 1) for each in statistics)
    return mean, deviation
