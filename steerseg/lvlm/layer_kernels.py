"""The Triton kernels behind :mod:`steerseg.lvlm.layer_passes`: each reads and writes its numbers once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_GATED = 2048  # numbers that one program holds


@triton.jit
def _norm(x_at, weight_at, out_at, width, epsilon, COLS: tl.constexpr):  # noqa: N803 (the language's custom)
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, COLS)
    inside = col < width
    x = tl.load(x_at + row * width + col, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_at + col, mask=inside, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + epsilon) * weight
    tl.store(out_at + row * width + col, normed.to(out_at.dtype.element_ty), mask=inside)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """See :func:`steerseg.lvlm.layer_passes.norm`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    cols = triton.next_power_of_2(width)
    _norm[(x.numel() // width,)](
        x, weight, out, width, epsilon, COLS=cols, num_warps=min(16, max(1, cols // 256))
    )
    return out


@triton.jit
def _gate(gate_at, up_at, out_at, width, gate_stride, up_stride, COLS: tl.constexpr):  # noqa: N803
    """Some numbers of one row."""
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = col < width
    gate = tl.load(gate_at + row * gate_stride + col, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_at + row * up_stride + col, mask=inside, other=0.0).to(tl.float32)
    gated = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_at + row * width + col, gated.to(out_at.dtype.element_ty), mask=inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """See :func:`steerseg.lvlm.layer_passes.gated`."""
    width = gate.shape[-1]
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gate, up = (part.reshape(-1, width) for part in (gate, up))
    _gate[(len(gate), triton.cdiv(width, _GATED))](
        gate, up, out, width, gate.stride(0), up.stride(0), COLS=_GATED, num_warps=4
    )
    return out


@triton.jit
def _write_token(
    keys_at,
    values_at,
    key_at,
    value_at,
    index_at,
    length,
    heads,
    key_row,
    key_head,
    value_row,
    value_head,
    WIDTH: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Key and value of one head of one chat."""
    entry = tl.program_id(0).to(tl.int64)
    row, head = entry // heads, entry % heads
    col = tl.arange(0, COLS)
    inside = col < WIDTH
    out = (entry * length + tl.load(index_at + row)) * WIDTH + col
    key = tl.load(key_at + row * key_row + head * key_head + col, mask=inside, other=0.0)
    value = tl.load(value_at + row * value_row + head * value_head + col, mask=inside, other=0.0)
    tl.store(keys_at + out, key, mask=inside)
    tl.store(values_at + out, value, mask=inside)


def write_token(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, index: Tensor) -> None:
    """See :func:`steerseg.lvlm.layer_passes.write_token`."""
    batch, heads, length, width = keys.shape
    _write_token[(batch * heads,)](
        keys,
        values,
        key,
        value,
        index,
        length,
        heads,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        WIDTH=width,
        COLS=triton.next_power_of_2(width),
        num_warps=1,
    )
