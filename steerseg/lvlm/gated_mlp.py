"""Gated MLPs of a frozen model with one kernel between their products, forwards and backwards.

``down(silu(gate(x)) * up(x))`` reads and writes the inner width, the widest of a layer, five times forwards and nine
backwards, and keeps a third of it that the gradients can do without.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from steerseg.lvlm.forwards import replace, restore
from steerseg.runtime.kernel_trial import ROUNDED_ONCE, largest_share, pass_on_gpu


def fuse_gates(model: nn.Module, dtype: torch.dtype) -> int:
    """Let gated MLPs of precision ``dtype`` use the kernel, on a GPU where it is right; returns how many do."""
    return sum(_fuse(module, dtype) for module in model.modules())


def separate_gates(model: nn.Module) -> None:
    """Undo :func:`fuse_gates`."""
    restore(model, _one_kernel)


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` of two tensors of one shape, by one kernel on a GPU."""
    from steerseg.lvlm.gating_kernels import Gated  # Triton is not there everywhere

    out: torch.Tensor = Gated.apply(gate, up)
    return out


def _one_kernel(module: Any, x: torch.Tensor) -> torch.Tensor:
    down: torch.Tensor = module.down_proj(gated(module.gate_proj(x), module.up_proj(x)))
    return down


def _fuse(module: nn.Module, dtype: torch.dtype) -> bool:
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    gate = layers[0]
    if not isinstance(gate, nn.Linear) or not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    device, width = gate.weight.device, gate.in_features
    if not kernels_work(device, dtype):
        return False
    # Other arithmetic than this may stand between layers of these names.
    sample = torch.linspace(-2, 2, 2 * width, device=device).view(1, 2, width).to(dtype)
    return replace(module, _one_kernel, sample, ROUNDED_ONCE[dtype])


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once."""
    return pass_on_gpu(
        device, dtype, ROUNDED_ONCE, largest_difference, "gated MLPs run without a kernel of their own"
    )


def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between kernels and torch, in outputs and gradients, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    gate, up, given = (2 * torch.randn(3, 5, 211, generator=generator).to(device, dtype) for _ in range(3))
    gate.requires_grad_()
    up.requires_grad_()
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.enable_grad():
        outputs = gated(gate, up), F.silu(gate) * up
        pairs.append(outputs)
        gradients = [torch.autograd.grad(output, (gate, up), given) for output in outputs]
    pairs += zip(*gradients, strict=True)
    return largest_share(pairs)
