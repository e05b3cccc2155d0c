"""PIL's bicubic filter on any device, number by number: its weights are whole numbers, and so are its sums.

PIL filters one axis, rounds, and then filters the other one (``Resample.c`` of Pillow). A weight is rounded to 22 bits
behind the point. So a device can give the very pixels of PIL, which takes a host tens of milliseconds a frame.
"""

from __future__ import annotations

import functools
import logging
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

_AT_ONCE = 4  # frames, whose sums take 25 MB each at SAM 2's size
_BITS = 22  # of a weight, behind the point
_SUPPORT = 2.0  # of the filter, in pixels to each side
_CURVATURE = -0.5  # of PIL's cubic


def resize_as_pil(frames: Tensor, size: int) -> Tensor | None:
    """(B, H, W, 3) uint8 -> (B, size, size, 3) uint8, as PIL resizes each; ``None`` where PIL does it otherwise."""
    order = _order(frames.shape[1], frames.shape[2], size, frames.device)
    if order is None:
        return None
    first, second = order
    parts = torch.split(frames, _AT_ONCE)
    return torch.cat([_filter(_filter(part, size, first), size, second) for part in parts])


@functools.lru_cache(maxsize=64)
def _order(height: int, width: int, size: int, device: torch.device) -> tuple[int, int] | None:
    """Which axis is filtered first: versions of PIL differ, so that the installed one is asked, by noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    expected = torch.from_numpy(np.asarray(Image.fromarray(noise).resize((size, size))).copy())
    frames = torch.from_numpy(noise)[None, :, :, None].to(device)
    for first, second in ((2, 1), (1, 2)):
        if torch.equal(_filter(_filter(frames, size, first), size, second)[0, :, :, 0].cpu(), expected):
            return first, second
    log.warning("frames of %d x %d are resized by the host: PIL's filter is another one", width, height)
    return None


def _filter(frames: Tensor, size: int, dim: int) -> Tensor:
    """One axis at another size."""
    if frames.shape[dim] == size:
        return frames
    first, weights = _weights(frames.shape[dim], size, frames.device)
    shape = [1, 1, 1, 1]
    shape[dim] = size
    total: Tensor | None = None
    for index, weight in zip(first, weights, strict=True):
        part = frames.index_select(dim, index).int().mul_(weight.view(shape))
        total = part.add_(1 << (_BITS - 1)) if total is None else total.add_(part)
    assert total is not None
    return total.bitwise_right_shift_(_BITS).clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def _weights(before: int, after: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """For each tap of the filter, (after,) the pixel that it reads and its whole weight; zero beyond the edges."""
    scale = before / after
    widening = max(scale, 1.0)
    support = _SUPPORT * widening
    taps = math.ceil(support) * 2 + 1
    centres = (np.arange(after) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + support + 0.5).astype(np.int64), before)
    index = first[:, None] + np.arange(taps)
    shares = _cubic((index - centres[:, None] + 0.5) * (1.0 / widening))
    shares[index >= end[:, None]] = 0.0
    total = np.zeros(after)
    for tap in range(taps):  # in PIL's order
        total += shares[:, tap]
    shares /= total[:, None]
    whole = np.trunc(np.where(shares < 0, -0.5, 0.5) + shares * (1 << _BITS)).astype(np.int32)
    with torch.inference_mode(False):
        pixels = torch.from_numpy(np.minimum(index, before - 1).T.copy()).to(device)
        weights = torch.from_numpy(whole.T.copy()).to(device)
    return list(pixels), list(weights)


def _cubic(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """PIL's cubic filter."""
    x = np.abs(x)
    near = ((_CURVATURE + 2.0) * x - (_CURVATURE + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _CURVATURE
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
