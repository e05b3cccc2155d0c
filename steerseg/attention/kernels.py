"""One layer of the streaming rollout on a GPU, in Triton: forwards and backwards without an S x S matrix.

With P the attention of one head, r the row vector that comes from above and V the visual tokens, a layer gives::

    added_j = sum_i r_i P_ij            what the head adds to the row vector
    share_i = max_{j in V} P_ij         how far row i looks at one visual token

Both need P only tile by tile. A first pass over the tiles finds each row's log-sum-exp and its largest visual logit,
a second one sums the columns, of r_i P_ij = 2^(logit_ij - (lse_i - log2 r_i)). Backwards, with g = dL/d(added),
u_i = sum_j P_ij g_j and c_i = dL/d(peak) share_i::

    dL/dr_i = u_i
    dL/d(logit_ij) = P_ij (r_i (g_j - u_i) - c_i) + c_i [j is row i's largest visual token]

Logits are kept to base 2, in which a GPU takes powers. Most tiles lie wholly below the diagonal: in those nothing is
hidden, and nothing is compared; tiles on an edge are those on the diagonal and at the end, and all where there is
padding. Most tiles hold visual tokens only, or none: their largest logit is the largest visual one, or there is none.
Programs with the most tiles come first. Products are summed in float32, whatever the precision of q and k.
Nothing is summed by atomics, so results repeat.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["roll_layer", "roll_on"]

_MASKED = tl.constexpr(float("-inf"))

_LENGTHS = ("size",)
"""Chats have any length: a kernel is not compiled anew for those that are a multiple of 16."""


@triton.jit
def _block(
    base,
    positions,
    dims,
    stride,
    size,
    DEPTH: tl.constexpr,  # noqa: N803 (the language's custom for constants)
    DIMS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """Vectors (positions, dims) of one head; 0 beyond its ends."""
    at = base + positions[:, None] * stride + dims[None, :]
    if EDGE:
        return tl.load(at, mask=(positions[:, None] < size) & (dims[None, :] < DEPTH), other=0.0)
    elif DEPTH < DIMS:
        return tl.load(at, mask=dims[None, :] < DEPTH, other=0.0)
    else:
        return tl.load(at)


@triton.jit
def _tile(q, k, rows, cols, live_at, size, EDGE: tl.constexpr):  # noqa: N803
    """Products (rows, cols) of one tile. What a row does not see is -inf; a padding row sees itself only."""
    products = tl.dot(q, k, input_precision="ieee")
    if EDGE:
        live = tl.load(live_at + cols, mask=cols < size, other=0)
        own = cols[None, :] == rows[:, None]
        seen = (cols[None, :] <= rows[:, None]) & ((live[None, :] != 0) | own) & (rows[:, None] < size)
        products = tl.where(seen, products, _MASKED)
    return products


@triton.jit
def _look(
    top,
    total,
    best,
    where,
    start,
    q,
    k_base,
    k_row,
    rows,
    visual_at,
    live_at,
    size,
    scaling,
    ARGMAX: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """The rows' statistics with one more tile: ``top`` and ``best`` are products, not scaled."""
    cols = start + tl.arange(0, COLS)
    k = tl.trans(_block(k_base, cols, tl.arange(0, DIMS), k_row, size, DEPTH, DIMS, EDGE))
    visual = tl.load(visual_at + cols, mask=cols < size, other=0).to(tl.int32)
    products = _tile(q, k, rows, cols, live_at, size, EDGE)
    largest = tl.max(products, axis=1)
    if ARGMAX:
        shown = tl.where(visual[None, :] != 0, products, _MASKED)
        most = tl.max(shown, axis=1)
        argmax = (start + tl.argmax(shown, axis=1)).to(tl.int32)
        where = tl.where(most > best, argmax, where)
        best = tl.maximum(best, most)
    else:
        count = tl.sum(visual)
        if count == COLS:
            best = tl.maximum(best, largest)
        elif count > 0:
            best = tl.maximum(best, tl.max(tl.where(visual[None, :] != 0, products, _MASKED), axis=1))
    higher = tl.maximum(top, largest)
    shift = higher
    if EDGE:
        shift = tl.where(higher == _MASKED, 0.0, higher)  # a tile may hold nothing that a row sees
    shift *= scaling
    total = total * tl.exp2(top * scaling - shift)
    total += tl.sum(tl.exp2(products * scaling - shift[:, None]), axis=1)
    return higher, total, best, where


@triton.jit(do_not_specialize=_LENGTHS)
def _row_statistics(
    q_at,
    k_at,
    visual_at,
    live_at,
    row_at,
    shift_at,
    peaks_at,
    lse_at,
    share_at,
    argmax_at,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    size,
    heads,
    groups,
    scaling,
    PADDED: tl.constexpr,  # noqa: N803
    ARGMAX: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Statistics of some rows.

    Per row: log-sum-exp less the logarithm of its weight. Per tile of rows: the sum of their largest visual shares
    (0 on padding). If wanted, per row also its log-sum-exp, its largest visual share and the token of that.
    """
    both = tl.program_id(0).to(tl.int64)
    batch, head = both // heads, both % heads
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS
    rows = first + tl.arange(0, ROWS)
    q = _block(
        q_at + batch * q_batch + head * q_head, rows, tl.arange(0, DIMS), q_row, size, DEPTH, DIMS, True
    )
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    visual_at += batch * size
    live_at += batch * size
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    where = tl.zeros([ROWS], tl.int32)
    plain = 0 if PADDED else first // COLS * COLS
    for start in range(0, plain, COLS):
        top, total, best, where = _look(
            top, total, best, where, start, q, k_base, k_row, rows, visual_at, live_at, size, scaling,
            ARGMAX, COLS, DEPTH, DIMS, False,
        )  # fmt: skip
    for start in range(plain, tl.minimum(first + ROWS, size), COLS):
        top, total, best, where = _look(
            top, total, best, where, start, q, k_base, k_row, rows, visual_at, live_at, size, scaling,
            ARGMAX, COLS, DEPTH, DIMS, True,
        )  # fmt: skip
    inside = rows < size
    lse = tl.where(inside, top * scaling + tl.log2(total), 0.0)
    alive = tl.load(live_at + rows, mask=inside, other=0)
    share = tl.where((alive != 0) & inside, tl.exp2(best * scaling - lse), 0.0)
    weight = tl.load(row_at + batch * size + rows, mask=inside, other=0.0)
    out = both * size + rows
    tl.store(shift_at + out, lse - tl.log2(weight), mask=inside)
    tl.store(peaks_at + both * tl.num_programs(1) + first // ROWS, tl.sum(share, axis=0))
    if ARGMAX:
        tl.store(lse_at + out, lse, mask=inside)
        tl.store(share_at + out, share, mask=inside)
        tl.store(argmax_at + out, where, mask=inside)


@triton.jit
def _weigh(
    weighted,
    start,
    k,
    q_base,
    q_row,
    cols,
    live_at,
    shift_at,
    size,
    scaling,
    ROWS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """The weighted attention (rows, cols), summed over tiles, with one more tile."""
    rows = start + tl.arange(0, ROWS)
    q = _block(q_base, rows, tl.arange(0, DIMS), q_row, size, DEPTH, DIMS, EDGE)
    shift = tl.load(shift_at + rows, mask=rows < size, other=0.0)
    return weighted + tl.exp2(_tile(q, k, rows, cols, live_at, size, EDGE) * scaling - shift[:, None])


@triton.jit(do_not_specialize=_LENGTHS)
def _sum_columns(
    q_at,
    k_at,
    live_at,
    shift_at,
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
    scaling,
    PADDED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per column: sum over rows of the row vector times the attention."""
    both = tl.program_id(0).to(tl.int64)
    batch, head = both // heads, both % heads
    first = tl.program_id(1) * COLS
    cols = first + tl.arange(0, COLS)
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    k = tl.trans(_block(k_base, cols, tl.arange(0, DIMS), k_row, size, DEPTH, DIMS, True))
    q_base = q_at + batch * q_batch + head * q_head
    live_at += batch * size
    shift_at += both * size
    weighted = tl.zeros([ROWS, COLS], tl.float32)  # summed over rows once: warps share the rows of a tile
    begin = first // ROWS * ROWS
    end = size // ROWS * ROWS
    plain = size if PADDED else tl.maximum(begin, tl.minimum((first + COLS + ROWS - 1) // ROWS * ROWS, end))
    for start in range(begin, plain, ROWS):
        weighted = _weigh(
            weighted, start, k, q_base, q_row, cols, live_at, shift_at, size, scaling, ROWS, DEPTH, DIMS, True,
        )  # fmt: skip
    if not PADDED:
        for start in range(plain, end, ROWS):
            weighted = _weigh(
                weighted, start, k, q_base, q_row, cols, live_at, shift_at, size, scaling, ROWS, DEPTH, DIMS, False,
            )  # fmt: skip
        for start in range(tl.maximum(plain, end), size, ROWS):
            weighted = _weigh(
                weighted, start, k, q_base, q_row, cols, live_at, shift_at, size, scaling, ROWS, DEPTH, DIMS, True,
            )  # fmt: skip
    tl.store(added_at + both * size + cols, tl.sum(weighted, axis=0), mask=cols < size)


@triton.jit
def _slope(attention, rows, cols, weight, given, mean, pull, argmax):
    """The gradient of a tile's logits."""
    slope = attention * (weight[:, None] * (given[None, :] - mean[:, None]) - pull[:, None])
    return slope + tl.where(cols[None, :] == argmax[:, None], pull[:, None], 0.0)


@triton.jit
def _row_tile(
    start,
    q,
    k_base,
    k_row,
    rows,
    live_at,
    given_at,
    lse,
    size,
    scaling,
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """Columns, their keys and given gradients, and the attention of one tile."""
    cols = start + tl.arange(0, COLS)
    k = _block(k_base, cols, tl.arange(0, DIMS), k_row, size, DEPTH, DIMS, EDGE)
    given = tl.load(given_at + cols, mask=cols < size, other=0.0)
    attention = tl.exp2(_tile(q, tl.trans(k), rows, cols, live_at, size, EDGE) * scaling - lse[:, None])
    return cols, k, given, attention


@triton.jit(do_not_specialize=_LENGTHS)
def _row_gradients(
    q_at,
    k_at,
    live_at,
    lse_at,
    row_at,
    argmax_at,
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
    scaling,
    factor,
    PADDED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per row: u, the attention's mean of the given gradient, and the gradient of q."""
    both = tl.program_id(0).to(tl.int64)
    batch, head = both // heads, both % heads
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    inside = rows < size
    q = _block(q_at + batch * q_batch + head * q_head, rows, dims, q_row, size, DEPTH, DIMS, True)
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    live_at += batch * size
    given_at += both * size
    lse = tl.load(lse_at + both * size + rows, mask=inside, other=0.0)
    pull = tl.load(pull_at + both * size + rows, mask=inside, other=0.0)
    argmax = tl.load(argmax_at + both * size + rows, mask=inside, other=-1)
    weight = tl.load(row_at + batch * size + rows, mask=inside, other=0.0)
    plain = 0 if PADDED else first // COLS * COLS
    end = tl.minimum(first + ROWS, size)
    mean = tl.zeros([ROWS], tl.float32)
    for start in range(0, plain, COLS):
        cols, k, given, attention = _row_tile(
            start, q, k_base, k_row, rows, live_at, given_at, lse, size, scaling, COLS, DEPTH, DIMS, False
        )
        mean += tl.sum(attention * given[None, :], axis=1)
    for start in range(plain, end, COLS):
        cols, k, given, attention = _row_tile(
            start, q, k_base, k_row, rows, live_at, given_at, lse, size, scaling, COLS, DEPTH, DIMS, True
        )
        mean += tl.sum(attention * given[None, :], axis=1)
    dq = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(0, plain, COLS):
        cols, k, given, attention = _row_tile(
            start, q, k_base, k_row, rows, live_at, given_at, lse, size, scaling, COLS, DEPTH, DIMS, False
        )
        slope = _slope(attention, rows, cols, weight, given, mean, pull, argmax)
        dq += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    for start in range(plain, end, COLS):
        cols, k, given, attention = _row_tile(
            start, q, k_base, k_row, rows, live_at, given_at, lse, size, scaling, COLS, DEPTH, DIMS, True
        )
        slope = _slope(attention, rows, cols, weight, given, mean, pull, argmax)
        dq += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    tl.store(mean_at + both * size + rows, mean, mask=inside)
    out = dq_at + (both * size + rows[:, None]) * DEPTH + dims[None, :]
    tl.store(out, dq * factor, mask=inside[:, None] & (dims[None, :] < DEPTH))


@triton.jit
def _column_tile(
    dk,
    start,
    k,
    given,
    q_base,
    q_row,
    cols,
    live_at,
    lse_at,
    pull_at,
    argmax_at,
    mean_at,
    row_at,
    size,
    scaling,
    ROWS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """The gradient of k with one more tile."""
    rows = start + tl.arange(0, ROWS)
    inside = rows < size
    q = _block(q_base, rows, tl.arange(0, DIMS), q_row, size, DEPTH, DIMS, EDGE)
    lse = tl.load(lse_at + rows, mask=inside, other=0.0)
    pull = tl.load(pull_at + rows, mask=inside, other=0.0)
    argmax = tl.load(argmax_at + rows, mask=inside, other=-1)
    mean = tl.load(mean_at + rows, mask=inside, other=0.0)
    weight = tl.load(row_at + rows, mask=inside, other=0.0)
    attention = tl.exp2(_tile(q, k, rows, cols, live_at, size, EDGE) * scaling - lse[:, None])
    slope = _slope(attention, rows, cols, weight, given, mean, pull, argmax)
    return dk + tl.dot(tl.trans(slope).to(q.dtype), q, input_precision="ieee")


@triton.jit(do_not_specialize=_LENGTHS)
def _column_gradients(
    q_at,
    k_at,
    live_at,
    lse_at,
    row_at,
    argmax_at,
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
    scaling,
    factor,
    PADDED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    DIMS: tl.constexpr,  # noqa: N803
):
    """Per column and head: what the head adds to the gradient of k."""
    both = tl.program_id(0).to(tl.int64)
    batch, head = both // heads, both % heads
    first = tl.program_id(1) * COLS
    cols = first + tl.arange(0, COLS)
    dims = tl.arange(0, DIMS)
    k_base = k_at + batch * k_batch + (head // groups) * k_head
    k = tl.trans(_block(k_base, cols, dims, k_row, size, DEPTH, DIMS, True))
    q_base = q_at + batch * q_batch + head * q_head
    live_at += batch * size
    row_at += batch * size
    lse_at += both * size
    pull_at += both * size
    argmax_at += both * size
    mean_at += both * size
    given = tl.load(given_at + both * size + cols, mask=cols < size, other=0.0)
    dk = tl.zeros([COLS, DIMS], tl.float32)
    begin = first // ROWS * ROWS
    end = size // ROWS * ROWS
    plain = size if PADDED else tl.maximum(begin, tl.minimum((first + COLS + ROWS - 1) // ROWS * ROWS, end))
    for start in range(begin, plain, ROWS):
        dk = _column_tile(
            dk, start, k, given, q_base, q_row, cols, live_at, lse_at, pull_at, argmax_at, mean_at, row_at,
            size, scaling, ROWS, DEPTH, DIMS, True,
        )  # fmt: skip
    if not PADDED:
        for start in range(plain, end, ROWS):
            dk = _column_tile(
                dk, start, k, given, q_base, q_row, cols, live_at, lse_at, pull_at, argmax_at, mean_at, row_at,
                size, scaling, ROWS, DEPTH, DIMS, False,
            )  # fmt: skip
        for start in range(tl.maximum(plain, end), size, ROWS):
            dk = _column_tile(
                dk, start, k, given, q_base, q_row, cols, live_at, lse_at, pull_at, argmax_at, mean_at, row_at,
                size, scaling, ROWS, DEPTH, DIMS, True,
            )  # fmt: skip
    out = dk_at + (both * size + cols[:, None]) * DEPTH + dims[None, :]
    tl.store(out, dk * factor, mask=(cols[:, None] < size) & (dims[None, :] < DEPTH))


@triton.jit(do_not_specialize=(*_LENGTHS, "tiles"))
def _next_row(
    row_at,
    added_at,
    peaks_at,
    out_at,
    size,
    heads,
    tiles,
    WEIGHTED: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    TILES: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Some columns: half of the row vector from above, and half of the mean of what the heads add."""
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    head = tl.arange(0, HEADS)
    inside = cols < size
    weight = tl.full([HEADS], 1.0, tl.float32)
    if WEIGHTED:
        tile = tl.arange(0, TILES)
        parts = peaks_at + (batch * heads + head[:, None]) * tiles + tile[None, :]
        known = (head[:, None] < heads) & (tile[None, :] < tiles)
        weight = tl.sum(tl.load(parts, mask=known, other=0.0), axis=1)
        weight = weight / tl.max(weight, axis=0)
    offsets = (batch * heads + head[:, None]) * size + cols[None, :]
    added = tl.load(added_at + offsets, mask=(head[:, None] < heads) & inside[None, :], other=0.0)
    row = tl.load(row_at + batch * size + cols, mask=inside, other=0.0)
    mean = tl.sum(added * weight[:, None], axis=0) / heads
    tl.store(out_at + batch * size + cols, 0.5 * row + 0.5 * mean, mask=inside)


def _shapes(query: torch.Tensor, key: torch.Tensor) -> tuple[Any, ...]:
    """Strides and sizes as every kernel takes them."""
    _, heads, size, _ = query.shape
    return (*query.stride()[:3], *key.stride()[:3], size, heads, heads // key.shape[1])


# (rows, columns, warps, stages) of each kernel's tiles for 16-bit numbers and heads of up to 128 channels: the fastest
# of eight or twelve on an H100, at 3 000 tokens of one chat and 1 560 of three; but for row statistics, for which
# 128 x 128 takes a twentieth less and more shared memory than many a GPU has.
_FASTEST = {
    "row_statistics": (64, 64, 4, 2),
    "sum_columns": (64, 128, 4, 2),
    "row_gradients": (64, 64, 4, 3),
    "column_gradients": (64, 64, 4, 3),
}
_SMALL = (32, 32, 4, 2)  # fits into registers and shared memory with anything


def _tiles(kernel: str, query: torch.Tensor) -> dict[str, int]:
    """Tile sizes of a kernel."""
    depth = query.shape[-1]
    dims = max(16, triton.next_power_of_2(depth))
    small = query.dtype == torch.float32 or dims > 128
    rows, cols, warps, stages = _SMALL if small else _FASTEST[kernel]
    return {
        "ROWS": rows,
        "COLS": cols,
        "DEPTH": depth,
        "DIMS": dims,
        "num_warps": warps,
        "num_stages": stages,
    }


def _roll(
    row: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    padded: bool,
    scaling: float,
    kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what a layer adds (B, H, S), and by tile of rows (B, H, T) the sums of the largest visual shares.

    Args:
        row: See :func:`roll_layer`, as the next ones.
        query: The same.
        key: The same.
        visual: The same.
        live: The same.
        padded: The same.
        scaling: The same.
        kept: (B, H, S) each, written where given: per row log-sum-exp, largest visual share, and its token.
    """
    batch, heads, size, _ = query.shape
    shift, added = torch.empty((2, batch, heads, size), dtype=torch.float32, device=query.device)
    shapes = (*_shapes(query, key), scaling / math.log(2))
    tiles = _tiles("row_statistics", query)
    rows = triton.cdiv(size, tiles["ROWS"])
    peaks = torch.empty((batch, heads, rows), dtype=torch.float32, device=query.device)
    _row_statistics[batch * heads, rows](
        query, key, visual, live, row, shift, peaks, *(kept or (shift,) * 3), *shapes, padded, kept is not None, **tiles
    )  # fmt: skip
    tiles = _tiles("sum_columns", query)
    grid = (batch * heads, triton.cdiv(size, tiles["COLS"]))
    _sum_columns[grid](query, key, live, shift, added, *shapes, padded, **tiles)
    return added, peaks


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
        padded: bool,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lse, share = torch.empty((2, *query.shape[:3]), dtype=torch.float32, device=query.device)
        argmax = torch.empty_like(lse, dtype=torch.int32)
        added, peaks = _roll(row, query, key, visual, live, padded, scaling, (lse, share, argmax))
        ctx.save_for_backward(row, query, key, live, lse, share, argmax)
        ctx.padded, ctx.scaling = padded, scaling
        return added, peaks.sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, pulled = gradients
        row, query, key, live, lse, share, argmax = ctx.saved_tensors
        batch, heads, size, depth = query.shape
        given = given.contiguous()
        pull = share * pulled[:, :, None]
        mean = torch.empty_like(lse)
        dq = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        dk = torch.empty(query.shape, dtype=torch.float32, device=query.device)
        shapes = (*_shapes(query, key), ctx.scaling / math.log(2), ctx.scaling, ctx.padded)
        common = (query, key, live, lse, row, argmax, pull, given, mean)
        tiles = _tiles("row_gradients", query)
        grid = (batch * heads, triton.cdiv(size, tiles["ROWS"]))
        _row_gradients[grid](*common, dq, *shapes, **tiles)
        tiles = _tiles("column_gradients", query)
        grid = (batch * heads, triton.cdiv(size, tiles["COLS"]))
        _column_gradients[grid](*common, dk, *shapes, **tiles)
        of_shared = dk.view(batch, key.shape[1], -1, size, depth).sum(dim=2).to(key.dtype)
        return mean.sum(dim=1), dq, of_shared, None, None, None, None


def _inputs(
    row: torch.Tensor, query: torch.Tensor, key: torch.Tensor, visual: torch.Tensor, live: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """As the kernels take them."""
    return (
        row.contiguous(),
        query if query.stride(-1) == 1 else query.contiguous(),
        key if key.stride(-1) == 1 else key.contiguous(),
        visual.contiguous().view(torch.int8),
        live.contiguous().view(torch.int8),
    )


def roll_layer(
    row: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    scaling: float,
    *,
    padded: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, all heads. Differentiable in ``row``, ``query`` and ``key``.

    Args:
        row: (B, S) float32, at least 0, the row vector from the layer above.
        query: (B, H, S, d).
        key: (B, H_kv, S, d).
        visual: (B, S) bool, the visual tokens.
        live: (B, S) bool, ``False`` on padding.
        scaling: Factor on the logits, above 0.
        padded: Whether there may be padding; without, less is compared.

    Returns:
        (B, H, S) float32, what each head adds to the row vector; and (B, H) float32, the sum over rows of the row's
        largest attention to a visual token.
    """
    added, peaks = _RollLayer.apply(*_inputs(row, query, key, visual, live), padded, scaling)
    return added, peaks


def roll_on(
    row: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    visual: torch.Tensor,
    live: torch.Tensor,
    scaling: float,
    *,
    padded: bool = True,
    weighted: bool,
) -> torch.Tensor:
    """Roll one layer: the row vector (B, S) for the layer below, in three kernels. Not differentiable.

    Args:
        row: See :func:`roll_layer`, as the next ones.
        query: The same.
        key: The same.
        visual: The same.
        live: The same.
        scaling: The same.
        padded: The same.
        weighted: Whether heads count by their sums of largest attention to a visual token, and not alike.
    """
    row, query, key, visual, live = _inputs(row, query, key, visual, live)
    added, peaks = _roll(row, query, key, visual, live, padded, scaling)
    batch, heads, size = added.shape
    tiles = peaks.shape[-1]
    out = torch.empty_like(row)
    _next_row[triton.cdiv(size, 128), batch](
        row, added, peaks, out, size, heads, tiles,
        WEIGHTED=weighted, HEADS=triton.next_power_of_2(heads), TILES=triton.next_power_of_2(tiles), COLS=128,
    )  # fmt: skip
    return out
