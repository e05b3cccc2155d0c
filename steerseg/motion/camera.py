"""How far a moving camera shifts the background between keyframes (our choice)."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from steerseg.motion.pictures import small_sides

Array = NDArray[np.float64]

_CELLS = 8  # a picture is as many cells high and wide; corners are taken from each
_CORNERS = 4  # most corners of a cell
_FOUND_AGAIN = 0.5  # pixels by which a corner that is followed there and back may be off
_NEAR = 1.0  # pixels by which corners of the background may move differently
_LEAST_CELLS = 0.3  # of all cells: the background's corners lie in as many, and an object's in fewer
_LEAST_SHARE = 0.4  # of all corners


def background_shifts(frames: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> Array:
    """How far the background has moved since the first frame.

    Corners are followed from frame to frame. Where most of them, in many parts of the picture, move alike, that is
    the background's motion. Elsewhere it counts as at rest, as where a plain background has no corners.

    Args:
        frames: (K, H, W, 3) uint8 RGB, in their order.
        hidden: (K, h, w) bool, where objects are; no corner is taken from there.

    Returns:
        (K, 2) along x and y, in widths and heights of the frame; 0 for the first frame.
    """
    sides = small_sides(frames.shape)
    pictures = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), sides, interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    shifts = np.zeros((len(frames), 2))
    for k in range(1, len(frames)):
        objects = cv2.resize(hidden[k - 1].astype(np.uint8), sides, interpolation=cv2.INTER_NEAREST)
        background = 1 - cv2.dilate(objects, np.ones((9, 9), dtype=np.uint8))
        shifts[k] = shifts[k - 1] + _shift(pictures[k - 1], pictures[k], background) / sides
    return shifts


def _shift(before: NDArray[np.uint8], after: NDArray[np.uint8], background: NDArray[np.uint8]) -> Array:
    """(2,) pixels by which most corners move; 0 where no motion is that of most."""
    corners = _corners(before, background)
    if not len(corners):
        return np.zeros(2)
    moved, forth, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(21, 21), maxLevel=3)
    returned, back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, winSize=(21, 21), maxLevel=3)
    kept = (forth & back)[:, 0].astype(bool)
    kept &= np.linalg.norm(returned - corners, axis=2)[:, 0] < _FOUND_AGAIN
    if not kept.any():
        return np.zeros(2)
    places, ways = corners[kept, 0], (moved - corners)[kept, 0]
    alike = np.linalg.norm(ways[:, None] - ways[None], axis=2) < _NEAR
    most = alike[alike.sum(axis=1).argmax()]
    cells = {tuple(cell) for cell in (places[most] * _CELLS // (before.shape[1], before.shape[0])).tolist()}
    if most.mean() < _LEAST_SHARE or len(cells) < _LEAST_CELLS * _CELLS**2:
        return np.zeros(2)
    return np.asarray(np.median(ways[most], axis=0), dtype=np.float64)


def _corners(picture: NDArray[np.uint8], background: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(C, 1, 2) corners in pixels, from every cell of a picture."""
    height, width = picture.shape
    found = []
    for top, bottom in _parts(height):
        for left, right in _parts(width):
            cell = np.s_[top:bottom, left:right]
            corners = cv2.goodFeaturesToTrack(
                picture[cell], _CORNERS, 0.05, 3, mask=np.ascontiguousarray(background[cell])
            )
            if corners is not None:
                found.append(corners + np.array([left, top], dtype=np.float32))
    return np.concatenate(found) if found else np.zeros((0, 1, 2), dtype=np.float32)


def _parts(length: int) -> list[tuple[int, int]]:
    """A length in pixels, in as many parts as there are cells."""
    ends = [length * i // _CELLS for i in range(_CELLS + 1)]
    return list(pairwise(ends))
