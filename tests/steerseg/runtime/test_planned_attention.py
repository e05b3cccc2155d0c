"""Attention is torch's, whoever computes it, and goes on where cuDNN has no plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerseg.runtime import planned_attention
from steerseg.runtime.lru import LruCache
from steerseg.runtime.planned_attention import SIGHTS, attempt, attend


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_attention, "_refused", set())
    monkeypatch.setattr(planned_attention, "_seen", LruCache(8))


def parts(length: int = 160, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 64, generator=generator).to(device, dtype) for _ in range(3)]


def test_a_shape_without_a_plan_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def without_a_plan() -> Tensor:
        tried.append(1)
        raise RuntimeError("No execution plans support the graph")

    for _ in range(3):
        assert attempt(*parts(), without_a_plan) is None
    assert len(tried) == 1
    assert caplog.text.count("No execution plans support the graph") == 1
    other = parts(170)
    assert attempt(*other, lambda: other[0]) is other[0]


def test_an_entry_that_stands_for_several_is_left_to_torch() -> None:
    query, key, value = parts()
    tried: list[int] = []

    def by_cudnn() -> Tensor:
        tried.append(1)
        return query

    assert attempt(query[:1].expand_as(query), key, value, by_cudnn) is None
    assert attempt(query, key, value.transpose(2, 3), by_cudnn) is None
    assert not tried
    assert attempt(query, key, value, by_cudnn) is query


def test_memory_that_runs_out_is_no_missing_plan() -> None:
    def without_memory() -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        attempt(*parts(), without_memory)
    assert attempt(*parts(), lambda: torch.ones(1)) is not None


def test_attention_goes_on_where_a_shape_has_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = parts()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.2)
    monkeypatch.setattr(planned_attention, "_comes_often", lambda *_: True)
    monkeypatch.setattr(planned_attention, "attempt", lambda *_: None)
    assert torch.equal(attend(query, key, value, 0.2), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_attends_the_same_with_a_plan(dtype: torch.dtype) -> None:
    query, key, value = parts(600, "cuda", dtype)
    exact = attend(query.float(), key.float(), value.float())
    for _ in range(SIGHTS + 1):
        given = attend(query, key, value)
        assert float((given.float() - exact).abs().max()) <= 1.6e-2 * float(exact.abs().max())
    assert not planned_attention._refused
