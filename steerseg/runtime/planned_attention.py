"""Attention by cuDNN, for shapes that come again and again.

On an H200 it takes about two thirds of the time of torch's own kernels. But it plans each shape anew, which takes as
long as some hundred calls save. So a shape is planned once it was seen often.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerseg.runtime.kernel_trial import OF_ONE_ROUNDING, is_recorded, largest_share, pass_on_gpu
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

SIGHTS = 64
"""Number of the call of a shape from which on cuDNN attends."""

_MOST_SHAPES = 512
_SHORTEST = 128  # tokens; torch's kernels are as fast for fewer
_BY_CUDNN = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

_seen: LruCache[Hashable, int] = LruCache(_MOST_SHAPES)
_refused: set[Hashable] = set()


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None) -> Tensor:
    """Attention of (B, H, L, d) to all keys (B, H, S, d), by cuDNN where shapes like these were seen often."""

    def by_torch() -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, scale=scaling)

    def by_cudnn() -> Tensor:
        with sdpa_kernel(_BY_CUDNN, set_priority=True):
            return by_torch()

    planned = attempt(query, key, value, by_cudnn) if _comes_often(query, key, value) else None
    return by_torch() if planned is None else planned


def attempt(query: Tensor, key: Tensor, value: Tensor, by_cudnn: Callable[[], Tensor]) -> Tensor | None:
    """What cuDNN gives; ``None`` where it takes no such tensors, or once had no plan for such shapes."""
    shape = _shape(query, key, value)
    # It would end the process where one entry stands for several.
    if shape in _refused or any(part.stride(-1) != 1 or 0 in part.stride() for part in (query, key, value)):
        return None
    try:
        return by_cudnn()
    except torch.OutOfMemoryError:  # which says nothing about plans
        raise
    except RuntimeError as error:
        log.warning("torch attends from %s to %s: %s", tuple(query.shape), tuple(key.shape), error)
        _refused.add(shape)
        return None


def _comes_often(query: Tensor, key: Tensor, value: Tensor) -> bool:
    short = min(query.shape[2], key.shape[2]) < _SHORTEST
    if short or query.device.type != "cuda" or is_recorded(query):
        return False
    shape = _shape(query, key, value)
    sights = (_seen.get(shape) or 0) + 1
    _seen.put(shape, sights)
    return sights >= SIGHTS and cudnn_attends(query.device, query.dtype, query.shape[-1], value.shape[-1])


def _shape(query: Tensor, key: Tensor, value: Tensor) -> Hashable:
    return query.device, query.dtype, query.shape, key.shape, value.shape


@functools.cache
def cudnn_attends(device: torch.device, dtype: torch.dtype, width: int, narrow: int) -> bool:
    """Whether cuDNN attends with keys and values of such widths, and gives torch's results; tried once."""
    difference = functools.partial(largest_difference, width=width, narrow=narrow)
    return pass_on_gpu(device, dtype, OF_ONE_ROUNDING, difference, "attention runs without cuDNN")


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype, *, width: int, narrow: int) -> float:
    """The largest difference between cuDNN's attention and torch's, as a share of the largest value."""
    query, key, value = random_attention(device, dtype, width, narrow)
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(dtype)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        given = F.scaled_dot_product_attention(query, key, value)
    return largest_share([(given, expected)])


def random_attention(device: torch.device, dtype: torch.dtype, width: int, narrow: int) -> list[Tensor]:
    """Queries (2, 1, 70, width), keys (2, 1, 300, width) and values (2, 1, 300, narrow) for a trial."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((70, width), (300, width), (300, narrow))
    return [torch.randn(2, 1, *shape, generator=generator).to(device, dtype) for shape in shapes]
