"""Vision towers that attend within pieces of a packed sequence, as batches of pieces of one length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steerseg.lvlm.base import LVLM
from steerseg.lvlm.resizing import resize_floats, resize_frames
from steerseg.lvlm.vision import VisionKind
from steerseg.lvlm.vision_attention import PACKED_ATTENTION, vision_attention_of
from tests.support.tiny_lvlms import TINY


def loud(family: str) -> LVLM:
    """A tower whose attention makes a difference."""
    torch.manual_seed(0)
    model, processor = TINY[family].build(2)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return LVLM(model, processor, family)


@pytest.mark.parametrize("family", sorted(TINY))
def test_pieces_in_batches_give_what_pieces_in_turn_give(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures whose windows have four sizes, and a video."""
    lvlm = loud(family)
    calls: list[int] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(len(arguments[0]))
        return attention(*arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    sizes = lvlm.family.sizes(300, 500, video_tokens=60, frame_tokens=240)
    packs = family.startswith("qwen")
    assert vision_attention_of(lvlm.model) == (PACKED_ATTENTION if packs else "sdpa")
    kinds: tuple[VisionKind, ...] = ("image", "video")
    for kind, (height, width) in zip(kinds, (sizes.picture, sizes.video), strict=True):
        pixels = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8)
        made = []
        for way in (vision_attention_of(lvlm.model), "sdpa"):
            lvlm.model.set_attn_implementation({"vision_config": way})
            calls.clear()
            made.append((lvlm.encode_vision(pixels, kind).tokens, len(calls)))
        (ours, few), (theirs, many) = made
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
        assert few < many if packs else few == many


def test_resizing_by_floats_gives_the_same_picture() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 85, 3), dtype=np.uint8)
    frames[0] = np.kron(frames[0, ::12, ::17], np.ones((12, 17, 1), dtype=np.uint8))
    for height, width in ((28, 56), (84, 140)):
        expected = resize_frames(frames, height, width, torch.device("cpu"))
        given = resize_floats(torch.from_numpy(frames).permute(0, 3, 1, 2), height, width)
        assert given.dtype == torch.uint8
        difference = (given.int() - expected.int()).abs()
        assert int(difference.max()) <= 1
        assert float((difference > 0).float().mean()) < 0.05
