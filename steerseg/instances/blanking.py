"""Grounding maps without the objects that were found already, and the point prompts that are left on them."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps, fuse, min_max
from steerseg.points import PointPrompt, local_maxima, point_prompts
from steerseg.ranking import on_frame_grid, on_video_grid

COVERED = 0.25
"""Least share of a cell that objects cover where it is blanked out (our choice)."""

POINTS = 3
"""Most further point prompts of a keyframe (our choice)."""


def blank_out(maps: GroundingMaps, masks: torch.Tensor, temporal_merge: int) -> GroundingMaps:
    """The maps with the floor of each in the cells that objects cover, normalised again.

    In the frame map the neighbours of covered cells are blanked, too: the blur has spread the object to them.

    Args:
        maps: The grounding maps.
        masks: (N, K, h, w) masks of N objects on the keyframes, in [0, 1].
        temporal_merge: Frames of a video slice.
    """
    together = (masks > 0.5).float().amax(dim=0, keepdim=True)
    frame, video = maps.frame, maps.video
    if frame is not None:
        covered = _spread(on_frame_grid(together, (frame.shape[1], frame.shape[2]))[0] >= COVERED)
        frame = min_max(_floored(frame, covered, per_frame=True), per_frame=True)
    if video is not None:
        cells = on_video_grid(together, (video.shape[1], video.shape[2]), temporal_merge)[0]
        video = min_max(_floored(video, cells >= COVERED, per_frame=False), per_frame=False)
    fused = fuse(frame, video, len(maps.keyframes), temporal_merge)
    behind = _spread(on_frame_grid(together, (fused.shape[1], fused.shape[2]))[0] >= COVERED)
    return replace(maps, frame=frame, video=video, fused=fused.masked_fill(behind, 0.0))


def further_points(maps: GroundingMaps, blanked: GroundingMaps, config: PipelineConfig) -> list[PointPrompt]:
    """Point prompts of blanked maps, where the first maps had a peak: the slope of what was blanked out is none.

    Args:
        maps: The first maps.
        blanked: The same without what was found.
        config: Threshold of points.
    """
    peaks = local_maxima(maps.fused) & (blanked.fused > 0)
    most = min(POINTS, config.max_points)
    return point_prompts(blanked, replace(config, max_points=most), peaks=peaks)


def _floored(maps: torch.Tensor, covered: torch.Tensor, *, per_frame: bool) -> torch.Tensor:
    """Maps (N, h, w) with their least value in covered cells."""
    least = maps.amin(dim=(-2, -1) if per_frame else (-3, -2, -1), keepdim=True)
    return torch.where(covered, least, maps)


def _spread(cells: torch.Tensor) -> torch.Tensor:
    """Cells (K, h, w) and all their neighbours."""
    return F.max_pool2d(cells.float()[:, None], kernel_size=3, stride=1, padding=1)[:, 0] > 0
