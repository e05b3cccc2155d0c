"""Kernels of the language model's layers, and their gradients, are right."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from steerseg.lvlm import gated_mlp as gating
from steerseg.lvlm import rotations
from steerseg.runtime.kernel_trial import ROUNDED_ONCE
from tests.support.interpreted_kernels import numbers_printed

MODULES = pytest.mark.parametrize("module", [gating, rotations], ids=["gating", "rotations"])


@MODULES
def test_kernels_and_their_gradients_are_right_when_interpreted(module: ModuleType) -> None:
    exact, rounded = numbers_printed(
        f"""
import torch
from {module.__name__} import largest_difference
for dtype in (torch.float32, torch.bfloat16):
    print(largest_difference(torch.device("cpu"), dtype))
"""
    )
    assert exact <= 1e-5
    assert rounded <= 3e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@MODULES
def test_compiled_kernels_are_right(module: ModuleType, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    assert module.largest_difference(device, dtype) <= ROUNDED_ONCE[dtype]
    assert module.kernels_work(device, dtype)
