"""Where models run and how exactly they compute."""

from __future__ import annotations

import pytest
import torch

from steerseg.errors import ConfigError
from steerseg.runtime import devices
from steerseg.runtime.devices import native_products, resolve_device


def test_a_gpu_that_is_named_by_its_number_is_the_one_that_the_process_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels and captured steps go to the current GPU, whichever the models are on."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert resolve_device("cuda:1") == (torch.device("cuda:1"), torch.bfloat16)
    assert resolve_device("cuda")[0] == torch.device("cuda")
    assert current == [torch.device("cuda:1")]
    with pytest.raises(ConfigError, match=r"cuda:2.* sees 2 GPU\(s\)"):
        resolve_device("cuda:2")


def test_native_products_are_near_and_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        devices, "multiplies_bfloat16", lambda: True
    )  # torch imitates them where there are none
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    exact = a @ b
    with native_products():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        near = a @ b
    assert torch.equal(a @ b, exact)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def test_native_products_change_nothing_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with native_products():
        assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_precision_is_set_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: True)
    before = torch.backends.mkldnn.conv.fp32_precision
    with pytest.raises(ValueError, match="stop"), native_products():
        raise ValueError("stop")
    assert torch.backends.mkldnn.conv.fp32_precision == before
