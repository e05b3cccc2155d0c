"""The Triton kernels behind :mod:`steerseg.segmenters.fused`: each reads inputs once and writes outputs once."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

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


@triton.jit
def _convolve_each(
    at,
    weight_at,
    bias_at,
    out_at,
    height,
    width,
    channels,
    SIDE: tl.constexpr,  # noqa: N803
    POSITIONS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Some positions and channels of one picture whose channels lie side by side; each channel on its own."""
    spot = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    known = col < channels
    picture = tl.program_id(2).to(tl.int64) * height * width * channels
    row, across = spot // width, spot % width
    total = tl.zeros([POSITIONS, COLS], tl.float32)
    total += tl.load(bias_at + col, mask=known, other=0.0).to(tl.float32)[None, :]
    for down in tl.static_range(SIDE):
        for right in tl.static_range(SIDE):
            y, x = row + down - SIDE // 2, across + right - SIDE // 2
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            offsets = picture + (y * width + x)[:, None] * channels + col[None, :]
            value = tl.load(at + offsets, mask=inside[:, None] & known[None, :], other=0.0)
            weight = tl.load(weight_at + (down * SIDE + right) * channels + col, mask=known, other=0.0)
            total += value.to(tl.float32) * weight.to(tl.float32)[None, :]
    offsets = picture + spot[:, None] * channels + col[None, :]
    inside = (spot < height * width)[:, None] & known[None, :]
    tl.store(out_at + offsets, total.to(out_at.dtype.element_ty), mask=inside)


def convolve_each(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`steerseg.segmenters.fused.convolve_each`."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = pictures.shape
    side = weight.shape[-1]
    out = torch.empty_like(pictures, memory_format=torch.channels_last)
    cols = min(64, triton.next_power_of_2(channels))
    _convolve_each[(triton.cdiv(height * width, 32), triton.cdiv(channels, cols), count)](
        pictures,
        weight.reshape(channels, side * side).T.contiguous(),
        bias,
        out,
        height,
        width,
        channels,
        SIDE=side,
        POSITIONS=32,
        COLS=cols,
        num_warps=4,
    )
    return out


@triton.jit
def _halve(
    at,
    weight_at,
    bias_at,
    out_at,
    height,
    width,
    channels,
    GIVEN: tl.constexpr,  # noqa: N803
    POSITIONS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    """Every second position of one picture, convolved by windows of 3 x 3; channels lie side by side."""
    spot = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    col = tl.arange(0, COLS)
    known = col < channels
    out_width = (width + 1) // 2
    out_size = (height + 1) // 2 * out_width
    picture = tl.program_id(1).to(tl.int64)
    at += picture * height * width * GIVEN
    row, across = 2 * (spot // out_width), 2 * (spot % out_width)
    total = tl.zeros([POSITIONS, COLS], tl.float32)
    total += tl.load(bias_at + col, mask=known, other=0.0).to(tl.float32)[None, :]
    for down in tl.static_range(3):
        for right in tl.static_range(3):
            y, x = row + down - 1, across + right - 1
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            for channel in tl.static_range(GIVEN):
                value = tl.load(at + (y * width + x) * GIVEN + channel, mask=inside, other=0.0)
                tap = (down * 3 + right) * GIVEN + channel
                weight = tl.load(weight_at + tap * channels + col, mask=known, other=0.0)
                total += value.to(tl.float32)[:, None] * weight.to(tl.float32)[None, :]
    offsets = (picture * out_size + spot[:, None]) * channels + col[None, :]
    inside = (spot < out_size)[:, None] & known[None, :]
    tl.store(out_at + offsets, total.to(out_at.dtype.element_ty), mask=inside)


def halve(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`steerseg.segmenters.fused.halve`."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    count, given, height, width = pictures.shape
    channels = len(weight)
    size = ((height + 1) // 2, (width + 1) // 2)
    out = torch.empty(
        (count, channels, *size),
        dtype=pictures.dtype,
        device=pictures.device,
        memory_format=torch.channels_last,
    )
    cols = triton.next_power_of_2(channels)
    at_once = max(16, 2048 // cols)
    _halve[(triton.cdiv(size[0] * size[1], at_once), count)](
        pictures,
        weight.permute(2, 3, 1, 0).contiguous(),
        bias,
        out,
        height,
        width,
        channels,
        GIVEN=given,
        POSITIONS=at_once,
        COLS=cols,
        num_warps=4,
    )
    return out


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
    """The rows' softmax, kept as it grows, with one more tile of keys; logits are to base 2."""
    cols = start + tl.arange(0, COLS)
    k_offsets = k_at + cols[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    v_offsets = v_at + cols[:, None] * NARROW + tl.arange(0, NARROW)[None, :]
    if EDGE:
        k = tl.load(k_offsets, mask=cols[:, None] < length, other=0.0)
        v = tl.load(v_offsets, mask=cols[:, None] < length, other=0.0)
    else:
        k = tl.load(k_offsets)
        v = tl.load(v_offsets)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    if EDGE:
        logits = tl.where(cols[None, :] < length, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, axis=1))
    faded = tl.exp2(top - higher)
    share = tl.exp2(logits - higher[:, None])
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
    tl.store(mixed_at + narrow, mixed / total[:, None], mask=inside[:, None])
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


_ATTENTION_PROGRAMS = 256  # two for each multiprocessor of a large GPU


def narrow_attention(query: Tensor, key: Tensor, value: Tensor, tiles: tuple[int, int, int, int]) -> Tensor:
    """See :func:`steerseg.segmenters.fused.narrow_attention`.

    Channels are powers of two, at least 16, and tensors contiguous.
    """
    rows, cols, warps, stages = tiles
    entries, count, width = query.shape
    length, narrow = value.shape[1:]
    blocks = triton.cdiv(count, rows) * entries
    steps = triton.cdiv(length, cols)
    part = triton.cdiv(steps, min(steps, max(1, _ATTENTION_PROGRAMS // blocks))) * cols
    parts = triton.cdiv(length, part)
    mixed = torch.empty((parts, entries, count, narrow), dtype=torch.float32, device=query.device)
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
    joined = torch.empty((entries, count, narrow), dtype=query.dtype, device=query.device)
    _join_parts[(triton.cdiv(entries * count, 64),)](
        mixed, lse, joined, entries * count, PARTS=parts, NARROW=narrow, ROWS=64, num_warps=4
    )
    return joined
