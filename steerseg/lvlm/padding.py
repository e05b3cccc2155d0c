"""Inner widths that a GPU multiplies at full speed.

Qwen2.5-VL's vision tower has an inner width of 3420, which is no multiple of eight. Rows of bfloat16 are then not
aligned, and matrices are multiplied at half the speed. Zeros beyond the width change no result.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

_MULTIPLE = 64


def pad_inner_widths(model: nn.Module) -> int:
    """Pad the gated MLPs of a model whose inner width is not aligned; returns how many there were."""
    return sum(_pad(module) for module in model.modules())


@torch.no_grad()
def _pad(module: nn.Module) -> bool:
    gate, up, down = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    if not (_plain(gate) and _plain(up) and _plain(down)):
        return False
    missing = -down.in_features % _MULTIPLE
    if not missing or gate.out_features != down.in_features or up.out_features != down.in_features:
        return False
    for layer in (gate, up):
        layer.weight = _frozen(torch.cat([layer.weight, layer.weight.new_zeros(missing, layer.in_features)]))
        if layer.bias is not None:
            layer.bias = _frozen(torch.cat([layer.bias, layer.bias.new_zeros(missing)]))
        layer.out_features += missing
    down.weight = _frozen(torch.cat([down.weight, down.weight.new_zeros(down.out_features, missing)], dim=1))
    down.in_features += missing
    return True


def _plain(layer: object) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear  # a quantised layer has a layout of its own


def _frozen(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
