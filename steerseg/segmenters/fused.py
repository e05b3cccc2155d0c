"""Small operations of SAM 2 that read and write as little as possible: by Triton on a GPU, by torch elsewhere.

Under autocast a layer norm of rounded numbers is three passes over memory (to float32, the norm, back), and a rotation
by complex numbers five. Each is one pass here, with the sums in float32 as before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from steerseg.runtime.kernel_trial import largest_share, pass_on_gpu

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest difference between kernels and torch as a share of the largest value: of one rounding."""

AttentionTiles = tuple[int, int, int, int]
"""Queries and keys of a tile, warps and stages."""

ATTENTION_TILES: tuple[AttentionTiles, ...] = ((128, 64, 8, 3), (64, 64, 4, 2), (64, 32, 4, 2))
"""Largest first: about 180, 110 and 70 KB of shared memory for SAM 2's widths on an H100, where the first is fastest.

On GPUs with 100 KB they take 147, 74 and 53 KB."""


def add_and_norm(
    residual: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add, and take the layer norm of the sum.

    Args:
        residual: (..., C), contiguous.
        added: (..., C), contiguous; nothing is added where ``None``.
        norm: Over the last axis, with weight and bias.
        dtype: Of the norm. The sum has the precision of torch's addition.

    Returns:
        The sum and the norm of the sum.
    """
    if kernels_work(residual.device, residual.dtype):
        from steerseg.segmenters.fused_kernels import (
            add_and_norm as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(residual, added, norm.weight, norm.bias, norm.eps, dtype)
    return _add_and_norm(residual, added, norm, dtype)


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    """Rotate pairs of neighbouring channels by angles of the vectors' positions, in place.

    Args:
        vectors: (N, L, C), contiguous.
        cos: (P, C / 2) float32, by position; positions after the last one begin anew.
        sin: The same.
        count: How many of the L vectors are rotated, from the first on.
    """
    if kernels_work(vectors.device, vectors.dtype):
        from steerseg.segmenters.fused_kernels import rotate as by_kernel  # Triton is not there everywhere

        return by_kernel(vectors, cos, sin, count)
    return _rotate(vectors, cos, sin, count)


def norm_channels(pictures: Tensor, norm: LayerNorm2d) -> Tensor:
    """The layer norm of each position's channels.

    Args:
        pictures: (N, C, h, w).
        norm: The package's.

    Returns:
        (N, C, h, w) in the precision of ``pictures``, to which what comes next would round it.
    """
    if kernels_work(pictures.device, pictures.dtype):
        from steerseg.segmenters.fused_kernels import (
            norm_channels as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(pictures, norm.weight, norm.bias, norm.eps)
    return _norm_channels(pictures, norm)


@functools.cache
def narrow_attention_tiles(
    device: torch.device, dtype: torch.dtype, width: int, narrow: int
) -> AttentionTiles | None:
    """Find tiles in which :func:`narrow_attention` is right for a width of keys and values.

    They are tried once for each width, since a GPU may have too little shared memory for the largest.

    Args:
        device: Where the kernels would run.
        dtype: Of keys and values; half precision only.
        width: Channels of a key, a power of two.
        narrow: Channels of a value, a smaller power of two.

    Returns:
        The largest tiles that work; ``None`` where none do, or on a CPU.
    """
    fits = all(16 <= size <= 256 and size & (size - 1) == 0 for size in (width, narrow))
    if dtype == torch.float32 or narrow >= width or not fits:
        return None
    for number, tiles in enumerate(ATTENTION_TILES, start=1):
        last = number == len(ATTENTION_TILES)
        otherwise = (
            "SAM 2 projects its memories before they are mixed" if last else "SAM 2 mixes by smaller tiles"
        )
        difference = functools.partial(narrow_attention_difference, width=width, narrow=narrow, tiles=tiles)
        if pass_on_gpu(device, dtype, _TOLERANCE, difference, otherwise):
            return tiles
    return None


def narrow_attention(query: Tensor, key: Tensor, value: Tensor, tiles: AttentionTiles) -> Tensor:
    """Attention of one head whose values are narrower than its keys.

    Where values are projected to the keys' width, that can be left for later: a row's weights sum to one. Torch's
    attentions take values of the keys' width only, which for SAM 2's memories is four times as wide.

    Args:
        query: (N, L, C).
        key: (N, S, C).
        value: (N, S, V).
        tiles: As :func:`narrow_attention_tiles` gives them.

    Returns:
        (N, L, V).
    """
    from steerseg.segmenters.fused_kernels import (
        narrow_attention as by_kernel,
    )  # Triton is not there everywhere

    return by_kernel(query.contiguous(), key.contiguous(), value.contiguous(), tiles)


@torch.inference_mode()
def narrow_attention_difference(
    device: torch.device, dtype: torch.dtype, *, width: int, narrow: int, tiles: AttentionTiles
) -> float:
    """The largest difference between :func:`narrow_attention` and torch, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, *shape, generator=generator).to(device, dtype)
        for shape in ((70, width), (300, width), (300, narrow))
    )
    expected = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
    return largest_share([(narrow_attention(query, key, value, tiles), expected)])


def _one_pass(module: Any, x: Tensor) -> Tensor:
    return norm_channels(x, module)


@contextmanager
def norms_in_one_pass(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, a model's norms over channels are computed by :func:`norm_channels`, if that is wanted."""
    norms = [module for module in model.modules() if type(module) is LayerNorm2d] if wanted else []
    for norm in norms:
        norm.forward = MethodType(_one_pass, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


def _norm_channels(pictures: Tensor, norm: LayerNorm2d) -> Tensor:
    with torch.autocast(pictures.device.type, enabled=False):
        normed: Tensor = LayerNorm2d.forward(norm, pictures.float())
    return normed.to(pictures.dtype)


def _add_and_norm(
    residual: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    total = residual if added is None else residual + added
    with torch.autocast(total.device.type, enabled=False):
        normed = F.layer_norm(total.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return total, normed.to(dtype)


def _rotate(vectors: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    period = len(cos)
    # (N, repeats, P, C / 2, 2); the angles are not repeated in memory.
    pairs = vectors[:, :count].reshape(len(vectors), -1, period, cos.shape[1], 2).float()
    first, second = pairs.unbind(-1)
    rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    vectors[:, :count] = rotated.reshape(len(vectors), count, -1).to(vectors.dtype)
    return vectors


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once."""
    return pass_on_gpu(device, dtype, _TOLERANCE, largest_difference, "SAM 2 runs without kernels of its own")


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between kernels and torch, as a share of the largest value."""
    from steerseg.segmenters import fused_kernels

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    norm = nn.LayerNorm(72, eps=1e-6, device=device)
    norm.weight.data, norm.bias.data = random(72), random(72)
    residual, added = random(3, 35, 72) * 3 + 1, random(3, 35, 72).to(dtype)
    pairs: list[tuple[Tensor, Tensor]] = []
    for base, more in ((residual, None), (residual, added), (added, added)):
        both = fused_kernels.add_and_norm(base, more, norm.weight, norm.bias, norm.eps, dtype)
        pairs += zip(both, _add_and_norm(base, more, norm, dtype), strict=True)
    channels = LayerNorm2d(24).to(device)
    channels.weight.data, channels.bias.data = random(24), random(24)
    pictures = (random(2, 24, 9, 7) * 3 + 1).to(dtype)
    for each in (pictures, pictures.contiguous(memory_format=torch.channels_last), pictures.transpose(2, 3)):
        given = fused_kernels.norm_channels(each, channels.weight, channels.bias, channels.eps)
        pairs.append((given, _norm_channels(each, channels)))
    vectors, cos, sin = random(2, 45, 16).to(dtype), random(20, 8), random(20, 8)
    pairs.append(
        (fused_kernels.rotate(vectors.clone(), cos, sin, 40), _rotate(vectors.clone(), cos, sin, 40))
    )
    return largest_share(pairs)
