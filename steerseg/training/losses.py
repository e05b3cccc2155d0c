"""The losses of grounding maps: accuracy against the masks, and rank against wrong answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from steerseg.ranking import pearson


def map_loss(maps: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
    """BCE + Dice of normalised maps (N, ...) in [0, 1] against targets of the same shape: (N,).

    The map is clamped to [1e-4, 1 - 1e-4], since min-max puts cells at exactly 0 and 1. ``shares``, of the same
    shape, weighs the cells.
    """
    maps, targets = maps.flatten(1).float().clamp(1e-4, 1 - 1e-4), targets.flatten(1)
    cells = torch.ones_like(maps) if shares is None else shares.flatten(1)
    entropy = F.binary_cross_entropy(maps, targets, reduction="none")
    entropy = (entropy * cells).sum(dim=1) / cells.sum(dim=1).clamp_min(1e-6)
    overlap = (maps * targets * cells).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / ((maps * cells).sum(dim=1) + (targets * cells).sum(dim=1) + 1)
    return entropy + dice


def ranking_loss(
    maps: torch.Tensor, target: torch.Tensor, rejected: torch.Tensor, *, margin: float
) -> torch.Tensor:
    """Distance of wrong answers from ranking below the right one: a scalar, 0 where they do.

    Tracklets are ranked by the correlation of their masks with the maps, so that is what is compared. Without a
    right answer, wrong ones should not correlate at all (our choice; the method itself has no such term).

    Args:
        maps: (...) one normalised map.
        target: (...) the right mask on its grid, empty where none is known.
        rejected: (M, ...) the wrong masks.
        margin: Wanted distance between the correlations.
    """
    wrong = pearson(rejected.flatten(1), maps.flatten())
    if target.amax() > 0:
        right = pearson(target.flatten()[None], maps.flatten())
        return F.relu(margin + wrong - right).mean()
    return F.relu(wrong).mean()
