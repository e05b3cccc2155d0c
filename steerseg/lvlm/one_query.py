"""Attention of the token that is being generated: each key is read once for all heads that share it.

SDPA repeats keys, or gives all of them to as few programs as there are heads that share. On a GPU, kernels of our own
divide the keys among many programs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from steerseg.runtime.kernel_trial import ROUNDED_ONCE, largest_share, pass_on_gpu

_WIDTHS = (16, 32, 64, 128, 256)


@torch.no_grad()
def attend_one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Attend by one token of each chat.

    Args:
        query: (B, H, 1, d).
        key: (B, H_kv, S, d), each shared by H / H_kv heads.
        value: The same.
        mask: (B or 1, 1, 1, S), of what is seen: bool, or negative where nothing is; all where ``None``.
        scaling: Factor on the logits; that of the width where ``None``.

    Returns:
        (B, 1, H, d).
    """
    depth = query.shape[-1]
    scaling = depth**-0.5 if scaling is None else scaling
    if mask is not None and mask.dtype != torch.bool:
        mask = mask >= 0
    if depth in _WIDTHS and kernels_work(query.device, query.dtype, depth):
        from steerseg.lvlm.one_query_kernels import (
            attend_one_query as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(query, key, value, mask, scaling)
    return _attend_one_query(query, key, value, mask, scaling)


def _attend_one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    batch, heads, _, depth = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch * shared, heads // shared, depth)
    logits = _product(grouped, key.flatten(0, 1).transpose(1, 2)).view(batch, shared, heads // shared, -1)
    logits = logits * scaling
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    weights = logits.softmax(dim=-1).to(value.dtype)
    return (weights @ value).view(batch, 1, heads, depth)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, k) x (B, k, m), summed and kept in float32."""
    if a.device.type == "cuda" and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype, depth: int) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once for each width of a head."""
    difference = functools.partial(largest_difference, depth=depth)
    return pass_on_gpu(device, dtype, ROUNDED_ONCE, difference, "answers attend without kernels of their own")


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype, depth: int = 32) -> float:
    """The largest difference between kernels and torch, as a share of the largest value."""
    from steerseg.lvlm.one_query_kernels import attend_one_query as by_kernel

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    pairs = []
    for batch, heads, shared, length in ((1, 14, 2, 700), (2, 4, 4, 65)):
        query, key, value = (
            random(batch, count, size, depth)
            for count, size in ((heads, 1), (shared, length), (shared, length))
        )
        seen = (
            torch.arange(length, device=device)[None, None, None]
            < torch.tensor([[length // 2], [length]], device=device)[:batch, None, None]
        )
        for mask in (None, seen):
            pairs.append(
                (
                    by_kernel(query, key, value, mask, depth**-0.5),
                    _attend_one_query(query.float(), key.float(), value.float(), mask, depth**-0.5).to(dtype),
                )
            )
    return largest_share(pairs)
