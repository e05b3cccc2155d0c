"""Box tracks as few keyframes, and keyframes as a box in every frame, in Label Studio's sense of both.

Between two keyframes Label Studio interpolates linearly. A keyframe with ``enabled: false`` is the last
visible frame of a stretch; a last keyframe with ``enabled: true`` lasts to the end; before its first keyframe
a track is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keyframe:
    """One kept frame of a track.

    Attributes:
        index: Row of the boxes that were thinned.
        enabled: ``False`` where the object is not visible afterwards.
    """

    index: int
    enabled: bool


def thin_keyframes(
    boxes: NDArray[np.float64], tolerance: float = 0.02, positions: Sequence[int] | None = None
) -> list[Keyframe]:
    """Choose keyframes from which every box can be interpolated within a tolerance.

    From each keyframe the farthest frame is taken that a straight line reaches while it passes every box
    between within the tolerance, in x, y, width and height. Both ends of every visible stretch are kept.

    Args:
        boxes: (T, 4) x, y, width, height as fractions of the frame's size; NaN rows where nothing is visible.
        tolerance: Largest deviation in any of the four, as a fraction of the frame's size.
        positions: (T,) rising frame numbers of the rows; consecutive if not given.

    Returns:
        Keyframes in order; empty where nothing is visible. A stretch up to the last row stays enabled.
    """
    times = np.arange(len(boxes)) if positions is None else np.asarray(positions)
    visible: NDArray[np.bool_] = np.logical_not(np.isnan(boxes).any(axis=1))
    keyframes: list[Keyframe] = []
    start = 0
    while start < len(boxes):
        if not visible[start]:
            start += 1
            continue
        end = start
        while end + 1 < len(boxes) and visible[end + 1]:
            end += 1
        chosen = _straight_stretches(boxes, times, start, end, tolerance)
        keyframes += [Keyframe(i, True) for i in chosen[:-1]]
        keyframes.append(Keyframe(chosen[-1], enabled=end + 1 == len(boxes)))
        start = end + 1
    return keyframes


def _straight_stretches(
    boxes: NDArray[np.float64], times: NDArray[np.int64], start: int, end: int, tolerance: float
) -> list[int]:
    chosen = [start]
    while chosen[-1] < end:
        anchor = chosen[-1]
        lowest, highest = np.full(4, -np.inf), np.full(4, np.inf)
        reached = anchor + 1
        for i in range(anchor + 1, end + 1):
            elapsed = float(times[i] - times[anchor])
            change = boxes[i] - boxes[anchor]
            slope = change / elapsed
            if np.all(lowest <= slope) and np.all(slope <= highest):
                reached = i
            # Every line from the anchor must pass this box within the tolerance to go on.
            lowest = np.maximum(lowest, (change - tolerance) / elapsed)
            highest = np.minimum(highest, (change + tolerance) / elapsed)
            if np.any(lowest > highest):
                break
        chosen.append(reached)
    return chosen


def interpolate(sequence: Sequence[Mapping[str, Any]], frames_count: int) -> NDArray[np.float64]:
    """Give a ``videorectangle``'s box in every frame, as Label Studio draws it.

    Frames count from 1. A keyframe of frame 0, which programs that count from 0 write, lies before the first frame:
    Label Studio shows its box on the way to the next one, and so does this. A keyframe beyond the count is where a
    track heads to.

    Args:
        sequence: Keyframes with ``frame`` (from 1), ``x``, ``y``, ``width``, ``height`` in percent, and
            optionally ``rotation`` in degrees and ``enabled``.
        frames_count: T.

    Returns:
        (T, 5) x, y, width, height as fractions of the frame's size, and rotation in degrees about the top
        left corner; row t is decode index t. NaN where the track is hidden.
    """
    keys = ("x", "y", "width", "height", "rotation")
    ordered = sorted(sequence, key=lambda keyframe: int(keyframe["frame"]))
    rows = np.array([[float(keyframe.get(key, 0.0)) for key in keys] for keyframe in ordered])
    boxes = np.full((frames_count, 5), np.nan)
    for i, keyframe in enumerate(ordered):
        first = int(keyframe["frame"]) - 1
        last = first  # of the stretch that the keyframe decides
        if keyframe.get("enabled", True):
            last = frames_count - 1 if i + 1 == len(ordered) else int(ordered[i + 1]["frame"]) - 2
        change = np.zeros(5)
        if i + 1 < len(ordered):
            change = (rows[i + 1] - rows[i]) / max(1, int(ordered[i + 1]["frame"]) - 1 - first)
        for t in range(max(first, 0), min(max(first, last), frames_count - 1) + 1):
            boxes[t] = rows[i] + change * (t - first)
    boxes[:, :4] /= 100
    return boxes
