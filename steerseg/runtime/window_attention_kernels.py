"""The Triton kernel behind :mod:`steerseg.runtime.window_attention`: each token is read once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from steerseg.runtime.window_attention import TILE


@triton.jit
def _attend(
    q_at,
    k_at,
    v_at,
    mixed_at,
    tokens,
    q_stride,
    k_stride,
    v_stride,
    scaling,
    HEADS: tl.constexpr,  # noqa: N803 (the language's custom for constants)
    WIDTH: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    WINDOW: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """One head of the windows of a tile."""
    spot = tl.arange(0, ROWS)
    row = tl.program_id(0).to(tl.int64) * ROWS + spot
    channel = tl.program_id(1) * WIDTH + tl.arange(0, COLS)
    known = (row < tokens)[:, None] & (tl.arange(0, COLS) < WIDTH)[None, :]
    q = tl.load(q_at + row[:, None] * q_stride + channel[None, :], mask=known, other=0.0)
    k = tl.load(k_at + row[:, None] * k_stride + channel[None, :], mask=known, other=0.0)
    v = tl.load(v_at + row[:, None] * v_stride + channel[None, :], mask=known, other=0.0)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    window = spot // WINDOW
    logits = tl.where(window[:, None] == window[None, :], logits, float("-inf"))
    share = tl.exp2(logits - tl.max(logits, axis=1)[:, None])
    mixed = tl.dot(share.to(v.dtype), v, input_precision="ieee") / tl.sum(share, axis=1)[:, None]
    out = row[:, None] * (HEADS * WIDTH) + channel[None, :]
    tl.store(mixed_at + out, mixed.to(mixed_at.dtype.element_ty), mask=known)


def attend_within(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """See :func:`steerseg.runtime.window_attention.attend_within`; (W, T, H, d) of one shape each."""
    windows, window, heads, width = query.shape
    query, key, value = (_in_rows(part) for part in (query, key, value))
    mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    tokens = windows * window
    _attend[(triton.cdiv(tokens, TILE), heads)](
        query,
        key,
        value,
        mixed,
        tokens,
        query.stride(1),
        key.stride(1),
        value.stride(1),
        scaling / math.log(2),
        HEADS=heads,
        WIDTH=width,
        COLS=triton.next_power_of_2(width),
        WINDOW=window,
        ROWS=TILE,
        num_warps=4,
    )
    return mixed


def _in_rows(part: Tensor) -> Tensor:
    """With heads side by side, and tokens at equal distances throughout."""
    width = part.shape[-1]
    even = part.stride(0) == part.shape[1] * part.stride(1)
    return part if even and part.stride()[2:] == (width, 1) else part.contiguous()
