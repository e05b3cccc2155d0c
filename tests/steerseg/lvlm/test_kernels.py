"""Kernels of the language model's layers, and their gradients, are right."""

from __future__ import annotations

import pytest
import torch

from steerseg.lvlm import layer_passes, one_query, rotations
from steerseg.runtime.kernel_trial import ROUNDED_ONCE
from tests.support.interpreted_kernels import numbers_printed

KERNELS = {"rotations": rotations, "layer_passes": layer_passes}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_their_gradients_are_right_when_interpreted(name: str) -> None:
    exact, rounded = numbers_printed(
        f"""
import torch
from steerseg.lvlm.{name} import largest_difference
for dtype in (torch.float32, torch.bfloat16):
    print(largest_difference(torch.device("cpu"), dtype))
"""
    )
    assert exact <= 1e-5
    assert rounded <= 3e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_kernels_are_right(name: str, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    assert KERNELS[name].largest_difference(device, dtype) <= ROUNDED_ONCE[dtype]
    assert KERNELS[name].kernels_work(device, dtype)


def test_one_query_attends_right_when_interpreted() -> None:
    exact = numbers_printed(
        """
import torch
from steerseg.lvlm.one_query import largest_difference
for depth in (16, 64):  # products of bfloat16 cannot be interpreted
    print(largest_difference(torch.device("cpu"), torch.float32, depth))
"""
    )
    assert len(exact) == 2
    assert max(exact) <= 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", [64, 128, 256])
def test_one_query_attends_right_on_a_gpu(dtype: torch.dtype, depth: int) -> None:
    device = torch.device("cuda")
    assert one_query.largest_difference(device, dtype, depth) <= ROUNDED_ONCE[dtype]
    assert one_query.kernels_work(device, dtype, depth)
