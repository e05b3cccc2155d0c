"""Outlines of vector regions.

Label Studio's vectors are points that each name the one before. A stretch between two points is a cubic Bézier curve
where one of them has handles. A vector is an area only where its path is closed; Label Studio fills no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.outlines import Outline

MAX_PIECES = 100_000
"""Most straight pieces that the curves of one vector are drawn with; what needs more is refused."""

_FLATNESS = 0.1
"""Most pixels between a curve and its straight pieces."""
_HANDLE = 0.3
"""Where only one end of a stretch has a handle, the other one's lies at this fraction of the way to it."""
_EXPECTED = "expected a single closed path"
_INSTEAD = "draw the object as a polygon or with the brush"


class NoAreaError(ValueError):
    """A vector encloses nothing; the message says why, and what to do."""


def vector_outline(value: Mapping[str, Any], height: int, width: int) -> Outline:
    """Read the outline of a vector; curves become straight pieces, at most 0.1 pixels beside them.

    Args:
        value: Of the region: ``vertices`` in percent of the page, and ``closed``.
        height: Of the page, in pixels.
        width: Likewise.

    Returns:
        (N, 2) corners as x, y in pixels.

    Raises:
        NoAreaError: The path is open, branches, or falls into several parts.
        ValueError: Its corners or handles are no numbers, or its curves are endless.
    """
    vertices, joined = _along_the_path(value["vertices"])
    if value.get("closed") is not True:
        raise NoAreaError(f"its path is open; {_EXPECTED}. Close the path, or {_INSTEAD}")
    size = (width, height)
    corners = _pixels([(vertex["x"], vertex["y"]) for vertex in vertices], size)
    if not len(corners):
        return corners
    arriving, arrives = _handles(vertices, "controlPoint1", size)
    leaving, leaves = _handles(vertices, "controlPoint2", size)
    after = np.roll(corners, -1, axis=0)
    arriving, arrives = np.roll(arriving, -1, axis=0), np.roll(arrives, -1)
    if not joined:  # The last stretch goes straight back.
        leaves[-1] = arrives[-1] = False
    # Overflowing handles are found by the number of pieces, which is infinite or no number then.
    with np.errstate(over="ignore", invalid="ignore"):
        leaving = np.where(leaves[:, None], leaving, corners + _HANDLE * (after - corners))
        arriving = np.where(arrives[:, None], arriving, after - _HANDLE * (after - corners))
        return _flattened(np.stack([corners, leaving, arriving, after]), leaves | arrives)


def _along_the_path(vertices: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], bool]:
    """The vertices in the order of their path, and whether the last one is named as the one before the first.

    Raises:
        NoAreaError: They are no single path.
        ValueError: Two have one id.
    """
    ids = [vertex.get("id") or ("unnamed", i) for i, vertex in enumerate(vertices)]
    known = set(ids)
    if len(known) < len(ids):
        raise ValueError("it has corners of one id")
    followers: dict[Any, int] = {}
    starts = []
    for i, vertex in enumerate(vertices):
        # Label Studio joins a vertex that names none to the one before it in the list.
        before = vertex.get("prevPointId") or (ids[i - 1] if i else None)
        if before in followers:
            raise NoAreaError(f"its path branches; {_EXPECTED}. Delete the region and {_INSTEAD}")
        if before in known:
            followers[before] = i
        else:
            starts.append(i)
    first = starts[0] if starts else 0
    order = [first] if vertices else []
    while order and (position := followers.get(ids[order[-1]], first)) != first:
        order.append(position)
    if len(order) < len(vertices):
        raise NoAreaError(f"its path is in several parts; {_EXPECTED}. Delete the region and {_INSTEAD}")
    return [vertices[i] for i in order], not starts


def _pixels(points: Sequence[tuple[Any, Any]], size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 2) points in pixels.

    Raises:
        ValueError: A coordinate is no number.
    """
    pixels: NDArray[np.float64] = np.asarray(points, dtype=np.float64).reshape(-1, 2) * size / 100
    if not np.isfinite(pixels).all():
        raise ValueError("it has corners or handles that are not numbers")
    return pixels


def _handles(
    vertices: Sequence[Mapping[str, Any]], name: str, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One handle of each vertex: (N, 2) in pixels, and (N,) whether there is one."""
    handles = [vertex.get(name) if vertex.get("isBezier") else None for vertex in vertices]
    points = [(0.0, 0.0) if handle is None else (handle["x"], handle["y"]) for handle in handles]
    return _pixels(points, size), np.array([handle is not None for handle in handles])


def _flattened(cubics: NDArray[np.float64], curved: NDArray[np.bool_]) -> Outline:
    """The corners of straight pieces along cubic Bézier curves.

    Args:
        cubics: (4, N, 2) the start, both control points and the end of each stretch, in pixels.
        curved: (N,) whether a stretch is a curve at all.

    Raises:
        ValueError: There would be too many.
    """
    start, leaving, arriving, end = cubics
    # n pieces lie within 1 / 8 n² of the largest second derivative, which is 6 times the larger of these.
    bends = [
        np.hypot(*(a - 2 * b + c).T) for a, b, c in ((start, leaving, arriving), (leaving, arriving, end))
    ]
    needed = np.ceil(np.sqrt(0.75 * np.maximum(*bends) / _FLATNESS))
    needed = np.where(curved, np.maximum(needed, 1), 1)
    if not needed.sum() <= MAX_PIECES:
        raise ValueError(
            f"its curves need {needed.sum():.0f} straight pieces, at most {MAX_PIECES} are drawn"
        )
    pieces = needed.astype(np.int64)
    stretch = np.repeat(np.arange(len(pieces)), pieces)
    step = np.arange(len(stretch)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    t = (step / pieces[stretch])[:, None]
    u = 1 - t
    start, leaving, arriving, end = cubics[:, stretch]
    outline: Outline = u**3 * start + 3 * u**2 * t * leaving + 3 * u * t**2 * arriving + t**3 * end
    outline[step == 0] = cubics[0]  # Corners stay as they are, however far outside.
    return outline
