"""Boxes and masks compared: overlap, bounds, and frames spread over a track."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steerseg.masks import RLE, decode_rle, mask_area, mask_box, rle_iou

MAX_CONDITIONING = 8
"""Most decided frames that propagation starts from, spread evenly: each further one costs attention on every frame
and adds little that is new (our choice)."""

Box = tuple[float, float, float, float]
"""Left, top, width and height, in fractions of the frame."""

TrackBox = tuple[float, float, float, float, float]
"""A box and its clockwise rotation about its top left corner, in degrees."""


def upright_box(box: TrackBox, height: int, width: int) -> Box:
    """The upright box around a rotated one, cut off at the frame's edges; all in fractions of the frame.

    Args:
        box: The box, rotated clockwise about its top left corner.
        height: Height of the frame in pixels: rotation keeps lengths in pixels, not in fractions.
        width: Width of the frame in pixels.
    """
    x, y, w, h, degrees = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [
        (x * width + dx * cosine - dy * sine, y * height + dx * sine + dy * cosine)
        for dx in (0.0, w * width)
        for dy in (0.0, h * height)
    ]
    left, right = (min(max(edge(c[0] for c in corners) / width, 0.0), 1.0) for edge in (min, max))
    top, bottom = (min(max(edge(c[1] for c in corners) / height, 0.0), 1.0) for edge in (min, max))
    return left, top, right - left, bottom - top


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes in [0, 1]; 0 where either has no area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def box_of(rle: RLE) -> Box | None:
    """The box of a mask as fractions of the frame; ``None`` where it is empty."""
    box = mask_box(decode_rle(rle)) if mask_area(rle) else None
    if box is None:
        return None
    height, width = rle["size"]
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def spread(frames: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the frames, evenly over their order, first and last included."""
    if len(frames) <= count:
        return list(frames)
    if count == 1:
        return [frames[len(frames) // 2]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def mask_iou(a: RLE | None, b: RLE | None) -> float:
    """Overlap in [0, 1] of two masks of one size, ``None`` being an empty one; 1 where both are empty."""
    empty_a, empty_b = (rle is None or mask_area(rle) == 0 for rle in (a, b))
    if empty_a or empty_b:
        return float(empty_a and empty_b)
    assert a is not None
    assert b is not None
    return rle_iou(a, b)
