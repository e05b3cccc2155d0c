"""Masks as outlines and back.

Outlines run along the edges of pixels, in continuous coordinates in which pixel (column, row) covers
``[column, column + 1) x [row, row + 1)``. That is how browsers draw polygons, and it keeps thin and small
objects from losing half a pixel on every side, as contours through pixel centres do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from steerseg.masks import RLE, decode_rle, empty_rle, iou, merge_rles

Outline = NDArray[np.float64]
"""(N, 2) corners as x, y in pixels; closed, the last corner joins the first."""

_EPSILONS = (16.0, 11.3, 8.0, 5.7, 4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5)
MAX_LENGTH = 500_000
"""Longest outline in pixels that is filled: 39 times around a page of 4096 x 2304."""
_SPECK = 0.0025
"""Parts and holes are left out, smallest first, while together they hold no more of the mask than this."""


def mask_to_outlines(
    mask: NDArray[np.bool_], *, max_loss: float = 0.01, keep_specks: bool = False
) -> list[Outline]:
    """Trace a mask with as few corners as the loss allows.

    A mask in several parts gives several outlines, the largest first. A hole is joined to its part by a cut
    of no width, since Label Studio's polygons have no holes. Specks (at most 0.25 % of the mask) go, where nobody asks
    for them: each would be a region of its own in Label Studio.

    Args:
        mask: (H, W) bool.
        max_loss: Most that the IoU of the outlines with the mask may fall below 1.
        keep_specks: Whether the smallest parts and holes stay, as a dataset needs them.

    Returns:
        Outlines in pixels; empty for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    crop = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    parts = _pixel_edges(crop, 0.0 if keep_specks else _SPECK)
    exact = [_cut_open(outer, holes) for outer, holes in parts]
    best = exact
    for epsilon in _EPSILONS:
        simple = [
            _cut_open(_simplify(outer, epsilon), [_simplify(h, epsilon) for h in holes])
            for outer, holes in parts
        ]
        if iou(outlines_to_mask(simple, *crop.shape), crop) >= 1 - max_loss:
            best = simple
            break
    return [outline + np.array([left, top]) for outline in best]


def outlines_to_mask(outlines: Sequence[Outline], height: int, width: int) -> NDArray[np.bool_]:
    """Fill outlines (in pixels) into one (height, width) bool mask; see :func:`outlines_to_rle`."""
    return decode_rle(outlines_to_rle(outlines, height, width))


def outlines_to_rle(outlines: Sequence[Outline], height: int, width: int) -> RLE:
    """Fill outlines (in pixels) into one (height, width) mask; fewer than 3 corners fill nothing.

    What lies beyond the picture is cut off along its edge; no corner is moved. An outline that crosses itself is filled
    as browsers show it: all that it goes round is inside, also what it goes round twice. The cost follows the length of
    the outlines, not the size of the picture.

    Raises:
        ValueError: An outline is longer than any that follows the edge of an object.
    """
    inside = [cut_outline(outline, height, width) for outline in outlines]
    polygons = [outline for outline in inside if len(outline) >= 3]
    length = sum(float(np.abs(np.roll(one, 1, axis=0) - one).max(axis=1).sum()) for one in polygons)
    if length > MAX_LENGTH:
        raise ValueError(f"its outline is {length:.0f} pixels long, at most {MAX_LENGTH} are filled")
    if not polygons:
        return empty_rle(height, width)
    encoded = coco_mask.frPyObjects([outline.ravel().tolist() for outline in polygons], height, width)
    # These leave out what is gone round twice.
    encoded += [rle for outline in polygons for rle in _gone_round_twice(outline, height, width)]
    return merge_rles([RLE(size=[height, width], counts=one["counts"].decode("ascii")) for one in encoded])


def _gone_round_twice(outline: Outline, height: int, width: int) -> list[dict[str, Any]]:
    """The pixels whose centre an outline inside the picture goes round an even number of times; empty without any.

    Columns are gone through from top to bottom, as run lengths have them: each edge that crosses the centre of a column
    adds or takes a turn from its row on.
    """
    after = np.roll(outline, -1, axis=0)
    low, high = np.minimum(outline[:, 0], after[:, 0]), np.maximum(outline[:, 0], after[:, 0])
    first, end = np.ceil(low - 0.5).astype(np.int64), np.ceil(high - 0.5).astype(np.int64)
    counts = end - first  # columns whose centre an edge crosses
    edges = np.repeat(np.arange(len(outline)), counts)
    columns = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    (x, y), (dx, dy) = outline[edges].T, (after - outline)[edges].T
    rows = np.ceil(y + dy * (columns + 0.5 - x) / dx - 0.5).astype(np.int64)
    cells = columns * height + rows
    order = np.argsort(cells, kind="stable")
    begins, turns = cells[order], np.cumsum(np.sign(dx)[order].astype(np.int64))
    ends = np.append(begins[1:], begins[-1:])
    twice = (turns != 0) & (turns & 1 == 0) & (ends > begins)
    if not twice.any():
        return []
    borders = np.stack([begins[twice], ends[twice]], axis=1).ravel()
    meeting = np.flatnonzero(borders[2::2] == borders[1:-1:2]) * 2 + 1
    apart = np.delete(borders, [*meeting, *(meeting + 1)])
    runs = np.diff(apart, prepend=0, append=height * width).tolist()
    return [coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)]


def cut_outline(outline: Outline, height: int, width: int) -> Outline:
    """The part of an outline inside the picture, by Sutherland and Hodgman's algorithm (1974).

    Parts that the cut leaves apart stay one outline, joined along the picture's edge.
    """
    for axis, limit in ((0, float(width)), (1, float(height))):
        outline = _cut_below(outline, axis, 0.0)
        outline = -_cut_below(-outline, axis, -limit)
    return outline


def _cut_below(outline: Outline, axis: int, limit: float) -> Outline:
    """The part of an outline whose coordinate on an axis is at least the limit."""
    values = outline[:, axis]
    if len(outline) == 0 or (values >= limit).all():
        return outline
    kept: list[NDArray[np.float64]] = []
    for i in range(len(outline)):
        before, here = outline[i - 1], outline[i]
        if (before[axis] < limit) != (here[axis] < limit):
            crossing = before + (here - before) * ((limit - before[axis]) / (here[axis] - before[axis]))
            crossing[axis] = limit
            kept.append(crossing)
        if here[axis] >= limit:
            kept.append(here)
    return np.array(kept, dtype=np.float64).reshape(-1, 2)


def joined_outline(outlines: Sequence[Outline]) -> Outline:
    """Join at least one outline into one by cuts of no width, for formats that know one outline an object."""
    joined = outlines[0]
    for other in outlines[1:]:
        joined = _spliced(joined, other)
    return joined


def _pixel_edges(mask: NDArray[np.bool_], speck: float) -> list[tuple[Outline, list[Outline]]]:
    """Trace each part's outer edge and the edges of its holes; largest part first, specks left out.

    Args:
        mask: (H, W).
        speck: Fraction of the mask that may be left out.
    """
    # Contours run through the centres of border pixels. On a grid twice as fine, the centre of a border
    # pixel's half is next to the edge itself, and rounding up the halved coordinates lands on it.
    fine = np.kron(mask.astype(np.uint8), np.ones((2, 2), dtype=np.uint8))
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    edges = [((contour[:, 0, :] + 1) // 2).astype(np.int32) for contour in contours]
    areas = [abs(cv2.contourArea(edge)) for edge in edges]
    allowance = speck * float(mask.sum())
    kept = set(range(len(edges)))
    for i in sorted(kept, key=areas.__getitem__):
        if areas[i] > allowance:
            break
        allowance -= areas[i]
        kept.discard(i)
    parts = []
    for i in sorted(kept, key=areas.__getitem__, reverse=True):
        if hierarchy[0][i][3] != -1:  # a hole; its part lists it
            continue
        holes = [_corners(edges[j]) for j in sorted(kept) if hierarchy[0][j][3] == i]
        parts.append((_corners(edges[i]), holes))
    return parts


def _corners(edge: NDArray[np.int32]) -> Outline:
    """Drop repeated points and those in the middle of a straight stretch."""
    points = edge[np.any(edge != np.roll(edge, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turning = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: Outline = points[turning].astype(np.float64)
    return corners


def _simplify(outline: Outline, epsilon: float) -> Outline:
    simple = cv2.approxPolyDP(outline.astype(np.float32), epsilon, closed=True)[:, 0, :].astype(np.float64)
    return simple if len(simple) >= 3 else outline


def _cut_open(outer: Outline, holes: Sequence[Outline]) -> Outline:
    """Join holes to the outer edge by cuts of no width between their nearest corners."""
    joined = outer
    clockwise = _signed_area(outer) > 0
    for hole in sorted(holes, key=lambda h: float(h[:, 0].min())):
        joined = _spliced(joined, hole[::-1] if (_signed_area(hole) > 0) == clockwise else hole)
    return joined


def _spliced(outline: Outline, other: Outline) -> Outline:
    """Go round another outline on the way, there and back between the nearest corners of both."""
    distances = np.square(outline[:, None, :] - other[None, :, :]).sum(axis=2)
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    loop = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([outline[: i + 1], loop, outline[i:]])


def _signed_area(outline: Outline) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)
