"""Small drawings for pages: numbers as points of an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml_backend.proposals import StoredTracklet
from steerseg.masks import mask_area

_POINTS = 200  # of a curve: more than its width in pixels would show


@dataclass(frozen=True)
class Curve:
    """A learning curve, drawn 100 wide and 100 high with the largest value on top.

    Attributes:
        points: The value of an SVG polyline's ``points``.
        steps: How many steps there were.
        first: Loss in the beginning.
        last: Loss in the end, averaged over the last tenth.
    """

    points: str
    steps: int
    first: float
    last: float


def curve_of(losses: Sequence[float]) -> Curve | None:
    """A curve of losses, smoothed; ``None`` for fewer than two that are numbers."""
    values = np.array(losses, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    # Each step sees other examples: means over a few steps show where it goes.
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    smooth = (sums[ends] - sums[starts]) / (ends - starts)
    chosen = np.unique(np.linspace(0, len(smooth) - 1, min(_POINTS, len(smooth))).round().astype(int))
    low, high = float(smooth.min()), float(smooth.max())
    span = (high - low) or 1.0
    points = " ".join(
        f"{100 * index / (len(smooth) - 1):.1f},{100 * (high - smooth[index]) / span:.1f}" for index in chosen
    )
    tail = max(1, len(values) // 10)
    return Curve(points, len(values), float(values[:tail].mean()), float(values[-tail:].mean()))


@dataclass(frozen=True)
class Presence:
    """On which frames a tracklet is visible, drawn 1000 wide.

    Attributes:
        runs: Start and width of each run of frames that show it.
        visible: On how many frames it is.
        total: Of how many.
    """

    runs: tuple[tuple[float, float], ...]
    visible: int
    total: int


def presence_of(tracklet: StoredTracklet) -> Presence:
    """Where a tracklet is visible."""
    seen = np.array([mask_area(rle) > 0 for rle in tracklet.rles], dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]])))
    scale = 1000 / max(1, len(seen))
    runs = tuple(
        (round(float(start) * scale, 2), round(float(end - start) * scale, 2))
        for start, end in edges.reshape(-1, 2)
    )
    return Presence(runs, int(seen.sum()), len(seen))
