"""Devices of models, and the precision of their products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steerseg.errors import ConfigError


def resolve_device(name: str) -> tuple[torch.device, torch.dtype]:
    """The device that a name stands for, and the precision of models on it.

    A GPU with a number becomes the current one of this process: our kernels and captured steps run there.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The device; ``torch.bfloat16`` for a GPU, ``torch.float32`` otherwise.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N.") from error
    if device.type != "cuda":
        return device, torch.float32
    if not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no GPU; use --device cpu.")
    if device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise ConfigError(
                f"device {name!r} was asked for, but torch sees {count} GPU(s), numbered from 0."
            )
        torch.cuda.set_device(device)
    return device, torch.bfloat16


@contextmanager
def native_products() -> Iterator[None]:
    """Inside, float32 models multiply in bfloat16 on a CPU with instructions for it.

    Factors of matrix products and convolutions are rounded to bfloat16, their sums stay float32; on a GPU models
    compute in bfloat16 altogether. A CPU without such instructions goes on as before. It holds for the whole
    process, so it is for main programs and not for a library's callers. On two cores of an AMD EPYC a training step of
    the demo takes a fifth less time inside; proposals, whose products are small, gain next to nothing.
    """
    if not multiplies_bfloat16():
        yield
        return
    onednn: Any = torch.backends.mkldnn  # its settings are made when it is imported
    kinds = (onednn.matmul, onednn.conv)
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "bf16"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it (AVX-512 BF16 or AMX); torch would imitate them otherwise."""
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones
    asked = [getattr(torch.cpu, name, None) for name in questions]
    onednn: Any = torch.backends.mkldnn
    return bool(onednn.is_available()) and any(ask is not None and ask() for ask in asked)
