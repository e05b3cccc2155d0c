"""Patches embedded by a product are those of the convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steerseg.lvlm.patch_products import convolve_patches, multiply_patches
from tests.support.tiny_lvlms import TINY


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_tower_embeds_the_same(family: str) -> None:
    torch.manual_seed(0)
    model, _ = TINY[family].build(2)
    (embed,) = (module for module in model.modules() if type(module).__name__.endswith("PatchEmbed"))
    patches = torch.randn(6, embed.proj.weight[0].numel())
    expected = embed(patches)
    assert multiply_patches(model) == 1
    torch.testing.assert_close(embed(patches), expected, rtol=1e-5, atol=1e-6)
    assert multiply_patches(model) == 0
    convolve_patches(model)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_other_convolutions_stay_as_they_are() -> None:
    sliding = nn.Conv3d(3, 4, (2, 3, 3))
    picture = torch.randn(1, 3, 4, 6, 6)
    expected = sliding(picture)
    assert multiply_patches(nn.ModuleList([sliding])) == 1
    torch.testing.assert_close(sliding(picture), expected)  # it is larger than one patch
    assert multiply_patches(nn.ModuleList([nn.Conv3d(3, 4, 2, padding=1), nn.Conv2d(3, 4, 2)])) == 0
