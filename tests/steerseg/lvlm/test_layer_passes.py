"""Gates, norms and written tokens in one pass give what torch gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steerseg.lvlm.forwards import restore
from steerseg.lvlm.layer_passes import _in_one_pass, fuse_gates, write_token
from tests.support.tiny_lvlms import TINY


@pytest.mark.parametrize("family", sorted(TINY))
def test_a_model_says_the_same(family: str) -> None:
    torch.manual_seed(0)
    model, _ = TINY[family].build(2)
    ids = torch.randint(5, 90, (2, 12))
    results = []
    for fused in (False, True):
        if fused:
            assert fuse_gates(model) >= 2, "of text layers"
            assert fuse_gates(model) == 0, "once"
        inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
        output = model.get_decoder()(inputs_embeds=inputs).last_hidden_state
        (gradient,) = torch.autograd.grad(output.square().sum(), inputs)
        results.append((output.detach(), gradient))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    restore(model, _in_one_pass)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_other_gates_are_left_alone() -> None:
    class GatedByGelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))

    assert fuse_gates(nn.ModuleList([GatedByGelu(), nn.Linear(8, 8)])) == 0


def test_tokens_are_written_where_each_chat_is() -> None:
    keys, values = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 5, 4)
    key, value = torch.randn(2, 1, 3, 4).transpose(1, 2), torch.randn(2, 1, 3, 4).transpose(1, 2)
    write_token(keys, values, key, value, torch.tensor([4, 1]))
    assert torch.equal(keys[0, :, 4], key[0, :, 0])
    assert torch.equal(values[1, :, 1], value[1, :, 0])
    assert int(keys.ne(0).any(dim=-1).sum()) == int(values.ne(0).any(dim=-1).sum()) == 6
