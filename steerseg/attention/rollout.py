"""Attention rollout from one token, streamed: no S x S matrix of a whole layer ever exists at full width.

Rollout multiplies the layers' attention, mixed with the identity for the residual stream:
Â = ½ Ā + ½ I and R = Â^top ... Â^bottom. Only the row of the response token is needed, so it is enough to carry
one row vector from the top layer down: r <- ½ r Ā + ½ r. Ā is recomputed from q and k in chunks of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from steerseg.config import Heads
from steerseg.lvlm.base import Taken


def mean_heads(attention: torch.Tensor, visual: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Average the heads of one layer.

    Args:
        attention: (B, H, S, S), rows sum to 1.
        visual: (B, S) bool, the visual tokens.
        heads: ``"mean"``, or ``"visual_max"``: heads weighted by the mean over rows of the row's largest attention
            to a visual token, divided by the largest weight (DecAF).

    Returns:
        (B, S, S).
    """
    if heads == "mean":
        return attention.mean(dim=1)
    peak = attention.masked_fill(~visual[:, None, None, :], 0).amax(dim=-1)  # (B, H, S)
    weight = peak.mean(dim=-1)
    weight = weight / weight.amax(dim=-1, keepdim=True)
    return (attention * weight[:, :, None, None]).mean(dim=1)


def reference_rollout(
    attentions: Sequence[torch.Tensor], visual: torch.Tensor, response: int, heads: Heads
) -> torch.Tensor:
    """The full product of all layers, as the formula says. For tests and small inputs.

    Args:
        attentions: (B, H, S, S) a layer, bottom first.
        visual: (B, S) bool.
        response: Row of the response token.
        heads: How heads are averaged.

    Returns:
        (B, S): how much the response token takes from each token.
    """
    size = attentions[0].shape[-1]
    identity = torch.eye(size, dtype=attentions[0].dtype, device=attentions[0].device)
    product = identity.expand(attentions[0].shape[0], size, size)
    for attention in attentions:
        product = (0.5 * mean_heads(attention, visual, heads) + 0.5 * identity) @ product
    return product[:, response]


def _chunk(
    weights: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    start: int,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One chunk of rows: what each head adds to the row vector, and the sum of its rows' visual peaks."""
    rows = query.shape[2]
    groups = query.shape[1] // key.shape[1]
    end = start + rows
    key = key[:, :, :end].repeat_interleave(groups, dim=1)  # later keys are hidden from these rows
    logits = (query @ key.transpose(-1, -2)).float() * scaling  # (B, H, rows, end)
    places = torch.arange(end, device=query.device)
    hidden = places[None, :] > torch.arange(start, end, device=query.device)[:, None]
    # A padding row sees itself, so that its softmax is defined; its weight in the row vector is zero.
    own = places[None, :] == torch.arange(start, end, device=query.device)[:, None]
    blocked = (hidden | ~live[:, None, None, :end]) & ~own
    attention = logits.masked_fill(blocked, float("-inf")).softmax(dim=-1)
    added = torch.einsum("bi,bhij->bhj", weights[:, start:end], attention)
    peaks = attention.masked_fill(~visual[:, None, None, :end], 0).amax(dim=-1)
    peaks = (peaks * live[:, None, start:end]).sum(dim=-1)
    return added, peaks


def streaming_rollout(taken: Taken, layers: Sequence[int], *, heads: Heads, chunk: int = 256) -> torch.Tensor:
    """Roll attention out from the response token.

    Equal to :func:`reference_rollout` over the same layers. Differentiable in the queries and keys; chunks are
    recomputed in the backward pass.

    Args:
        taken: Queries and keys of one forward pass.
        layers: The layers of the product.
        heads: How heads are averaged.
        chunk: Rows at a time.

    Returns:
        (B, S) float32: how much the response token takes from each token.
    """
    visual, live = taken.visual, taken.live
    row = torch.zeros(visual.shape, device=visual.device)
    row[:, taken.response] = 1.0
    for layer in sorted(layers, reverse=True):
        query, key, scaling = taken.tap.queries[layer], taken.tap.keys[layer], taken.tap.scaling[layer]
        added = row.new_zeros(row.shape[0], query.shape[1], row.shape[1])
        peaks = row.new_zeros(row.shape[0], query.shape[1])
        for start in range(0, row.shape[1], chunk):
            part = query[:, :, start : start + chunk]
            arguments = (row, part, key, visual, live, start, scaling)
            if torch.is_grad_enabled() and part.requires_grad:
                more, peak = checkpoint(_chunk, *arguments, use_reentrant=False)
            else:
                more, peak = _chunk(*arguments)
            added = added + torch.nn.functional.pad(more, (0, row.shape[1] - more.shape[-1]))
            peaks = peaks + peak
        if heads == "visual_max":
            weight = peaks / live.sum(dim=-1, keepdim=True)
            weight = weight / weight.amax(dim=-1, keepdim=True)
            added = added * weight[:, :, None]
        row = 0.5 * added.mean(dim=1) + 0.5 * row
    return row


def visual_map(rollout: torch.Tensor, cells: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Lay the visual tokens of a rollout (B, S) on their grid, by their places (B, t * h * w): (B, t, h, w)."""
    return rollout.gather(1, cells).view(rollout.shape[0], *grid)
