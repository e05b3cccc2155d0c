"""Attention within windows by the kernel is torch's."""

from __future__ import annotations

import pytest
import torch

from steerseg.runtime.window_attention import attend_within, kernel_works, largest_difference
from tests.support.interpreted_kernels import numbers_printed


def test_windows_are_attended_right_when_interpreted() -> None:
    (exact,) = numbers_printed(
        """
import torch
from steerseg.runtime.window_attention import largest_difference
print(largest_difference(torch.device("cpu"), torch.float32))  # products of bfloat16 cannot be interpreted
"""
    )
    assert exact <= 1e-5


def test_a_cpu_attends_by_torch() -> None:
    joint = torch.randn(5, 16, 3, 2, 24)
    query, key, value = joint.unbind(2)
    given = attend_within(query, key, value, 0.3)
    weights = torch.einsum("wqhd,wkhd->whqk", query, key).mul(0.3).softmax(dim=-1)
    torch.testing.assert_close(given, torch.einsum("whqk,wkhd->wqhd", weights, value))
    assert not kernel_works(query.device, torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_windows_are_attended_right_on_a_gpu(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    assert kernel_works(device, dtype)
    assert largest_difference(device, dtype) <= 1.6e-2
