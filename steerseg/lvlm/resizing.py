"""Frames resized by a bicubic filter, antialiased, by a CPU or by a GPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_MOST_REDUCTION = 8.0  # of a picture's side on a GPU, whose kernel has room for so many taps of its filter


def planes(frames: NDArray[np.uint8]) -> torch.Tensor:
    """(K, H, W, 3) uint8 -> a view (K, 3, H, W) on the host."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def resize_frames(frames: NDArray[np.uint8], height: int, width: int, device: torch.device) -> torch.Tensor:
    """(K, H, W, 3) uint8 -> (K, 3, height, width) uint8; on the device where it is a GPU."""
    smaller = max(frames.shape[1] / height, frames.shape[2] / width)
    if device.type == "cuda" and smaller <= _MOST_REDUCTION:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).pin_memory().to(device, non_blocking=True)
        return resize_floats(pixels.permute(0, 3, 1, 2), height, width)
    return F.interpolate(planes(frames), size=(height, width), mode="bicubic", antialias=True)


def resize_floats(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(K, 3, H, W) uint8 -> (K, 3, height, width) uint8 by way of floats, for devices that resize no integers.

    Rows first, then columns, with whole numbers in between, as it is done with integers.
    """
    for size in ((pixels.shape[2], width), (height, width)):
        resized = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        pixels = resized.round_().clamp_(0, 255).to(torch.uint8)
    return pixels
