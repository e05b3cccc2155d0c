from __future__ import annotations

import torch

from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps
from steerseg.points import local_maxima, point_prompts


def maps_of(fused: torch.Tensor) -> GroundingMaps:
    keyframes = tuple(10 * k for k in range(fused.shape[0]))
    return GroundingMaps(keyframes=keyframes, frame=None, video=None, fused=fused)


def test_each_peak_gives_one_point_at_its_cells_centre() -> None:
    fused = torch.zeros(2, 4, 8)
    fused[0, 1, 2], fused[0, 1, 3], fused[0, 3, 7], fused[1, 0, 0] = 1.0, 0.95, 0.9, 0.85
    points = point_prompts(maps_of(fused), PipelineConfig())
    assert [(p.frame, round(p.x, 4), round(p.y, 4)) for p in points] == [
        (0, 2.5 / 8, 1.5 / 4),
        (0, 7.5 / 8, 3.5 / 4),
        (10, 0.5 / 8, 0.5 / 4),
    ]


def test_values_below_the_threshold_give_nothing() -> None:
    fused = torch.zeros(1, 4, 4)
    fused[0, 2, 2] = 0.79
    assert point_prompts(maps_of(fused), PipelineConfig()) == []


def test_a_flat_top_gives_one_point() -> None:
    fused = torch.zeros(1, 5, 5)
    fused[0, 1:3, 1:3] = 1.0
    assert local_maxima(fused).logical_and(fused > 0).sum() == 1


def test_a_keyframe_gives_at_most_the_configured_number() -> None:
    fused = torch.zeros(1, 8, 8)
    fused[0, ::2, ::2] = torch.linspace(0.8, 1.0, 16).view(4, 4)
    points = point_prompts(maps_of(fused), PipelineConfig(max_points=3))
    assert len(points) == 3
    assert points[0].value == 1.0
