"""A preset of small random models, and a small made-up proposal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerseg.demo.sam2 import build_sam2, save_sam2
from steerseg.grounding import GroundingMaps
from steerseg.masks import encode_rle
from steerseg.points import PointPrompt
from steerseg.proposal import Proposal
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Tracklet
from steerseg.video import Video, keyframe_indices
from tests.conftest import SMALL_SAM2, save_tiny_lvlm


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset folder of small random models in the real layouts."""
    folder = tmp_path_factory.mktemp("preset")
    save_tiny_lvlm(folder / "lvlm")
    torch.manual_seed(1)
    model = build_sam2(SMALL_SAM2)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    save_sam2(model.state_dict(), SMALL_SAM2, folder / "sam2")
    generator = torch.Generator().manual_seed(2)
    SoftPrompts(torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator)).save(
        folder / "soft_prompts"
    )
    card = {
        "name": "small",
        "lvlm": "lvlm",
        "sam2": "sam2",
        "soft_prompts": "soft_prompts",
        "keyframes": 5,
        "video_tokens": 8,
        "pipeline": {"max_new_tokens": 6, "alternatives": 2},
    }
    (folder / "preset.json").write_text(json.dumps(card))
    return folder


HEIGHT, WIDTH, COUNT = 45, 80, 12


def square(index: int, offset: int, *, visible: bool = True) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if visible:
        mask[offset : offset + 14, 4 + 3 * index : 20 + 3 * index] = True
    return mask


def _make_proposal(*, keyframes: int = 4, found: bool = True, **changes: Any) -> Proposal:
    """Two squares that move to the right; the best one is hidden in frames 5 and 6."""
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 120, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    pts = np.cumsum([0.0, *([0.04, 0.1] * 6)])[:COUNT]
    video = Video(frames, pts, 14.3, "clip.mp4", "d1ge57", 1)
    indices = keyframe_indices(COUNT, keyframes)
    grid = torch.Generator().manual_seed(0)
    maps = GroundingMaps(
        keyframes=indices,
        frame=torch.rand(len(indices), 6, 10, generator=grid),
        video=torch.rand(-(-len(indices) // 2), 3, 5, generator=grid),
        fused=torch.rand(len(indices), 6, 10, generator=grid),
    )
    first, second = PointPrompt(indices[0], 0.15, 0.2, 1.0), PointPrompt(indices[-1], 0.5, 0.8, 0.85)
    scores = np.linspace(0.5, 1, COUNT).astype(np.float32)
    best = Tracklet(
        tuple(encode_rle(square(i, 4, visible=i not in (5, 6))) for i in range(COUNT)), scores, first, 0.8125
    )
    other = Tracklet(tuple(encode_rle(square(i, 28)) for i in range(COUNT)), scores[::-1], second, -0.25)
    proposal = Proposal(
        expression="the upper square",
        attributes=("square", "upper", "moving right"),
        tracklets=(best, other) if found else (),
        maps=maps,
        points=(first, second, PointPrompt(indices[0], 0.9, 0.9, 0.8)),
        pts=pts,
        fps=14.3,
        height=HEIGHT,
        width=WIDTH,
        versions={"steerseg": "0.1.0", "preset": "demo"},
        video=video,
    )
    return replace(proposal, **changes)


@pytest.fixture
def make_proposal() -> Callable[..., Proposal]:
    """Makes proposals of 12 frames of 80x45: ``make_proposal(keyframes=4, found=True, **changed_fields)``."""
    return _make_proposal
