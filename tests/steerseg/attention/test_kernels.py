"""The Triton kernels against chunks of rows: interpreted on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import logging

import pytest
import torch

from steerseg.attention import rollout
from steerseg.attention.rollout import (
    kernel_difference,
    kernels_work,
    roll_layer_in_chunks,
    streaming_rollout,
)
from steerseg.lvlm.tap import QueryKeyTap, RolloutInputs
from tests.support.interpreted_kernels import numbers_printed

_INTERPRETED = """
import torch
from steerseg.attention.rollout import kernel_difference
for depth, size in ((16, 130), (24, 40)):
    print(kernel_difference(torch.device("cpu"), torch.float32, depth, size=size))
"""


def test_kernels_and_their_gradients_are_right_when_interpreted() -> None:
    """Shared keys, padding, sizes that are no multiple of a tile, channels that are no power of two."""
    differences = numbers_printed(_INTERPRETED)
    assert len(differences) == 2
    assert max(differences) <= 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)]
)
@pytest.mark.parametrize("depth", [64, 80, 128])
def test_compiled_kernels_are_right(dtype: torch.dtype, most: float, depth: int) -> None:
    device = torch.device("cuda")
    assert kernel_difference(device, dtype, depth, size=700) <= most
    assert kernels_work(torch.zeros(1, 1, 1, depth, device=device, dtype=dtype))


def random_pass(dtype: torch.dtype) -> RolloutInputs:
    generator = torch.Generator().manual_seed(0)
    tap = QueryKeyTap((0, 1))
    for layer in (0, 1):
        query, key = (3 * torch.randn(1, heads, 40, 16, generator=generator) for heads in (4, 2))
        tap.note(layer, query.to(dtype), key.to(dtype), 0.25)
    visual = torch.zeros(1, 40, dtype=torch.bool)
    visual[:, 5:30] = True
    return RolloutInputs(
        tap, torch.arange(5, 30)[None], visual, torch.ones_like(visual), padded=False, response=39
    )


def test_products_of_half_precision_are_not_rounded() -> None:
    half = random_pass(torch.bfloat16)
    exact = random_pass(torch.bfloat16)
    for kept in (exact.tap.queries, exact.tap.keys):
        for layer, value in kept.items():
            kept[layer] = value.double()
    expected = streaming_rollout(exact, (0, 1), heads="visual_max")
    got = streaming_rollout(half, (0, 1), heads="visual_max")
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_without_a_gpu_chunks_of_rows_do_it() -> None:
    assert not kernels_work(torch.zeros(1, 1, 1, 64))


@pytest.mark.parametrize("wrong", [True, False])
def test_kernels_that_fail_or_are_wrong_are_not_used_and_that_is_told(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def judged(*args: object) -> float:
        if wrong:
            return 0.5
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(rollout, "kernel_difference", judged)
    rollout._kernels_are_right.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not rollout._kernels_are_right(torch.device("cpu"), torch.float32, 64)
    rollout._kernels_are_right.cache_clear()
    assert ("5.0e-01" if wrong else "no compiler was found") in caplog.text


def test_the_size_of_chunks_changes_nothing() -> None:
    taken = random_pass(torch.float32)
    row = torch.rand(1, 40, generator=torch.Generator().manual_seed(1))
    results = [
        roll_layer_in_chunks(
            row, taken.tap.queries[0], taken.tap.keys[0], taken.visual, taken.live, 0.25, chunk=chunk
        )
        for chunk in (3, 100)
    ]
    for few, many in zip(*results, strict=True):
        assert torch.allclose(few, many, atol=1e-6)
