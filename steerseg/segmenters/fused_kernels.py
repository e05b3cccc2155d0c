"""The Triton kernels behind :mod:`steerseg.segmenters.fused`: each reads inputs once and writes outputs once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # numbers that one program holds


@triton.jit
def _add_and_norm(
    residual_at,
    added_at,
    weight_at,
    bias_at,
    total_at,
    normed_at,
    rows,
    width,
    eps,
    ADDED: tl.constexpr,  # noqa: N803 (the language's custom for constants)
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Some rows: their sum, rounded as it is kept, and the norm of that."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    inside = (row[:, None] < rows) & (col[None, :] < width)
    at = row[:, None] * width + col[None, :]
    total = tl.load(residual_at + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        total += tl.load(added_at + at, mask=inside, other=0.0).to(tl.float32)
        kept = total.to(total_at.dtype.element_ty)
        tl.store(total_at + at, kept, mask=inside)
        total = kept.to(tl.float32)
    mean = tl.sum(total, axis=1) / width
    off = tl.where(inside, total - mean[:, None], 0.0)
    variance = tl.sum(off * off, axis=1) / width
    weight = tl.load(weight_at + col, mask=col < width, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + col, mask=col < width, other=0.0).to(tl.float32)
    normed = off * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]
    tl.store(normed_at + at, normed.to(normed_at.dtype.element_ty), mask=inside)


def add_and_norm(
    residual: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See :func:`steerseg.segmenters.fused.add_and_norm`."""
    width = residual.shape[-1]
    residual = residual.contiguous()
    added = None if added is None else added.contiguous()
    total = residual
    if added is not None:
        total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, added.dtype))
    normed = torch.empty_like(residual, dtype=dtype)
    rows, cols = residual.numel() // width, triton.next_power_of_2(width)
    at_once = max(1, _TILE // cols)
    _add_and_norm[(triton.cdiv(rows, at_once),)](
        residual,
        residual if added is None else added,
        weight,
        bias,
        total,
        normed,
        rows,
        width,
        eps,
        ADDED=added is not None,
        ROWS=at_once,
        COLS=cols,
        num_warps=4,
    )
    return total, normed


@triton.jit
def _norm_channels(
    at,
    weight_at,
    bias_at,
    normed_at,
    positions,
    width,
    picture,
    channel,
    stride,
    eps,
    COLS: tl.constexpr,  # noqa: N803
    POSITIONS: tl.constexpr,  # noqa: N803
):
    """Some positions of one picture, each over its channels."""
    col = tl.arange(0, COLS)
    spot = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    inside = (col[:, None] < width) & (spot[None, :] < positions)
    offsets = tl.program_id(1).to(tl.int64) * picture + col[:, None] * channel + spot[None, :] * stride
    value = tl.load(at + offsets, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=0) / width
    off = tl.where(inside, value - mean[None, :], 0.0)
    variance = tl.sum(off * off, axis=0) / width
    weight = tl.load(weight_at + col, mask=col < width, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + col, mask=col < width, other=0.0).to(tl.float32)
    normed = off * tl.rsqrt(variance + eps)[None, :] * weight[:, None] + bias[:, None]
    tl.store(normed_at + offsets, normed.to(normed_at.dtype.element_ty), mask=inside)


def norm_channels(pictures: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See :func:`steerseg.segmenters.fused.norm_channels`."""
    pictures = _with_collapsible_positions(pictures)
    normed = torch.empty_strided(
        pictures.shape, pictures.stride(), dtype=pictures.dtype, device=pictures.device
    )
    count, width, height, across = pictures.shape
    cols = triton.next_power_of_2(width)
    at_once = min(1024, max(32, _TILE // cols))  # neighbours share a line of memory
    _norm_channels[(triton.cdiv(height * across, at_once), count)](
        pictures,
        weight,
        bias,
        normed,
        height * across,
        width,
        pictures.stride(0),
        pictures.stride(1),
        pictures.stride(3),
        eps,
        COLS=cols,
        POSITIONS=at_once,
        num_warps=4,
    )
    return normed


def _with_collapsible_positions(pictures: Tensor) -> Tensor:
    """(N, C, h, w) whose numbers lie densely, with a position's row and column as one stride."""
    if pictures.is_contiguous() or pictures.is_contiguous(memory_format=torch.channels_last):
        across = 1 if pictures.is_contiguous() else pictures.shape[1]
        if pictures.stride(3) == across and pictures.stride(2) == across * pictures.shape[3]:
            return pictures
    return pictures.clone(memory_format=torch.contiguous_format)


@triton.jit(do_not_specialize=("count", "length"))
def _rotate(
    at,
    cos_at,
    sin_at,
    count,
    length,
    positions,
    HALF: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """Some vectors of one batch entry, in place."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    both, half = tl.arange(0, 2 * COLS), tl.arange(0, COLS)
    inside = (row[:, None] < count) & (both[None, :] < 2 * HALF)
    start = at + tl.program_id(1).to(tl.int64) * length * (2 * HALF)
    vectors = start + row[:, None].to(tl.int64) * (2 * HALF) + both[None, :]
    value = tl.load(vectors, mask=inside, other=0.0).to(tl.float32)
    first, second = tl.split(tl.reshape(value, (ROWS, COLS, 2)))
    angles = (row % positions)[:, None] * HALF + half[None, :]
    known = (row[:, None] < count) & (half[None, :] < HALF)
    cos = tl.load(cos_at + angles, mask=known, other=0.0)
    sin = tl.load(sin_at + angles, mask=known, other=0.0)
    rotated = tl.join(first * cos - second * sin, first * sin + second * cos)
    rotated = tl.reshape(rotated, (ROWS, 2 * COLS))
    tl.store(vectors, rotated.to(at.dtype.element_ty), mask=inside)


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    """See :func:`steerseg.segmenters.fused.rotate`."""
    if not vectors.is_contiguous():
        raise ValueError("vectors that are rotated in place must be contiguous")
    batch, length, width = vectors.shape
    cols = triton.next_power_of_2(width // 2)
    at_once = max(1, _TILE // (2 * cols))
    _rotate[(triton.cdiv(count, at_once), batch)](
        vectors,
        cos.contiguous(),
        sin.contiguous(),
        count,
        length,
        len(cos),
        HALF=width // 2,
        COLS=cols,
        ROWS=at_once,
        num_warps=4,
    )
    return vectors


@triton.jit(do_not_specialize=("rows_in_all", "count", "length"))
def _project_and_rotate(
    at,
    weight_at,
    bias_at,
    cos_at,
    sin_at,
    out_at,
    rows_in_all,
    count,
    length,
    positions,
    WIDTH: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """Some vectors of all batch entries: projected, rounded as a product is kept, and rotated."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col, half = tl.arange(0, 2 * HALF), tl.arange(0, HALF)
    inside = row < rows_in_all
    total = tl.zeros([ROWS, 2 * HALF], tl.float32)
    for start in tl.static_range(0, WIDTH, INNER):
        inner = start + tl.arange(0, INNER)
        part = tl.load(at + row[:, None] * WIDTH + inner[None, :], mask=inside[:, None], other=0.0)
        weight = tl.load(weight_at + col[:, None] * WIDTH + inner[None, :])
        total += tl.dot(part, tl.trans(weight), input_precision="ieee")
    total += tl.load(bias_at + col).to(tl.float32)[None, :]
    value = total.to(out_at.dtype.element_ty).to(tl.float32)
    first, second = tl.split(tl.reshape(value, (ROWS, HALF, 2)))
    index = (row % length).to(tl.int32)
    turned = (index < count)[:, None]
    angles = (index % positions)[:, None] * HALF + half[None, :]
    cos = tl.load(cos_at + angles, mask=turned, other=1.0)
    sin = tl.load(sin_at + angles, mask=turned, other=0.0)
    rotated = tl.join(first * cos - second * sin, first * sin + second * cos)
    rotated = tl.reshape(rotated, (ROWS, 2 * HALF)).to(out_at.dtype.element_ty)
    tl.store(out_at + row[:, None] * (2 * HALF) + col[None, :], rotated, mask=inside[:, None])


def project_and_rotate(
    vectors: Tensor, weight: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, count: int
) -> Tensor:
    """See :func:`steerseg.segmenters.fused.project_and_rotate`."""
    vectors = vectors.contiguous()
    entries, length, width = vectors.shape
    out = torch.empty((entries, length, len(weight)), dtype=vectors.dtype, device=vectors.device)
    at_once = 64
    _project_and_rotate[(triton.cdiv(entries * length, at_once),)](
        vectors,
        weight.contiguous(),
        bias,
        cos.contiguous(),
        sin.contiguous(),
        out,
        entries * length,
        count,
        length,
        len(cos),
        WIDTH=width,
        INNER=min(64, width),
        HALF=len(weight) // 2,
        ROWS=at_once,
        num_warps=8,
    )
    return out


@triton.jit
def _mask_for_memory(
    logits_at,
    out_at,
    scale,
    bias,
    SIDE: tl.constexpr,  # noqa: N803
    LARGE: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Some pixels of one row of one mask: enlarged by bilinear interpolation, and squashed."""
    row, entry = tl.program_id(1), tl.program_id(2).to(tl.int64)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = col < LARGE
    step: tl.constexpr = SIDE / LARGE
    y = tl.maximum((row + 0.5) * step - 0.5, 0.0)
    x = tl.maximum((col + 0.5) * step - 0.5, 0.0)
    top, left = y.to(tl.int32), x.to(tl.int32)
    down, right = y - top, x - left
    below, beside = tl.minimum(top + 1, SIDE - 1), tl.minimum(left + 1, SIDE - 1)
    at = logits_at + entry * SIDE * SIDE
    upper = (1 - right) * tl.load(at + top * SIDE + left, mask=inside, other=0.0)
    upper += right * tl.load(at + top * SIDE + beside, mask=inside, other=0.0)
    lower = (1 - right) * tl.load(at + below * SIDE + left, mask=inside, other=0.0)
    lower += right * tl.load(at + below * SIDE + beside, mask=inside, other=0.0)
    share = tl.sigmoid((1 - down) * upper + down * lower) * scale + bias
    tl.store(out_at + (entry * LARGE + row) * LARGE + col, share.to(out_at.dtype.element_ty), mask=inside)


def mask_for_memory(logits: Tensor, side: int, scale: float, bias: float, dtype: torch.dtype) -> Tensor:
    """See :func:`steerseg.segmenters.fused.mask_for_memory`."""
    logits = logits.contiguous()
    count = len(logits)
    out = torch.empty((count, 1, side, side), dtype=dtype, device=logits.device)
    cols = min(1024, triton.next_power_of_2(side))
    _mask_for_memory[(triton.cdiv(side, cols), side, count)](
        logits, out, scale, bias, SIDE=logits.shape[-1], LARGE=side, COLS=cols, num_warps=4
    )
    return out


@triton.jit
def _attend_tile(
    start,
    q,
    k_at,
    v_at,
    top,
    total,
    mixed,
    length,
    scaling,
    WIDTH: tl.constexpr,  # noqa: N803
    NARROW: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
):
    """The rows' softmax, kept as it grows, with one more tile of keys; scaled logits are to base 2."""
    cols = start + tl.arange(0, COLS)
    k_offsets = k_at + cols[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    v_offsets = v_at + cols[:, None] * NARROW + tl.arange(0, NARROW)[None, :]
    if EDGE:
        k = tl.load(k_offsets, mask=cols[:, None] < length, other=0.0)
        v = tl.load(v_offsets, mask=cols[:, None] < length, other=0.0)
    else:
        k = tl.load(k_offsets)
        v = tl.load(v_offsets)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee")
    if EDGE:
        logits = tl.where(cols[None, :] < length, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, axis=1) * scaling)
    faded = tl.exp2(top - higher)
    share = tl.exp2(logits * scaling - higher[:, None])  # one operation before the exponential
    total = total * faded + tl.sum(share, axis=1)
    mixed = mixed * faded[:, None] + tl.dot(share.to(v.dtype), v, input_precision="ieee")
    return higher, total, mixed


@triton.jit(do_not_specialize=("length",))
def _attend_part(
    q_at,
    k_at,
    v_at,
    mixed_at,
    lse_at,
    rows_in_all,
    length,
    part,
    scaling,
    WIDTH: tl.constexpr,  # noqa: N803
    NARROW: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Some queries of one batch entry over one part of the keys: mixed values, and the log-sum-exp to base 2."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    entry = tl.program_id(2).to(tl.int64)
    inside = rows < rows_in_all
    q_offsets = (entry * rows_in_all + rows[:, None]) * WIDTH + tl.arange(0, WIDTH)[None, :]
    q = tl.load(q_at + q_offsets, mask=inside[:, None], other=0.0)
    k_at += entry * length * WIDTH
    v_at += entry * length * NARROW
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, NARROW], tl.float32)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, length)
    plain = begin + (end - begin) // COLS * COLS
    for start in range(begin, plain, COLS):
        top, total, mixed = _attend_tile(
            start, q, k_at, v_at, top, total, mixed, length, scaling, WIDTH, NARROW, COLS, False
        )
    if plain < end:
        top, total, mixed = _attend_tile(
            plain, q, k_at, v_at, top, total, mixed, length, scaling, WIDTH, NARROW, COLS, True
        )
    out = (tl.program_id(1) * tl.num_programs(2) + entry) * rows_in_all + rows
    narrow = out[:, None] * NARROW + tl.arange(0, NARROW)[None, :]
    mixed = (mixed / total[:, None]).to(mixed_at.dtype.element_ty)
    tl.store(mixed_at + narrow, mixed, mask=inside[:, None])
    tl.store(lse_at + out, top + tl.log2(total), mask=inside)


@triton.jit
def _join_parts(
    mixed_at,
    lse_at,
    joined_at,
    count,
    PARTS: tl.constexpr,  # noqa: N803
    NARROW: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """Some queries' mixed values over all parts of the keys."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, NARROW)
    inside = rows < count
    top = tl.full([ROWS], float("-inf"), tl.float32)
    for part in tl.static_range(PARTS):
        top = tl.maximum(top, tl.load(lse_at + part * count + rows, mask=inside, other=0.0))
    total = tl.zeros([ROWS], tl.float32)
    joined = tl.zeros([ROWS, NARROW], tl.float32)
    for part in tl.static_range(PARTS):
        share = tl.exp2(tl.load(lse_at + part * count + rows, mask=inside, other=0.0) - top)
        offsets = (part * count + rows[:, None]) * NARROW + channels[None, :]
        joined += tl.load(mixed_at + offsets, mask=inside[:, None], other=0.0) * share[:, None]
        total += share
    joined = (joined / total[:, None]).to(joined_at.dtype.element_ty)
    tl.store(joined_at + rows[:, None] * NARROW + channels[None, :], joined, mask=inside[:, None])


_MOST_PARTS = 16
_JOINING = 0.01  # what a further part costs, as a share of what all programs at once take for whole rows


def parts_of_keys(blocks: int, steps: int, programs: int) -> int:
    """In how many parts keys are mixed, so that few of the programs that run at once are idle in the end.

    Args:
        blocks: Blocks of queries.
        steps: Tiles of keys.
        programs: How many run at once.
    """

    def cost(parts: int) -> float:
        return math.ceil(blocks * parts / programs) / parts + _JOINING * parts

    return min(range(1, min(steps, _MOST_PARTS) + 1), key=cost)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def narrow_attention(
    query: Tensor, key: Tensor, value: Tensor, tiles: tuple[int, int, int, int], parts: int | None = None
) -> Tensor:
    """See :func:`steerseg.segmenters.fused.narrow_attention`.

    Channels are powers of two, at least 16, and tensors contiguous. Keys are mixed in as many parts as suit the device
    where their number is left out.
    """
    rows, cols, warps, stages = tiles
    entries, count, width = query.shape
    length, narrow = value.shape[1:]
    blocks = triton.cdiv(count, rows) * entries
    steps = triton.cdiv(length, cols)
    if parts is None:
        parts = parts_of_keys(blocks, steps, 2 * _multiprocessors(query.device))
    part = triton.cdiv(steps, parts) * cols
    parts = triton.cdiv(length, part)
    kept = query.dtype if parts == 1 else torch.float32
    mixed = torch.empty((parts, entries, count, narrow), dtype=kept, device=query.device)
    lse = torch.empty((parts, entries, count), dtype=torch.float32, device=query.device)
    _attend_part[(triton.cdiv(count, rows), parts, entries)](
        query,
        key,
        value,
        mixed,
        lse,
        count,
        length,
        part,
        width**-0.5 / math.log(2),
        WIDTH=width,
        NARROW=narrow,
        ROWS=rows,
        COLS=cols,
        num_warps=warps,
        num_stages=stages,
    )
    if parts == 1:
        return mixed[0]
    joined = torch.empty((entries, count, narrow), dtype=query.dtype, device=query.device)
    _join_parts[(triton.cdiv(entries * count, 64),)](
        mixed, lse, joined, entries * count, PARTS=parts, NARROW=narrow, ROWS=64, num_warps=4
    )
    return joined
