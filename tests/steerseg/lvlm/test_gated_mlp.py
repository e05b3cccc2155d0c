"""Gated MLPs with one kernel give what the models' own give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steerseg.lvlm import gated_mlp as gating
from steerseg.lvlm.base import LVLM
from steerseg.lvlm.gated_mlp import fuse_gates, separate_gates
from tests.support.tiny_lvlms import TINY


def test_nothing_changes_without_a_gpu() -> None:
    model, _ = TINY["qwen2_5_vl"].build(2)
    assert fuse_gates(model, torch.float32) == 0


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for kernels that work."""
    monkeypatch.setattr(gating, "kernels_work", lambda device, dtype: True)
    monkeypatch.setattr(gating, "gated", lambda gate, up: nn.functional.silu(gate) * up)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("family", sorted(TINY))
def test_a_model_says_the_same(family: str) -> None:
    torch.manual_seed(0)
    model, processor = TINY[family].build(2)
    lvlm = LVLM(model, processor, family)
    inputs = torch.randn(2, 12, lvlm.hidden_size)
    own = lvlm.text_model(inputs_embeds=inputs).last_hidden_state
    assert fuse_gates(lvlm.model, torch.float32) >= 2
    assert torch.equal(lvlm.text_model(inputs_embeds=inputs).last_hidden_state, own)
    separate_gates(lvlm.model)
    assert not any("forward" in module.__dict__ for module in lvlm.model.modules())


@pytest.mark.usefixtures("by_torch")
def test_other_arithmetic_between_layers_of_these_names_is_left_alone() -> None:
    class Otherwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (
                nn.Linear(8, 16),
                nn.Linear(8, 16),
                nn.Linear(16, 8),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            down: torch.Tensor = self.down_proj(nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))
            return down

    assert fuse_gates(nn.ModuleList([Otherwise()]), torch.float32) == 0
