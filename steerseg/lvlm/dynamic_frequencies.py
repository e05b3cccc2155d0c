"""Frequencies of rotary positions that grow with a chat, without asking the device how long it is.

InternVL's checkpoints may name them (``rope_type`` ``"dynamic"``). transformers reads the largest position on the host,
which waits for a GPU and cannot be captured. Here the same numbers are computed where the positions are.
"""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def settle_frequencies(model: nn.Module) -> int:
    """Let a model's dynamic rotary embeddings choose their frequencies on the device; returns how many there are."""
    dynamic = [module for module in model.modules() if getattr(module, "rope_type", None) == "dynamic"]
    for module in dynamic:
        module.forward = MethodType(_forward, module)
    return len(dynamic)


@torch.no_grad()
def _forward(module: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, by the frequencies of chats as long as this one."""
    # In place: a captured pass reads them where they are.
    module.inv_freq.copy_(_frequencies(module, position_ids))
    own = inspect.unwrap(type(module).forward)
    turned: tuple[Tensor, Tensor] = own(module, x, position_ids)
    return turned


def _frequencies(module: Any, position_ids: Tensor) -> Tensor:
    """(d / 2,) the model's own up to its longest trained chat, and lower ones for longer chats (NTK scaling)."""
    config, trained = module.config, module.original_max_seq_len
    own = module.original_inv_freq.to(position_ids.device)
    width = 2 * len(own)
    length = (position_ids.max() + 1).clamp(min=trained)
    factor, base = config.rope_parameters["factor"], config.rope_parameters["rope_theta"]
    base = base * (factor * length / trained - (factor - 1)) ** (width / (width - 2))
    exponents = torch.arange(0, width, 2, dtype=torch.int64, device=own.device).float() / width
    return torch.where(length > trained, 1.0 / base**exponents, own)
