"""What stands between the products of a text or vision layer, in one pass over memory each; by Triton on a GPU.

A gated MLP reads and writes its inner width, the widest of a layer, five times where three do. A token that is
generated waits for many kernels of a few microseconds: torch takes as long to norm a row, and to write a token at an
index, as for many.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerseg.lvlm.forwards import replace
from steerseg.runtime.kernel_trial import ROUNDED_ONCE, is_recorded, largest_share, pass_on_gpu

_FEW = 1 << 16
"""Numbers up to which a norm is one of few rows; torch's own is as fast for more."""

_MOST_WIDTH = 1 << 14


def fuse_gates(model: nn.Module) -> int:
    """Let gated MLPs apply their gates in one pass; returns how many do."""
    return sum(_fuse(module) for module in model.modules())


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors (..., C) of one shape, whose last axis is contiguous."""
    if _is_on_gpu(gate) and gate.stride(-1) == up.stride(-1) == 1:
        from steerseg.lvlm.layer_kernels import gated as by_kernel  # Triton is not there everywhere

        return by_kernel(gate, up)
    return F.silu(gate) * up


def norm(x: Tensor, weight: Tensor, epsilon: float | None) -> Tensor:
    """The RMS norm of (..., C) over its last axis."""
    if x.numel() <= _FEW and x.shape[-1] <= _MOST_WIDTH and epsilon is not None and _is_on_gpu(x):
        from steerseg.lvlm.layer_kernels import norm as by_kernel  # Triton is not there everywhere

        return by_kernel(x, weight, epsilon)
    return F.rms_norm(x, weight.shape, weight, epsilon)


def write_token(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, index: Tensor) -> None:
    """Write one token of each of B chats into buffers, in place.

    Args:
        keys: (B, H_kv, M, d), contiguous.
        values: The same.
        key: (B, H_kv, 1, d), whose last axis is contiguous.
        value: The same.
        index: (B,) int64, where each chat's token goes.
    """
    if _is_on_gpu(key):
        from steerseg.lvlm.layer_kernels import write_token as by_kernel  # Triton is not there everywhere

        by_kernel(keys, values, key, value, index)
        return
    _write_token(keys, values, key, value, index)


def _write_token(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, index: Tensor) -> None:
    rows = torch.arange(len(keys), device=keys.device)
    keys[rows, :, index] = key[:, :, 0]
    values[rows, :, index] = value[:, :, 0]


def _in_one_pass(module: Any, x: Tensor) -> Tensor:
    down: Tensor = module.down_proj(gated(module.gate_proj(x), module.up_proj(x)))
    return down


def _fuse(module: nn.Module) -> bool:
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    first = layers[0]
    if not isinstance(first, nn.Linear) or not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    dtype = first.weight.dtype
    if dtype not in ROUNDED_ONCE:
        return False  # quantised weights do not say in which precision they take their input
    # Other arithmetic than this may stand between layers of these names.
    sample = torch.linspace(-2, 2, 2 * first.in_features, device=first.weight.device)
    return replace(module, _in_one_pass, sample.view(1, 2, -1).to(dtype), ROUNDED_ONCE[dtype])


def _is_on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda" and not is_recorded(x) and kernels_work(x.device, x.dtype)


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once."""
    return pass_on_gpu(
        device,
        dtype,
        ROUNDED_ONCE,
        largest_difference,
        "layers run without kernels of their own between products",
    )


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between the kernels and torch, as a share of the largest value."""
    from steerseg.lvlm import layer_kernels

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    x, weight = 3 * random(2, 1, 200), random(200)
    exact = F.rms_norm(x.float(), weight.shape, weight.float(), 1e-6).to(dtype)
    pairs = [(layer_kernels.norm(x, weight, 1e-6), exact)]
    joint = 2 * random(3, 5, 422)
    for first, second in (
        torch.split(joint, 211, dim=-1),
        (joint[..., :200].contiguous(), joint[..., 200:400].contiguous()),
    ):
        expected = (F.silu(first.float()) * second.float()).to(dtype)
        pairs.append((layer_kernels.gated(first, second), expected))
    index = torch.tensor([4, 0], device=device)
    keys, values = (random(2, 3, 6, 24) for _ in range(2))
    own_keys, own_values = keys.clone(), values.clone()
    key, value = (random(2, 1, 3, 24).transpose(1, 2) for _ in range(2))
    layer_kernels.write_token(own_keys, own_values, key, value, index)
    _write_token(keys, values, key, value, index)
    return largest_share([*pairs, (own_keys, keys), (own_values, values)])
