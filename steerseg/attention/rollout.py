"""Attention rollout from one token, streamed: no S x S matrix of a whole layer ever exists at full width.

Rollout, as in SteerSeg, multiplies the layers' attention, mixed with the identity for the residual stream:
Â = ½ Ā + ½ I and R = Â^top ... Â^bottom. Only the row of the response token is needed, so it is enough to carry
one row vector from the top layer down: r <- ½ r Ā + ½ r (our choice; the result is the same). Ā is recomputed from q
and k: in tiles by kernels on a GPU, in chunks of rows elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from steerseg.config import Heads
from steerseg.lvlm.tap import RolloutInputs
from steerseg.runtime.kernel_trial import is_recorded, largest_share, passes

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference as a share of the largest value; gradients are rounded to the precision of their tensors."""


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
    """Multiply all layers, as the formula says. For tests and small inputs.

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
    # Later keys are hidden from these rows. In half precision the product itself would be rounded, hence the cast.
    key = key[:, :, :end].float().repeat_interleave(groups, dim=1)
    logits = query.float() @ key.transpose(-1, -2) * scaling  # (B, H, rows, end)
    positions = torch.arange(end, device=query.device)
    hidden = positions[None, :] > torch.arange(start, end, device=query.device)[:, None]
    # A padding row sees itself, so that its softmax is defined; its weight in the row vector is zero.
    own = positions[None, :] == torch.arange(start, end, device=query.device)[:, None]
    blocked = (hidden | ~live[:, None, None, :end]) & ~own
    attention = logits.masked_fill(blocked, float("-inf")).softmax(dim=-1)
    added = torch.einsum("bi,bhij->bhj", weights[:, start:end], attention)
    peaks = attention.masked_fill(~visual[:, None, None, :end], 0).amax(dim=-1)
    peaks = (peaks * live[:, None, start:end]).sum(dim=-1)
    return added, peaks


def roll_layer_in_chunks(
    row: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    scaling: float,
    *,
    chunk: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Roll one layer in chunks of rows, on any device.

    Args and results are those of :func:`steerseg.attention.kernels.roll_layer`; ``chunk`` rows are rolled at a time.
    """
    added = row.new_zeros(row.shape[0], query.shape[1], row.shape[1])
    peaks = row.new_zeros(row.shape[0], query.shape[1])
    for start in range(0, row.shape[1], chunk):
        part = query[:, :, start : start + chunk]
        arguments = (row, part, key, visual, live, start, scaling)
        if is_recorded(part):
            more, peak = checkpoint(_chunk, *arguments, use_reentrant=False)
        else:
            more, peak = _chunk(*arguments)
        added = added + torch.nn.functional.pad(more, (0, row.shape[1] - more.shape[-1]))
        peaks = peaks + peak
    return added, peaks


def streaming_rollout(
    inputs: RolloutInputs,
    layers: Sequence[int],
    *,
    heads: Heads,
    chunk: int = 256,
    kernels: bool | None = None,
) -> torch.Tensor:
    """Roll attention out from the response token.

    Equal to :func:`reference_rollout` over the same layers. Differentiable in the queries and keys, whose products
    are computed again in the backward pass.

    Args:
        inputs: Queries and keys of one forward pass.
        layers: The layers of the product.
        heads: How heads are averaged.
        chunk: Rows at a time, where no kernels are used.
        kernels: Whether Triton kernels do it; where left out, they do on a GPU on which they were seen to be right.

    Returns:
        (B, S) float32: how much the response token takes from each token.
    """
    visual, live = inputs.visual, inputs.live
    row = torch.zeros(visual.shape, device=visual.device)
    row[:, inputs.response] = 1.0
    for layer in sorted(layers, reverse=True):
        query, key, scaling = inputs.tap.queries[layer], inputs.tap.keys[layer], inputs.tap.scaling[layer]
        weighted = heads == "visual_max"
        if kernels_work(query) if kernels is None else kernels:
            from steerseg.attention.kernels import roll_layer, roll_on  # Triton is not there everywhere

            arguments = (row, query, key, visual, live, scaling)
            if is_recorded(row, query, key):
                row = _next_row(row, *roll_layer(*arguments, padded=inputs.padded), weighted=weighted)
            else:
                row = roll_on(*arguments, padded=inputs.padded, weighted=weighted)
        else:
            added, peaks = roll_layer_in_chunks(row, query, key, visual, live, scaling, chunk=chunk)
            row = _next_row(row, added, peaks, weighted=weighted)
    return row


def _next_row(row: torch.Tensor, added: torch.Tensor, peaks: torch.Tensor, *, weighted: bool) -> torch.Tensor:
    """The row vector (B, S) for the layer below: half of the one from above, half of the mean over heads."""
    if weighted:
        weight = peaks / peaks.amax(dim=-1, keepdim=True)  # sums over as many rows stand for their means
        added = added * weight[:, :, None]
    return torch.lerp(row, added.mean(dim=1), 0.5)


def kernels_work(query: torch.Tensor) -> bool:
    """Whether Triton kernels are used for queries (B, H, S, d): on a GPU, and only if they are right there.

    They are tried once a process for each device, precision and number of channels, on small random numbers.
    """
    if query.device.type != "cuda" or query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    return _kernels_are_right(query.device, query.dtype, query.shape[-1])


@functools.cache
def _kernels_are_right(device: torch.device, dtype: torch.dtype, depth: int) -> bool:
    return passes(
        lambda: kernel_difference(device, dtype, depth),
        _TOLERANCE[dtype],
        f"no rollout kernels on {device}, chunks of rows do it more slowly",
    )


def kernel_difference(device: torch.device, dtype: torch.dtype, depth: int, *, size: int = 200) -> float:
    """Compare the kernels with chunks of rows on small random numbers, with padding and without.

    Args:
        device: A GPU.
        dtype: Of queries and keys.
        depth: Channels of a head.
        size: Tokens of a chat.

    Returns:
        The largest difference of output and gradients, as a share of the largest value of each.
    """
    from steerseg.attention.kernels import roll_layer, roll_on

    generator = torch.Generator().manual_seed(0)
    visual = torch.zeros(2, size, dtype=torch.bool, device=device)
    visual[:, size // 8 : size * 3 // 4] = True  # tiles with visual tokens, without, and both
    whole = torch.ones_like(visual)
    padded = whole.clone()
    padded[1, :17] = False
    row = torch.rand(2, size, generator=generator).to(device)
    query, key = (torch.randn(2, n, size, depth, generator=generator).to(device, dtype) for n in (4, 2))
    weights = torch.rand(2, 4, size, generator=generator).to(device)

    def on_in_chunks(*inputs: Any, weighted: bool) -> torch.Tensor:
        return _next_row(inputs[0], *roll_layer_in_chunks(*inputs), weighted=weighted)

    def results(layer: Callable[..., Any], on: Callable[..., Any], live: torch.Tensor) -> list[torch.Tensor]:
        inputs = [part.detach().clone().requires_grad_() for part in (row * live, query, key)]
        with torch.enable_grad():
            added, peaks = layer(*inputs, visual, live, depth**-0.5)
            loss = (added * weights).sum() + (peaks * peaks).sum()
        with torch.no_grad():
            rows = [on(*inputs, visual, live, depth**-0.5, weighted=weighted) for weighted in (False, True)]
        return [added.detach(), peaks.detach(), *rows, *torch.autograd.grad(loss, inputs)]

    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for live in (padded, whole):
        layer, on = (functools.partial(kernel, padded=live is padded) for kernel in (roll_layer, roll_on))
        expected = results(roll_layer_in_chunks, on_in_chunks, live)
        pairs += zip(results(layer, on, live), expected, strict=True)
    return largest_share(pairs)


def visual_map(
    rollout: torch.Tensor, token_indices: torch.Tensor, grid: tuple[int, int, int]
) -> torch.Tensor:
    """Lay the visual tokens of a rollout on their grid.

    Args:
        rollout: (B, S) how much the response token takes from each token.
        token_indices: (B, t * h * w) index of each visual token of the grid.
        grid: (t, h, w).

    Returns:
        (B, t, h, w).
    """
    return rollout.gather(1, token_indices).view(rollout.shape[0], *grid)
