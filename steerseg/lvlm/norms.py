"""RMS norms of a frozen model by one kernel each, forwards and backwards.

The models' own norms are half a dozen operations in float32, each of which reads and writes the whole sequence, and
twice as many in the backward pass of a training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from steerseg.lvlm.forwards import replace, restore
from steerseg.lvlm.layer_passes import norm
from steerseg.runtime.kernel_trial import ROUNDED_ONCE


def fuse_norms(model: nn.Module) -> int:
    """Let RMS norms be computed by torch's own where it gives the same numbers; returns how many are."""
    return sum(_fuse(module) for module in model.modules())


def separate_norms(model: nn.Module) -> None:
    """Undo :func:`fuse_norms`."""
    restore(model, _one_kernel)


def _epsilon(module: nn.Module) -> float | None:
    return getattr(module, "variance_epsilon", None)


def _one_kernel(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return norm(hidden_states, module.weight, _epsilon(module))


def _fuse(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or _epsilon(module) is None:
        return False
    if weight.dtype not in ROUNDED_ONCE:
        return False
    sample = torch.linspace(-2, 2, 2 * len(weight), device=weight.device).view(2, -1).to(weight.dtype)
    return replace(module, _one_kernel, sample, ROUNDED_ONCE[weight.dtype])
