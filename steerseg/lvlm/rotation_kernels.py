"""The Triton kernel behind :mod:`steerseg.lvlm.rotations`: queries and keys are read once and written once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate_heads(
    at,
    out_at,
    start,
    head,
    out,
    heads,
    cos_low,
    cos_high,
    sin_low,
    sin_high,
    HALF: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    BACK: tl.constexpr,  # noqa: N803
):
    """All heads of one token; ``BACK`` applies the transposed rotation."""
    rows, cols = tl.arange(0, HEADS), tl.arange(0, COLS)
    inside = (rows[:, None] < heads) & (cols[None, :] < HALF)
    offsets = at + start + rows[:, None] * head + cols[None, :]
    low = tl.load(offsets, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(offsets + HALF, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        new_low = low * cos_low[None, :] + high * sin_high[None, :]
        new_high = high * cos_high[None, :] - low * sin_low[None, :]
    else:
        new_low = low * cos_low[None, :] - high * sin_low[None, :]
        new_high = high * cos_high[None, :] + low * sin_high[None, :]
    written = out_at + out * heads * (2 * HALF) + rows[:, None] * (2 * HALF) + cols[None, :]
    tl.store(written, new_low.to(out_at.dtype.element_ty), mask=inside)
    tl.store(written + HALF, new_high.to(out_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=("size", "q_batch", "k_batch", "angle_batch"))
def _rotate(
    q_at,
    k_at,
    cos_at,
    sin_at,
    q_out,
    k_out,
    size,
    q_batch,
    q_position,
    q_head,
    q_heads,
    k_batch,
    k_position,
    k_head,
    k_heads,
    angle_batch,
    angle_position,
    HALF: tl.constexpr,  # noqa: N803
    Q_HEADS: tl.constexpr,  # noqa: N803
    K_HEADS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    BACK: tl.constexpr,  # noqa: N803
):
    """One token: its queries and its keys."""
    token = tl.program_id(0).to(tl.int64)
    batch, position = token // size, token % size
    cols = tl.arange(0, COLS)
    inside = cols < HALF
    angles = batch * angle_batch + position * angle_position + cols
    cos_low = tl.load(cos_at + angles, mask=inside, other=0.0).to(tl.float32)
    cos_high = tl.load(cos_at + angles + HALF, mask=inside, other=0.0).to(tl.float32)
    sin_low = tl.load(sin_at + angles, mask=inside, other=0.0).to(tl.float32)
    sin_high = tl.load(sin_at + angles + HALF, mask=inside, other=0.0).to(tl.float32)
    q_start, k_start = batch * q_batch + position * q_position, batch * k_batch + position * k_position
    _rotate_heads(
        q_at, q_out, q_start, q_head, token, q_heads, cos_low, cos_high, sin_low, sin_high,
        HALF, Q_HEADS, COLS, BACK,
    )  # fmt: skip
    _rotate_heads(
        k_at, k_out, k_start, k_head, token, k_heads, cos_low, cos_high, sin_low, sin_high,
        HALF, K_HEADS, COLS, BACK,
    )  # fmt: skip


def _launch(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k))
    batch, size, heads, depth = q.shape
    q_out, k_out = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (q, k))
    _rotate[(batch * size,)](
        q,
        k,
        cos,
        sin,
        q_out,
        k_out,
        size,
        *q.stride()[:3],
        heads,
        *k.stride()[:3],
        k.shape[2],
        *cos.stride()[:2],
        HALF=depth // 2,
        Q_HEADS=triton.next_power_of_2(heads),
        K_HEADS=triton.next_power_of_2(k.shape[2]),
        COLS=triton.next_power_of_2(depth // 2),
        BACK=back,
        num_warps=4,
    )
    return q_out, k_out


class Rotated(torch.autograd.Function):
    """See :func:`steerseg.lvlm.rotations.rotated`."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate both."""
        ctx.save_for_backward(cos, sin)
        return _launch(q, k, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Rotate both gradients back."""
        cos, sin = ctx.saved_tensors
        return *_launch(given[0], given[1], cos, sin, True), None, None
