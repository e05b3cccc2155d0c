"""Rotary positions whose frequencies grow with a chat: the library's numbers, without a host that reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from steerseg.lvlm.dynamic_frequencies import settle_frequencies

TRAINED = 64


@pytest.fixture
def rotary() -> Any:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
    config = Qwen2Config(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=TRAINED, rope_parameters=scaling
    )
    return Qwen2RotaryEmbedding(config)


@pytest.mark.parametrize("length", [1, TRAINED - 1, TRAINED, TRAINED + 1, 300])
def test_frequencies_are_the_librarys(rotary: Any, length: int) -> None:
    settled = copy.deepcopy(rotary)
    assert settle_frequencies(settled) == 1
    x, positions = torch.zeros(2, length, 64), torch.arange(length).expand(2, -1)
    for ours, expected in zip(settled(x, positions), rotary(x, positions), strict=True):
        assert torch.equal(ours, expected) if length <= TRAINED else torch.allclose(ours, expected, atol=1e-5)


def test_a_short_chat_after_a_long_one_has_its_own(rotary: Any) -> None:
    settled = copy.deepcopy(rotary)
    settle_frequencies(settled)
    short, long = (torch.arange(length)[None] for length in (20, 200))
    x = torch.zeros(1, 1, 64)
    expected = rotary(x, short)
    settled(x, long)
    assert all(torch.equal(*pair) for pair in zip(settled(x, short), expected, strict=True))


def test_no_number_is_read_by_the_host(rotary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ends a capture on a GPU."""

    def read(self: torch.Tensor) -> bool:
        raise AssertionError("the host reads a number of the device")

    x, positions = torch.zeros(1, 4, 64), torch.arange(4)[None]
    settled = copy.deepcopy(rotary)
    settle_frequencies(settled)
    monkeypatch.setattr(torch.Tensor, "__bool__", read)
    settled(x, positions)
    with pytest.raises(AssertionError, match="the host reads"):
        rotary(x, positions)


def test_other_rotary_embeddings_stay_as_they_are() -> None:
    plain = Qwen2RotaryEmbedding(Qwen2Config(hidden_size=64, num_attention_heads=4))
    assert settle_frequencies(plain) == 0
    assert "forward" not in plain.__dict__
