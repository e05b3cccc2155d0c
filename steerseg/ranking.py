"""Tracklets -> scores: the Pearson correlation of their masks with the grounding maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps
from steerseg.presence.localisation import Positions, agreement
from steerseg.verification import Opinion


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate with its rank score.

    Attributes:
        index: Of the candidate, in :class:`steerseg.tracking.sources.Candidates`.
        score: In [-1, 1]: the correlation, or its weighted mean with the agreement with stated positions and motion.
        correlation: With the maps, in [-1, 1]; see :func:`rank_scores`. Where a motion is stated, that with the maps of
            the expression without it counts if it is more.
        opinion: What the LVLM thinks of it; ``None`` where it was not asked, or said nothing.
    """

    index: int
    score: float
    correlation: float
    opinion: Opinion | None = None


def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of each row of ``a`` (N, M) with ``b`` (M,): (N,) in [-1, 1]; 0 where a variance is 0."""
    a = a.double() - a.double().mean(dim=1, keepdim=True)
    b = b.double() - b.double().mean()
    spread = a.norm(dim=1) * b.norm()
    return torch.where(spread > 1e-12, (a @ b) / spread.clamp_min(1e-12), torch.zeros_like(spread)).float()


def on_frame_grid(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Masks (..., H, W) in [0, 1] area-averaged on the token grid: (..., h, w)."""
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).float()
    return F.adaptive_avg_pool2d(flat, grid).view(*masks.shape[:-2], *grid)


def on_video_grid(masks: torch.Tensor, grid: tuple[int, int], temporal_merge: int) -> torch.Tensor:
    """Masks (N, K, H, W) on the video pass's grid: (N, ceil(K / merge), h, w); a slice takes its frames' larger."""
    cells = on_frame_grid(masks, grid)
    missing = -cells.shape[1] % temporal_merge
    if missing:
        cells = torch.cat([cells, cells[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    return cells.reshape(len(cells), -1, temporal_merge, *grid).amax(dim=2)


def rank_scores(
    masks: torch.Tensor, maps: GroundingMaps, *, frame_weight: float, temporal_merge: int
) -> torch.Tensor:
    """Score tracklets against both maps, over all keyframes together.

    Args:
        masks: (N, K, H, W) masks of N tracklets on the keyframes, bool or in [0, 1].
        maps: The grounding maps.
        frame_weight: Weight w_f of the frame map; the video map has the rest. With one map only, it has all.
        temporal_merge: Frames of a video slice.

    Returns:
        (N,) float32 in [-1, 1].
    """
    parts: list[tuple[float, torch.Tensor]] = []
    if maps.frame is not None:
        cells = on_frame_grid(masks, (maps.frame.shape[1], maps.frame.shape[2]))
        parts.append((frame_weight, pearson(cells.flatten(1), maps.frame.flatten())))
    if maps.video is not None:
        cells = on_video_grid(masks, (maps.video.shape[1], maps.video.shape[2]), temporal_merge)
        parts.append((1.0 - frame_weight, pearson(cells.flatten(1), maps.video.flatten())))
    if len(parts) == 1:
        return parts[0][1]
    return torch.stack([weight * score for weight, score in parts]).sum(dim=0)


def rank_candidates(
    masks: torch.Tensor,
    maps: GroundingMaps,
    config: PipelineConfig,
    positions: Positions | None,
    temporal_merge: int,
    motion: torch.Tensor | None = None,
) -> tuple[RankedCandidate, ...]:
    """The best candidates, best first, at most ``config.alternatives``.

    Args:
        masks: (N, K, H, W) masks of N candidates on the keyframes, in [0, 1].
        maps: The grounding maps.
        config: Weights of maps, positions and motion.
        positions: Where the LVLM says that the object is; ``None`` leaves them out.
        temporal_merge: Frames of a video slice.
        motion: (N,) how far each candidate moves as the expression says, in [0, 1]; ``None`` leaves it out.
    """
    if not len(masks):
        return ()
    correlations = rank_scores(masks, maps, frame_weight=config.frame_weight, temporal_merge=temporal_merge)
    scores = correlations
    if positions is not None:
        places = agreement(masks, positions, temporal_merge)
        scores = torch.lerp(scores, places, config.localisation_weight)
    if motion is not None:
        scores = torch.lerp(scores, motion.to(scores), config.motion_weight)
    order = scores.argsort(descending=True).tolist()[: config.alternatives]
    return tuple(RankedCandidate(i, float(scores[i]), float(correlations[i])) for i in order)
