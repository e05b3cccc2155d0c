"""Chats that a device has room for: a recurrent layer takes memory that an attending one does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from steerseg.lvlm import activations
from steerseg.lvlm.activations import ActivationMemory
from steerseg.lvlm.past import recurrent_width

TOKENS = 100
GPU = torch.device("cuda")


def memory(kinds: list[str]) -> ActivationMemory:
    """Of a text model of Qwen3.5's configuration with such layers, without weights."""
    config = transformers.Qwen3_5TextConfig(num_hidden_layers=len(kinds), layer_types=kinds)
    decoder = SimpleNamespace(layers=[None] * len(kinds))
    model: Any = SimpleNamespace(
        get_decoder=lambda: decoder, config=SimpleNamespace(get_text_config=lambda: config)
    )
    return ActivationMemory(model, GPU, torch.bfloat16)


@pytest.mark.parametrize("free", [1 << 30, 4 << 30])
def test_recurrent_layers_leave_room_for_fewer_chats(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "free_bytes", lambda device: free)
    plain, hybrid = memory(["full_attention"] * 4), memory(["linear_attention", "full_attention"] * 2)
    assert recurrent_width(plain._config) == 0
    # 32 heads of 128 channels, sixteen tensors in float32.
    extra = 16 * 32 * 128 * 4 * TOKENS
    rows = hybrid.training_rows(TOKENS)
    assert rows * extra <= free // 4
    assert rows < plain.training_rows(TOKENS)
    assert hybrid.rows_at_once(TOKENS, 2) <= plain.rows_at_once(TOKENS, 2)
    fitting = [count for count in range(100, 40_000, 100) if hybrid.fits_backward(count)]
    assert plain.fits_backward(fitting[-1])
    assert plain.fits_backward(fitting[-1] + 100)
    assert not hybrid.fits_backward(fitting[-1] + 100)
