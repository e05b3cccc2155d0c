from __future__ import annotations

import torch
from torch import nn

from steerseg.lvlm.padding import pad_inner_widths


class MLP(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, inner), nn.Linear(8, inner)
        self.down_proj = nn.Linear(inner, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def test_padded_inner_widths_give_the_same() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([MLP(100), MLP(128)]).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = [mlp(x) for mlp in model]
    assert pad_inner_widths(model) == 1
    assert model[0].down_proj.weight.shape == (8, 128)
    for mlp, value in zip(model, expected, strict=True):
        torch.testing.assert_close(mlp(x), value, rtol=1e-12, atol=1e-12)
    assert pad_inner_widths(model) == 0
