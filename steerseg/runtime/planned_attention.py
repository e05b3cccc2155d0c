"""Attention by cuDNN, for shapes that come again and again.

On an H100 it takes half to two thirds of the time of torch's own kernels. But it plans each shape anew, which takes
as long as some hundred calls save. So a shape is planned once it was seen often.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerseg.runtime.kernel_trial import largest_share, pass_on_gpu
from steerseg.runtime.lru import LruCache

SIGHTS = 64
"""Number of the call of a shape from which on cuDNN attends."""

_MOST_SHAPES = 512
_SHORTEST = 128  # tokens; torch's kernels are as fast for fewer
_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
_BY_CUDNN = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

_seen: LruCache[Hashable, int] = LruCache(_MOST_SHAPES)


def planned(query: Tensor, key: Tensor, value: Tensor) -> AbstractContextManager[Any]:
    """A context in which torch attends by cuDNN, where it works and shapes like these were seen often.

    Args:
        query: (B, H, L, d).
        key: (B, H_kv, S, d).
        value: The same.
    """
    recorded = torch.is_grad_enabled() and query.requires_grad
    if recorded or query.device.type != "cuda" or min(query.shape[2], key.shape[2]) < _SHORTEST:
        return nullcontext()
    if any(part.stride(-1) != 1 or 0 in part.stride() for part in (query, key, value)):
        return nullcontext()  # cuDNN would end the process where one entry stands for several
    if not cudnn_attends(query.device, query.dtype, query.shape[-1], value.shape[-1]):
        return nullcontext()
    shape = (query.device, query.dtype, query.shape, key.shape, value.shape)
    sights = (_seen.get(shape) or 0) + 1
    _seen.put(shape, sights)
    return nullcontext() if sights < SIGHTS else sdpa_kernel(_BY_CUDNN, set_priority=True)


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None) -> Tensor:
    """Attention of (B, H, L, d) to all keys (B, H, S, d), planned where that is worth it."""
    with planned(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, scale=scaling)


@functools.cache
def cudnn_attends(device: torch.device, dtype: torch.dtype, width: int, narrow: int) -> bool:
    """Whether cuDNN attends with keys and values of such widths, and gives torch's results; tried once."""
    difference = functools.partial(largest_difference, width=width, narrow=narrow)
    return pass_on_gpu(device, dtype, _TOLERANCE, difference, "attention runs without cuDNN")


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype, *, width: int, narrow: int) -> float:
    """The largest difference between cuDNN's attention and torch's, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((70, width), (300, width), (300, narrow))
    query, key, value = (torch.randn(2, 1, *shape, generator=generator).to(device, dtype) for shape in shapes)
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(dtype)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        given = F.scaled_dot_product_attention(query, key, value)
    return largest_share([(given, expected)])
