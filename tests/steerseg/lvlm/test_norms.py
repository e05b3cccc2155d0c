"""Norms by one kernel give what the models' own give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steerseg.lvlm.base import LVLM
from steerseg.lvlm.norms import fuse_norms, separate_norms
from tests.support.tiny_lvlms import TINY


@pytest.mark.parametrize("family", sorted(TINY))
def test_a_model_says_the_same(family: str) -> None:
    torch.manual_seed(0)
    model, processor = TINY[family].build(2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    lvlm = LVLM(model, processor, family)
    ids = torch.randint(5, 90, (2, 12))
    soft = torch.randn(2, 12, lvlm.hidden_size)
    results = []
    for fused in (False, True):
        if fused:
            # Qwen3.5's weights count from one, and its norms stay its own.
            assert fuse_norms(lvlm.model) >= (0 if family == "qwen3_5" else 5)
        inputs = (lvlm.embeddings(ids) + soft).detach().requires_grad_()
        output = lvlm.text_model(inputs_embeds=inputs).last_hidden_state
        (gradient,) = torch.autograd.grad(output.square().sum(), inputs)
        results.append((output.detach(), gradient))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    separate_norms(lvlm.model)
    assert not any("forward" in module.__dict__ for module in lvlm.model.modules())


def test_other_norms_are_left_alone() -> None:
    class ShiftedRMSNorm(nn.Module):
        """Weights count from one."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((8,), 0.3))
            self.variance_epsilon = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)

    assert fuse_norms(nn.ModuleList([ShiftedRMSNorm(), nn.LayerNorm(8)])) == 0
