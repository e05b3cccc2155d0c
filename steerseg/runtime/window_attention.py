"""Attention within windows of a few tokens: many windows are computed in one tile, by Triton on a GPU.

Torch's kernels give each window a tile of 64 or 128 queries, most of which a window of 16 leaves empty. Here a tile
holds as many windows as fit, and tokens of other windows are masked.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from steerseg.runtime.kernel_trial import OF_ONE_ROUNDING, is_recorded, largest_share, pass_on_gpu
from steerseg.runtime.planned_attention import attend

TILE = 64
"""Tokens of a tile; windows that divide it are computed by the kernel."""

_LEAST_WIDTH, _MOST_WIDTH = 16, 128


def attend_within(query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None) -> Tensor:
    """Attend within each of W windows, by the kernel where they are small.

    Args:
        query: (W, T, H, d), any strides.
        key: (W, S, H, d).
        value: The same.
        scaling: Factor on the logits; that of the width where ``None``.

    Returns:
        (W, T, H, d).
    """
    if _few_tokens(query, key) and kernel_works(query.device, query.dtype):
        from steerseg.runtime.window_attention_kernels import (
            attend_within as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return _by_torch(query, key, value, scaling)


def _by_torch(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return attend(query, key, value, scaling).transpose(1, 2)


def _few_tokens(query: Tensor, key: Tensor) -> bool:
    fits = query.shape == key.shape and TILE % query.shape[1] == 0
    return fits and not is_recorded(query, key) and _LEAST_WIDTH <= query.shape[-1] <= _MOST_WIDTH


@functools.cache
def kernel_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel runs on a device and gives torch's results; tried once."""
    return pass_on_gpu(
        device, dtype, OF_ONE_ROUNDING, largest_difference, "windows are attended without a kernel of our own"
    )


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between the kernel and torch, as a share of the largest value."""
    from steerseg.runtime.window_attention_kernels import attend_within as by_kernel

    generator = torch.Generator().manual_seed(0)
    pairs = []
    for windows, tokens, heads, width in ((9, 16, 3, 72), (3, 64, 2, 80), (5, 4, 1, 128)):
        # As one projection gives them, whose parts are not contiguous.
        joint = torch.randn(windows, tokens, 3, heads, width, generator=generator).to(device, dtype)
        query, key, value = joint.unbind(2)
        expected = _by_torch(query.float(), key.float(), value.float(), None).to(dtype)
        pairs.append((by_kernel(query, key, value, width**-0.5), expected))
    return largest_share(pairs)
