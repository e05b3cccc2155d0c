from __future__ import annotations

import numpy as np
import pytest
import torch

from steerseg.config import PipelineConfig
from steerseg.grounding import (
    VisionContext,
    encode_keyframes,
    fuse,
    ground,
    min_max,
    roll_out,
    smooth,
)
from steerseg.lvlm import LVLM
from steerseg.lvlm.families.base import video_grid
from steerseg.soft_prompts import SoftPrompts


@pytest.fixture(scope="module")
def context(tiny_lvlm: LVLM) -> VisionContext:
    frames = np.random.default_rng(0).integers(0, 256, (5, 54, 96, 3), dtype=np.uint8)
    return encode_keyframes(
        tiny_lvlm, frames, [0, 3, 6, 9, 12], budget=8, seconds_per_slice=1.0, frame_batch=2
    )


@pytest.mark.parametrize(
    ("size", "budget", "grid"),
    [((480, 854), 400, (14, 26)), ((270, 480), 64, (6, 10)), ((100, 100), 64, (8, 8))],
)
def test_the_video_grid_keeps_to_its_budget(
    size: tuple[int, int], budget: int, grid: tuple[int, int]
) -> None:
    assert video_grid(*size, budget) == grid


def test_a_blur_keeps_a_constant_map_up_to_its_borders() -> None:
    assert torch.allclose(smooth(torch.ones(1, 5, 6), 7), torch.ones(1, 5, 6))


def test_a_constant_map_is_zero_after_min_max() -> None:
    assert min_max(torch.full((2, 3, 3), 5.0), per_frame=True).abs().sum() == 0


def test_frame_passes_see_twice_the_video_grid(context: VisionContext) -> None:
    _, rows, columns = context.video.grid
    assert context.frames.grid == (1, 2 * rows, 2 * columns)
    assert context.video.grid[0] == 3  # five frames, two a slice


@pytest.mark.parametrize("granularity", ["frame", "video", "both"])
def test_maps_have_the_promised_shapes_and_ranges(
    tiny_lvlm: LVLM, context: VisionContext, granularity: str
) -> None:
    config = PipelineConfig(granularity=granularity)  # type: ignore[arg-type]
    maps = ground(tiny_lvlm, context, "where?", None, config, layers=(2, 3), frame_batch=2)
    assert (maps.frame is None) == (granularity == "video")
    assert (maps.video is None) == (granularity == "frame")
    assert maps.fused.shape == (5, *context.frames.grid[1:])
    assert maps.fused.amin() == 0
    assert maps.fused.amax() == 1
    if maps.frame is not None:
        assert torch.allclose(maps.frame.amax(dim=(1, 2)), torch.ones(5))


def test_batch_size_of_frame_passes_changes_nothing(tiny_lvlm: LVLM, context: VisionContext) -> None:
    config = PipelineConfig(granularity="frame")
    prompts = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 4, seed=0)
    one = ground(tiny_lvlm, context, "where?", prompts, config, layers=(2, 3), frame_batch=1)
    all_ = ground(tiny_lvlm, context, "where?", prompts, config, layers=(2, 3), frame_batch=5)
    assert torch.allclose(one.fused, all_.fused, atol=1e-5)


def test_fused_repeats_each_video_slice_for_its_two_frames() -> None:
    video = torch.zeros(2, 2, 2)
    video[1, 0, 0] = 1
    fused = fuse(None, video, 3, temporal_merge=2)
    assert fused.shape == (3, 4, 4)
    assert fused[:2].abs().sum() == 0
    assert fused[2].amax() == 1


def test_the_background_is_taken_away_before_maps_are_scaled(tiny_lvlm: LVLM, context: VisionContext) -> None:
    """The difference of the smoothed shares of attention, where it is positive."""
    config = PipelineConfig()
    prompts = SoftPrompts(torch.randn(3, tiny_lvlm.hidden_size), torch.randn(3, tiny_lvlm.hidden_size))
    questions = ("where?", "and behind it?")
    plain = ground(tiny_lvlm, context, questions[0], prompts, config, layers=(2, 3))
    contrasted = ground(
        tiny_lvlm, context, questions[0], prompts, config, layers=(2, 3), background=questions[1]
    )
    asked = roll_out(tiny_lvlm, context, questions[0], prompts, config, layers=(2, 3))
    behind = roll_out(tiny_lvlm, context, questions[1], None, config, layers=(2, 3))
    assert asked.video is not None
    assert asked.frame is not None
    assert behind.video is not None
    assert behind.frame is not None
    videos = [smooth(one / one.sum(), 3) for one in (asked.video, behind.video)]
    frames = [smooth(one / one.sum(dim=(1, 2), keepdim=True), 7) for one in (asked.frame, behind.frame)]
    video = min_max((videos[0] - videos[1]).clamp(min=0), per_frame=False)
    frame = min_max((frames[0] - frames[1]).clamp(min=0), per_frame=True)
    assert contrasted.video is not None
    assert contrasted.frame is not None
    assert torch.allclose(contrasted.video, video, atol=1e-5)
    assert torch.allclose(contrasted.frame, frame, atol=1e-5)
    assert torch.allclose(contrasted.fused, fuse(frame, video, 5, 2), atol=1e-5)
    assert not torch.equal(contrasted.fused, plain.fused)


def test_a_map_without_its_own_sinks_is_empty(tiny_lvlm: LVLM, context: VisionContext) -> None:
    """What no question moves is taken away whole."""
    maps = ground(tiny_lvlm, context, "where?", None, PipelineConfig(), layers=(2, 3), background="where?")
    assert maps.fused.abs().sum() == 0
