"""Grounding maps -> point prompts for SAM 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps


@dataclass(frozen=True)
class PointPrompt:
    """A positive click derived from a grounding map.

    Attributes:
        frame: Index of the keyframe in the video (decode order, 0-based).
        x: Horizontal position in the frame in [0, 1], from the left.
        y: Vertical position in the frame in [0, 1], from the top.
        value: Fused map value in [0, 1] at that position.
    """

    frame: int
    x: float
    y: float
    value: float


def local_maxima(grid: torch.Tensor) -> torch.Tensor:
    """Mark the cells of ``grid`` (K, h, w) that no neighbour among the eight exceeds; a plateau keeps one.

    Returns:
        (K, h, w) bool.
    """
    _, height, width = grid.shape
    # Ties are broken by position, so that a flat top gives one point and not one a cell.
    order = torch.arange(height * width, 0, -1, dtype=torch.float64, device=grid.device)
    tie = order.view(1, height, width) * 1e-12
    ranked = grid.double() + tie
    neighbourhood = F.max_pool2d(ranked[:, None], kernel_size=3, stride=1, padding=1)[:, 0]
    return ranked == neighbourhood


def point_prompts(
    maps: GroundingMaps, config: PipelineConfig, *, peaks: torch.Tensor | None = None
) -> list[PointPrompt]:
    """Take the local maxima of the fused map that reach ``config.point_threshold``.

    DecAF makes every cell above the threshold an object of its own; local maxima give the same objects with
    fewer calls (our choice). The clip's highest cell always qualifies, since the fused map is min-max
    normalised over the clip.

    Args:
        maps: The grounding maps.
        config: Threshold and most points.
        peaks: (K, h, w) bool cells that may be points; the local maxima of the fused map where left out.

    Returns:
        Points ordered by keyframe, then by falling value; at most ``config.max_points`` a keyframe.
    """
    fused = maps.fused
    peaks = (local_maxima(fused) if peaks is None else peaks) & (fused >= config.point_threshold)
    _, height, width = fused.shape
    points: list[PointPrompt] = []
    for k, frame in enumerate(maps.keyframes):
        rows, columns = torch.nonzero(peaks[k], as_tuple=True)
        values = fused[k, rows, columns]
        for i in values.argsort(descending=True)[: config.max_points].tolist():
            points.append(
                PointPrompt(
                    frame=frame,
                    x=(columns[i].item() + 0.5) / width,
                    y=(rows[i].item() + 0.5) / height,
                    value=values[i].item(),
                )
            )
    return points
