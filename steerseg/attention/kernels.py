"""One layer of the streaming rollout on a GPU, in Triton: forwards and backwards without an S x S matrix.

With P the attention of one head, r the row vector that comes from above and V the visual tokens, a layer gives::

    added_j = sum_i r_i P_ij            what the head adds to the row vector
    share_i = max_{j in V} P_ij         how far row i looks at one visual token

Both need P only tile by tile. A first pass over the tiles finds each row's log-sum-exp and its largest visual logit,
a second one sums the columns. Backwards, with g = dL/d(added), u_i = sum_j P_ij g_j and c_i = dL/d(peak) share_i::

    dL/dr_i = u_i
    dL/d(logit_ij) = P_ij (r_i (g_j - u_i) - c_i) + c_i [j is row i's largest visual token]

Products are summed in float32, whatever the precision of q and k. Nothing is summed by atomics, so results repeat.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["roll_layer"]

_MASKED = tl.constexpr(float("-inf"))

_LENGTHS = ("size",)
"""Chats have any length: a kernel is not compiled anew for those that are a multiple of 16."""


@triton.jit
def _tile(q, k, rows, cols, live, size, scaling):  # type: ignore[no-untyped-def]
    """Logits (rows, cols) of one tile; what a row does not see is -inf. A padding row sees itself only."""
    logits = tl.dot(q, k, input_precision="ieee") * scaling
    own = cols[None, :] == rows[:, None]
    seen = (cols[None, :] <= rows[:, None]) & ((live[None, :] != 0) | own) & (rows[:, None] < size)
    return tl.where(seen, logits, _MASKED)


@triton.jit
def _block(base, places, dims, stride, size, depth):  # type: ignore[no-untyped-def]
    """Vectors (places, dims) of one head; 0 beyond its ends."""
    inside = (places[:, None] < size) & (dims[None, :] < depth)
    return tl.load(base + places[:, None] * stride + dims[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=_LENGTHS)
def _row_statistics(  # type: ignore[no-untyped-def]
    q_at,
    k_at,
    visual_at,
    live_at,
    lse_at,
    share_at,
    peak_at,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    size,
    heads,
    groups,
    depth,
    scaling,
    PLACES: tl.constexpr,  # noqa: N803 (the language's custom for constants)
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per row: log-sum-exp, its largest visual share (0 on padding), and, if wanted, on which token that is."""
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    q = _block(q_at + batch * q_batch + head * q_head, rows, dims, q_row, size, depth)
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    where = tl.zeros([ROWS], tl.int32)
    end = tl.minimum((tl.program_id(0) + 1) * ROWS, size)
    for start in range(0, end, COLS):
        cols = start + tl.arange(0, COLS)
        k = tl.trans(_block(k_base, cols, dims, k_row, size, depth))
        live = tl.load(live_at + batch * size + cols, mask=cols < size, other=0)
        visual = tl.load(visual_at + batch * size + cols, mask=cols < size, other=0)
        logits = _tile(q, k, rows, cols, live, size, scaling)
        shown = tl.where(visual[None, :] != 0, logits, _MASKED)
        largest = tl.max(shown, axis=1)
        if PLACES:
            place = (start + tl.argmax(shown, axis=1)).to(tl.int32)
            where = tl.where(largest > best, place, where)
        best = tl.maximum(best, largest)
        higher = tl.maximum(top, tl.max(logits, axis=1))
        shift = tl.where(higher == _MASKED, 0.0, higher)  # a tile may hold nothing that a row sees
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), axis=1)
        top = higher
    inside = rows < size
    lse = tl.where(inside, top + tl.log(total), 0.0)
    alive = tl.load(live_at + batch * size + rows, mask=inside, other=0)
    share = tl.where((alive != 0) & inside, tl.exp(best - lse), 0.0)
    out = both * size + rows
    tl.store(lse_at + out, lse, mask=inside)
    tl.store(share_at + out, share, mask=inside)
    if PLACES:
        tl.store(peak_at + out, where, mask=inside)


@triton.jit(do_not_specialize=_LENGTHS)
def _sum_columns(  # type: ignore[no-untyped-def]
    q_at,
    k_at,
    live_at,
    lse_at,
    row_at,
    added_at,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    size,
    heads,
    groups,
    depth,
    scaling,
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per column: sum over rows of the row vector times the attention."""
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    dims = tl.arange(0, DIMS)
    k = tl.trans(_block(k_at + batch * k_batch + (head // groups) * k_head, cols, dims, k_row, size, depth))
    q_base = q_at + batch * q_batch + head * q_head
    live = tl.load(live_at + batch * size + cols, mask=cols < size, other=0)
    weighted = tl.zeros([ROWS, COLS], tl.float32)  # summed over rows once: warps share the rows of a tile
    for start in range((tl.program_id(0) * COLS) // ROWS * ROWS, size, ROWS):
        rows = start + tl.arange(0, ROWS)
        q = _block(q_base, rows, dims, q_row, size, depth)
        lse = tl.load(lse_at + both * size + rows, mask=rows < size, other=0.0)
        weight = tl.load(row_at + batch * size + rows, mask=rows < size, other=0.0)
        attention = tl.exp(_tile(q, k, rows, cols, live, size, scaling) - lse[:, None])
        weighted += attention * weight[:, None]
    tl.store(added_at + both * size + cols, tl.sum(weighted, axis=0), mask=cols < size)


@triton.jit(do_not_specialize=_LENGTHS)
def _row_gradients(  # type: ignore[no-untyped-def]
    q_at,
    k_at,
    live_at,
    lse_at,
    row_at,
    peak_at,
    pull_at,
    given_at,
    mean_at,
    dq_at,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    size,
    heads,
    groups,
    depth,
    scaling,
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per row: u, the attention's mean of the given gradient, and the gradient of q."""
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = rows < size
    q = _block(q_at + batch * q_batch + head * q_head, rows, dims, q_row, size, depth)
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    lse = tl.load(lse_at + both * size + rows, mask=inside, other=0.0)
    pull = tl.load(pull_at + both * size + rows, mask=inside, other=0.0)
    peak = tl.load(peak_at + both * size + rows, mask=inside, other=-1)
    weight = tl.load(row_at + batch * size + rows, mask=inside, other=0.0)
    end = tl.minimum((tl.program_id(0) + 1) * ROWS, size)
    mean = tl.zeros([ROWS], tl.float32)
    for start in range(0, end, COLS):
        cols = start + tl.arange(0, COLS)
        k = _block(k_base, cols, dims, k_row, size, depth)
        live = tl.load(live_at + batch * size + cols, mask=cols < size, other=0)
        given = tl.load(given_at + both * size + cols, mask=cols < size, other=0.0)
        attention = tl.exp(_tile(q, tl.trans(k), rows, cols, live, size, scaling) - lse[:, None])
        mean += tl.sum(attention * given[None, :], axis=1)
    dq = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(0, end, COLS):
        cols = start + tl.arange(0, COLS)
        k = _block(k_base, cols, dims, k_row, size, depth)
        live = tl.load(live_at + batch * size + cols, mask=cols < size, other=0)
        given = tl.load(given_at + both * size + cols, mask=cols < size, other=0.0)
        attention = tl.exp(_tile(q, tl.trans(k), rows, cols, live, size, scaling) - lse[:, None])
        slope = attention * (weight[:, None] * (given[None, :] - mean[:, None]) - pull[:, None])
        slope += tl.where(cols[None, :] == peak[:, None], pull[:, None], 0.0)
        dq += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    tl.store(mean_at + both * size + rows, mean, mask=inside)
    out = dq_at + (both * size + rows[:, None]) * depth + dims[None, :]
    tl.store(out, dq * scaling, mask=inside[:, None] & (dims[None, :] < depth))


@triton.jit(do_not_specialize=_LENGTHS)
def _column_gradients(  # type: ignore[no-untyped-def]
    q_at,
    k_at,
    live_at,
    lse_at,
    row_at,
    peak_at,
    pull_at,
    given_at,
    mean_at,
    dk_at,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    size,
    heads,
    groups,
    depth,
    scaling,
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per column: the gradient of k, summed over the heads that share it."""
    both = tl.program_id(1).to(tl.int64)
    shared = heads // groups
    batch, key_head = both // shared, both % shared
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    dims = tl.arange(0, DIMS)
    k = tl.trans(_block(k_at + batch * k_batch + key_head * k_head, cols, dims, k_row, size, depth))
    live = tl.load(live_at + batch * size + cols, mask=cols < size, other=0)
    dk = tl.zeros([COLS, DIMS], tl.float32)
    first = (tl.program_id(0) * COLS) // ROWS * ROWS
    for group in range(0, groups):
        head = key_head * groups + group
        line = (batch * heads + head) * size
        q_base = q_at + batch * q_batch + head * q_head
        given = tl.load(given_at + line + cols, mask=cols < size, other=0.0)
        for start in range(first, size, ROWS):
            rows = start + tl.arange(0, ROWS)
            inside = rows < size
            q = _block(q_base, rows, dims, q_row, size, depth)
            lse = tl.load(lse_at + line + rows, mask=inside, other=0.0)
            pull = tl.load(pull_at + line + rows, mask=inside, other=0.0)
            peak = tl.load(peak_at + line + rows, mask=inside, other=-1)
            mean = tl.load(mean_at + line + rows, mask=inside, other=0.0)
            weight = tl.load(row_at + batch * size + rows, mask=inside, other=0.0)
            attention = tl.exp(_tile(q, k, rows, cols, live, size, scaling) - lse[:, None])
            slope = attention * (weight[:, None] * (given[None, :] - mean[:, None]) - pull[:, None])
            slope += tl.where(cols[None, :] == peak[:, None], pull[:, None], 0.0)
            dk += tl.dot(tl.trans(slope).to(q.dtype), q, input_precision="ieee")
    out = dk_at + (both * size + cols[:, None]) * depth + dims[None, :]
    tl.store(out, dk * scaling, mask=(cols[:, None] < size) & (dims[None, :] < depth))


def _shapes(query: torch.Tensor, key: torch.Tensor) -> tuple[Any, ...]:
    """Strides and sizes as every kernel takes them."""
    _, heads, size, depth = query.shape
    return (*query.stride()[:3], *key.stride()[:3], size, heads, heads // key.shape[1], depth)


# (rows, columns, warps, stages) of each kernel's tiles for 16-bit numbers and heads of up to 128 channels: the fastest
# of a dozen on an H100, at 3 000 tokens of one chat and 1 560 of three.
_FASTEST = {
    "row_statistics": (64, 128, 4, 3),
    "sum_columns": (64, 64, 4, 3),
    "row_gradients": (64, 32, 4, 2),
    "column_gradients": (128, 64, 8, 2),
}
_SMALL = (32, 32, 4, 2)  # fits into registers and shared memory with anything


def _tiles(kernel: str, query: torch.Tensor) -> dict[str, int]:
    """Tile sizes of a kernel."""
    dims = max(16, triton.next_power_of_2(query.shape[-1]))
    small = query.dtype == torch.float32 or dims > 128
    rows, cols, warps, stages = _SMALL if small else _FASTEST[kernel]
    return {"ROWS": rows, "COLS": cols, "DIMS": dims, "num_warps": warps, "num_stages": stages}


class _RollLayer(torch.autograd.Function):
    """See :func:`roll_layer`."""

    @staticmethod
    def forward(
        ctx: Any,
        row: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        visual: torch.Tensor,
        live: torch.Tensor,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, heads, size, _ = query.shape
        row = row.contiguous()
        visual, live = visual.to(torch.int8).contiguous(), live.to(torch.int8).contiguous()
        lse = query.new_empty((batch, heads, size), dtype=torch.float32)
        share, added = torch.empty_like(lse), torch.empty_like(lse)
        peak = torch.empty_like(lse, dtype=torch.int32)
        shapes, tiles = _shapes(query, key), _tiles("row_statistics", query)
        grid = (triton.cdiv(size, tiles["ROWS"]), batch * heads)
        places = any(ctx.needs_input_grad)
        _row_statistics[grid](query, key, visual, live, lse, share, peak, *shapes, scaling, places, **tiles)
        tiles = _tiles("sum_columns", query)
        grid = (triton.cdiv(size, tiles["COLS"]), batch * heads)
        _sum_columns[grid](query, key, live, lse, row, added, *shapes, scaling, **tiles)
        ctx.save_for_backward(row, query, key, live, lse, share, peak)
        ctx.scaling = scaling
        return added, share.sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, pulled = gradients
        row, query, key, live, lse, share, peak = ctx.saved_tensors
        batch, heads, size, _ = query.shape
        given = given.contiguous()
        pull = share * pulled[:, :, None]
        mean = torch.empty_like(lse)
        dq = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        dk = torch.empty(key.shape, dtype=key.dtype, device=key.device)
        shapes, tiles = _shapes(query, key), _tiles("row_gradients", query)
        common = (query, key, live, lse, row, peak, pull, given, mean)
        grid = (triton.cdiv(size, tiles["ROWS"]), batch * heads)
        _row_gradients[grid](*common, dq, *shapes, ctx.scaling, **tiles)
        tiles = _tiles("column_gradients", query)
        grid = (triton.cdiv(size, tiles["COLS"]), batch * key.shape[1])
        _column_gradients[grid](*common, dk, *shapes, ctx.scaling, **tiles)
        return mean.sum(dim=1), dq, dk, None, None, None


def roll_layer(
    row: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, all heads. Differentiable in ``row``, ``query`` and ``key``.

    Args:
        row: (B, S) float32, the row vector from the layer above.
        query: (B, H, S, d), channels contiguous.
        key: (B, H_kv, S, d), channels contiguous.
        visual: (B, S) bool, the visual tokens.
        live: (B, S) bool, ``False`` on padding.
        scaling: Factor on the logits.

    Returns:
        (B, H, S) float32, what each head adds to the row vector; and (B, H) float32, the sum over rows of the row's
        largest attention to a visual token.
    """
    query = query if query.stride(-1) == 1 else query.contiguous()
    key = key if key.stride(-1) == 1 else key.contiguous()
    added, peaks = _RollLayer.apply(row, query, key, visual, live, scaling)
    return added, peaks
