"""Rotary positions of queries and keys by one kernel, forwards and backwards.

The models' own are ten operations in turn on tensors of a layer's width, in float32 in a vision tower. They take a
quarter of a tower's time, and of the kernel launches of a text.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from steerseg.runtime.kernel_trial import ROUNDED_ONCE, largest_share, pass_on_gpu

Rotate = Callable[..., tuple[Tensor, Tensor]]
"""A model's own function: of queries, keys, cosines and sines."""


def fuse_rotations(model: nn.Module) -> int:
    """Let the functions that rotate a model's queries and keys use the kernel; returns how many there are.

    The functions of transformers' modelling files are replaced for the whole process, and so for all models of these
    files. On a CPU, and where the kernel is not right, they call the originals.
    """
    return sum(_replace_function(module, name) for module in _modelling(model) for name in _LAYOUTS)


def separate_rotations(model: nn.Module) -> None:
    """Undo :func:`fuse_rotations`."""
    for module in _modelling(model):
        for name in _LAYOUTS:
            own = getattr(getattr(module, name, None), "steerseg_own", None)
            if own is not None:
                setattr(module, name, own)


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by the angles of their positions, halves of channels as pairs; one kernel on a GPU.

    Args:
        q: (B, S, H, d).
        k: (B, S, H_kv, d).
        cos: (B or 1, S, d).
        sin: The same.

    Returns:
        Both, contiguous.
    """
    from steerseg.lvlm.rotation_kernels import Rotated  # Triton is not there everywhere

    cos, sin = (part.expand(len(q), -1, -1) for part in (cos, sin))
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:
        cos, sin = cos.contiguous(), sin.contiguous()
    turned: tuple[Tensor, Tensor] = Rotated.apply(q, k, cos, sin)
    return turned


def _of_text(own: Rotate, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
    """Of (B, H, S, d), cosines (B or 1, S, d) in the same precision."""
    if (
        more
        or named
        or not _supported(q, k, cos, sin)
        or q.dtype != cos.dtype
        or q.ndim != 4
        or cos.ndim != 3
    ):
        return own(q, k, cos, sin, *more, **named)
    turned = rotated(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    return tuple(part.transpose(1, 2) for part in turned)


def _of_patches(own: Rotate, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Of (S, H, d), cosines (S, d) in any precision."""
    if not _supported(q, k, cos, sin) or q.ndim != 3 or cos.ndim != 2:
        return own(q, k, cos, sin)
    return tuple(part[0] for part in rotated(q[None], k[None], cos[None], sin[None]))


_LAYOUTS: dict[str, Callable[..., Any]] = {
    "apply_rotary_pos_emb": _of_text,
    "apply_rotary_pos_emb_vision": _of_patches,
}


def _modelling(model: nn.Module) -> Iterator[ModuleType]:
    """The modelling files of transformers that a model's modules come from."""
    names = {type(module).__module__ for module in model.modules()}
    return (sys.modules[name] for name in sorted(names) if name.startswith("transformers.models."))


def _replace_function(module: ModuleType, name: str) -> bool:
    own = getattr(module, name, None)
    if own is None:
        return False
    if not hasattr(own, "steerseg_own"):
        fused = functools.update_wrapper(functools.partial(_LAYOUTS[name], own), own)
        fused.steerseg_own = own  # type: ignore[attr-defined]
        setattr(module, name, fused)
    return True


def _supported(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    alike = q.dtype == k.dtype and cos.shape == sin.shape and cos.shape[-1] == q.shape[-1]
    return q.device.type == "cuda" and alike and kernels_work(q.device, q.dtype)


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once."""
    return pass_on_gpu(
        device, dtype, ROUNDED_ONCE, largest_difference, "rotary positions run without a kernel of their own"
    )


def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between kernels and torch, in outputs and gradients, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    pairs: list[tuple[Tensor, Tensor]] = []
    for rows, angled in ((2, 2), (2, 1), (1, 1)):
        q, k, *given = (
            torch.randn(rows, 7, heads, 40, generator=generator).to(device, dtype) for heads in (6, 2, 6, 2)
        )
        cos, sin = (torch.randn(angled, 7, 40, generator=generator).to(device, dtype) for _ in range(2))
        q, k = (part.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for part in (q, k))
        with torch.enable_grad():
            results = rotated(q, k, cos, sin), _by_torch(q, k, cos, sin)
            pairs += zip(*results, strict=True)
            gradients = [torch.autograd.grad(result, (q, k), given) for result in results]
        pairs += zip(*gradients, strict=True)
    return largest_share(pairs)


def _by_torch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos[:, :, None], sin[:, :, None]

    def turn(part: Tensor) -> Tensor:
        low, high = part.chunk(2, dim=-1)
        return part * cos + torch.cat((-high, low), dim=-1) * sin

    return turn(q), turn(k)
