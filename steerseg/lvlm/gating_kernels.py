"""The Triton kernels behind :mod:`steerseg.lvlm.gated_mlp`: each reads its inputs once and writes its outputs once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_TILE = 2048  # numbers of one program


@triton.jit
def _gate(gate_at, up_at, out_at, count, TILE: tl.constexpr):  # noqa: N803
    offsets = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = offsets < count
    gate = tl.load(gate_at + offsets, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_at + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + offsets, (gate * tl.sigmoid(gate) * up).to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _gate_gradients(
    given_at,
    gate_at,
    up_at,
    to_gate_at,
    to_up_at,
    count,
    TILE: tl.constexpr,  # noqa: N803
):
    offsets = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = offsets < count
    given = tl.load(given_at + offsets, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_at + offsets, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_at + offsets, mask=inside, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(gate)
    slope = open_ * (1.0 + gate * (1.0 - open_))
    tl.store(to_gate_at + offsets, (given * up * slope).to(to_gate_at.dtype.element_ty), mask=inside)
    tl.store(to_up_at + offsets, (given * gate * open_).to(to_up_at.dtype.element_ty), mask=inside)


def _grid(count: int) -> tuple[int]:
    return (triton.cdiv(count, _TILE),)


class Gated(torch.autograd.Function):
    """See :func:`steerseg.lvlm.gated_mlp.gated`."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up``."""
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _gate[_grid(out.numel())](gate, up, out, out.numel(), TILE=_TILE)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of both."""
        gate, up = ctx.saved_tensors
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        count = gate.numel()
        _gate_gradients[_grid(count)](given[0].contiguous(), gate, up, to_gate, to_up, count, TILE=_TILE)
        return to_gate, to_up
