"""Patches of pictures embedded by a product of matrices, where a vision tower has a convolution.

Each patch comes as a picture of its own, which the convolution covers once. cuDNN takes twenty times as long for that
as a product does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerseg.lvlm.forwards import replace, restore
from steerseg.runtime.kernel_trial import ROUNDED_ONCE


def multiply_patches(model: nn.Module) -> int:
    """Let convolutions that cover a patch once be products; returns how many are."""
    return sum(_replace(module) for module in model.modules())


def convolve_patches(model: nn.Module) -> None:
    """Undo :func:`multiply_patches`."""
    restore(model, _as_product)


def _as_product(module: Any, patches: Tensor) -> Tensor:
    """(P, C, t, h, w) patches -> (P, C', 1, 1, 1)."""
    if patches.shape[2:] != module.weight.shape[2:]:
        return nn.Conv3d.forward(module, patches)
    return F.linear(patches.flatten(1), module.weight.flatten(1), module.bias)[..., None, None, None]


def _replace(module: nn.Module) -> bool:
    if type(module) is not nn.Conv3d or module.padding != (0, 0, 0) or module.groups != 1:
        return False
    weight = module.weight
    if weight.dtype not in ROUNDED_ONCE:
        return False
    sample = torch.linspace(-1, 1, 2 * weight[0].numel(), device=weight.device).view(2, *weight.shape[1:])
    return replace(module, _as_product, sample.to(weight.dtype), ROUNDED_ONCE[weight.dtype])
