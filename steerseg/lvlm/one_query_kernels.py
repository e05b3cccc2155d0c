"""The Triton kernels behind :mod:`steerseg.lvlm.one_query`: keys are read once, by many programs at a time."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 16 << 10  # bytes of the keys that a program holds at a time
_ROWS = 16  # the fewest rows of a matrix product
_PROGRAMS = 132  # one for each multiprocessor of a large GPU


@triton.jit
def _attend_part(
    q_at,
    k_at,
    v_at,
    mask_at,
    mixed_at,
    lse_at,
    shared,
    length,
    part,
    mask_stride,
    scaling,
    GROUP: tl.constexpr,  # noqa: N803 (the language's custom for constants)
    DEPTH: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """The heads that share keys, over one part of these: mixed values, and the log-sum-exp to base 2."""
    entry = tl.program_id(0).to(tl.int64)
    row, channel = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    known = row < GROUP
    q_offsets = (entry * GROUP + row[:, None]) * DEPTH + channel[None, :]
    q = tl.load(q_at + q_offsets, mask=known[:, None], other=0.0)
    k_at += entry * length * DEPTH
    v_at += entry * length * DEPTH
    mask_at += entry // shared * mask_stride
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, DEPTH], tl.float32)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, length)
    for start in range(begin, end, COLS):
        cols = start + tl.arange(0, COLS)
        live = cols < end
        offsets = cols[:, None] * DEPTH + channel[None, :]
        k = tl.load(k_at + offsets, mask=live[:, None], other=0.0)
        v = tl.load(v_at + offsets, mask=live[:, None], other=0.0)
        if MASKED:
            live = live & (tl.load(mask_at + cols, mask=live, other=0) != 0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        logits = tl.where(live[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing was to be seen yet
        faded = tl.exp2(top - base)
        weight = tl.exp2(logits - base[:, None])
        total = total * faded + tl.sum(weight, axis=1)
        mixed = mixed * faded[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        top = higher
    out = (tl.program_id(1) * tl.num_programs(0) + entry) * GROUP + row
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(mixed_at + out[:, None] * DEPTH + channel[None, :], mixed, mask=known[:, None])
    tl.store(lse_at + out, top + tl.log2(total), mask=known)


@triton.jit
def _join_parts(
    mixed_at,
    lse_at,
    joined_at,
    count,
    parts,
    DEPTH: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr,  # noqa: N803
):
    """One query's mixed values over all parts of the keys."""
    row = tl.program_id(0).to(tl.int64)
    part, channel = tl.arange(0, PARTS), tl.arange(0, DEPTH)
    known = part < parts
    lse = tl.load(lse_at + part * count + row, mask=known, other=float("-inf"))
    weight = tl.exp2(lse - tl.max(lse, axis=0))
    offsets = (part * count + row)[:, None] * DEPTH + channel[None, :]
    mixed = tl.load(mixed_at + offsets, mask=known[:, None], other=0.0)
    joined = tl.sum(mixed * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(joined_at + row * DEPTH + channel, joined.to(joined_at.dtype.element_ty))


def attend_one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """See :func:`steerseg.lvlm.one_query.attend_one_query`; (B, H, 1, d) -> (B, 1, H, d)."""
    batch, heads, _, depth = query.shape
    shared, length = key.shape[1:3]
    entries, group = batch * shared, heads // shared
    cols = min(128, max(16, _TILE // (depth * key.itemsize)))
    steps = triton.cdiv(length, cols)
    part = triton.cdiv(steps, min(steps, max(1, _PROGRAMS // entries))) * cols
    parts = triton.cdiv(length, part)
    mixed = torch.empty((parts, entries * group, depth), dtype=torch.float32, device=query.device)
    lse = torch.empty((parts, entries * group), dtype=torch.float32, device=query.device)
    _attend_part[(entries, parts)](
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        key if mask is None else mask.contiguous().view(torch.uint8),
        mixed,
        lse,
        shared,
        length,
        part,
        0 if mask is None or len(mask) == 1 else length,
        scaling / math.log(2),
        GROUP=group,
        DEPTH=depth,
        MASKED=mask is not None,
        ROWS=max(_ROWS, triton.next_power_of_2(group)),
        COLS=cols,
        num_warps=4,
        num_stages=2,
    )
    joined = torch.empty((batch, 1, heads, depth), dtype=query.dtype, device=query.device)
    _join_parts[(entries * group,)](
        mixed,
        lse,
        joined,
        entries * group,
        parts,
        DEPTH=depth,
        PARTS=triton.next_power_of_2(parts),
        num_warps=4,
    )
    return joined
