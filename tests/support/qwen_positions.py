"""Qwen's rule of positions, written from its description, to check positions that a library counts.

Source: Qwen2-VL (arXiv 2409.12191, section 2.1) and the Qwen2.5-VL report (arXiv 2502.13923, section 2.1.2). Text has
the same position in time, height and width. A visual token adds its slice, row and column to where its picture or
video begins; Qwen2.5-VL counts time in units of 1 / tokens_per_second seconds. Whatever follows begins at 1 + the
largest position before it, in any dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

TEXT, IMAGE, VIDEO = 0, 1, 2

Position = tuple[int, int, int]


def published_positions(
    types: Sequence[int], grids: Iterator[tuple[int, int, int]], intervals: Iterator[float]
) -> list[Position]:
    """Positions in time, height and width of one chat without padding.

    Args:
        types: Of each token: text, image or video.
        grids: Of each picture and video in turn slices, rows and columns of visual tokens.
        intervals: Of each video in turn, positions between two slices.
    """
    positions: list[Position] = []
    while len(positions) < len(types):
        begin = 1 + max((max(position) for position in positions), default=-1)
        kind = types[len(positions)]
        if kind == TEXT:
            positions.append((begin, begin, begin))
            continue
        slices, rows, columns = next(grids)
        interval = next(intervals) if kind == VIDEO else 1
        positions += [
            (begin + int(time * interval), begin + row, begin + column)
            for time in range(slices)
            for row in range(rows)
            for column in range(columns)
        ]
    return positions


def positions_of(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Positions (3, B, S) of a processor's output for Qwen2-VL or Qwen2.5-VL; 0 on padding.

    Args:
        model: Whose configuration says how patches are merged and how time is counted.
        inputs: Ids, token types, grids in patches, the mask where there is padding, seconds between slices.
    """
    vision = model.config.vision_config
    merge = vision.spatial_merge_size
    grids = [
        (int(time), int(height) // merge, int(width) // merge)
        for name in ("image_grid_thw", "video_grid_thw")
        for time, height, width in inputs.get(name, ())
    ]
    counted = hasattr(vision, "tokens_per_second")
    seconds = inputs.get("second_per_grid_ts", torch.ones(len(grids)))
    intervals = [float(one) * vision.tokens_per_second if counted else 1.0 for one in seconds]
    types = inputs["mm_token_type_ids"]
    mask = inputs.get("attention_mask")
    live = torch.ones_like(types, dtype=torch.bool) if mask is None else mask.bool()
    positions = torch.zeros(3, *types.shape, dtype=torch.long)
    each_grid, each_interval = iter(grids), iter(intervals)
    for row in range(len(types)):
        counted_row = published_positions(types[row, live[row]].tolist(), each_grid, each_interval)
        positions[:, row, live[row]] = torch.tensor(counted_row).T
    return positions


def with_positions(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same with positions by the rule, where the model is one of those that count them otherwise."""
    if model.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        return dict(inputs)
    return {**inputs, "position_ids": positions_of(model, inputs)}
