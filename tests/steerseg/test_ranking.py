from __future__ import annotations

import numpy as np
import pytest
import torch

from steerseg.grounding import GroundingMaps
from steerseg.ranking import on_video_grid, pearson, rank_scores


def test_pearson_equals_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 40, generator=generator), torch.rand(40, generator=generator)
    expected = [np.corrcoef(row, b)[0, 1] for row in a.numpy()]
    np.testing.assert_allclose(pearson(a, b).numpy(), expected, atol=1e-6)


def test_a_constant_map_or_mask_scores_zero() -> None:
    assert pearson(torch.ones(1, 9), torch.rand(9)).item() == 0
    assert pearson(torch.rand(1, 9), torch.ones(9)).item() == 0


def test_a_video_cell_takes_the_larger_of_its_two_frames_and_an_odd_end_is_filled() -> None:
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 1, :2, :2] = 1
    masks[0, 2] = 1
    grid = on_video_grid(masks, (2, 2), temporal_merge=2)
    assert grid.shape == (1, 2, 2, 2)
    assert grid[0, 0].tolist() == [[1, 0], [0, 0]]
    assert grid[0, 1].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_tracklet_under_the_maps_ranks_first(weight: float) -> None:
    masks = torch.zeros(2, 4, 8, 8)
    masks[0, :, :4, :4] = 1
    masks[1, :, 4:, 4:] = 1
    frame = torch.zeros(4, 4, 4)
    frame[:, 2:, 2:] = 1
    video = torch.zeros(2, 2, 2)
    video[:, 1, 1] = 1
    maps = GroundingMaps((0, 1, 2, 3), frame, video, frame)
    scores = rank_scores(masks, maps, frame_weight=weight, temporal_merge=2)
    assert scores[1] == pytest.approx(1.0, abs=1e-5)
    assert scores[0] < 0
