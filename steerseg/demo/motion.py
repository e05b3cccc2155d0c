"""Paths of sprites: sampled for one kind of motion, kept clear of others, rewritten for an overtaking.

Coordinates are pixels of the scene's native size, x to the right and y down; ``time`` runs over [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.chance import between

Array = NDArray[np.float32]

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}

MOTIONS: dict[str, float] = {
    "still": 0.22,
    "slow": 0.17,
    "fast": 0.17,
    "circling": 0.10,
    "bouncing": 0.08,
    "back and forth": 0.07,
    "starts": 0.05,
    "stops": 0.05,
    "leaves": 0.03,
    "enters": 0.03,
    "returns": 0.03,
}
"""Kind of path → how often it is drawn."""

_MOTION_NAMES = tuple(MOTIONS)
_MOTION_SHARES = np.cumsum(list(MOTIONS.values())) / sum(MOTIONS.values())
_CROSSING = ("leaves", "enters", "returns")


def sample_motion(rng: np.random.Generator) -> str:
    """A kind of path, drawn by :data:`MOTIONS`."""
    return _MOTION_NAMES[int(np.searchsorted(_MOTION_SHARES, rng.random()))]


@dataclass(frozen=True)
class _Bounds:
    """Limits of the centre of an object that stays in the picture.

    Attributes:
        width: Of the picture.
        height: Of the picture.
        size: (2,) width and height.
        half: (2,) half extents of the object, at most 0.45 of the picture.
        low: (2,) least x and y with the object inside.
        high: (2,) largest x and y with the object inside.
    """

    width: int
    height: int
    size: Array
    half: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, width: int, height: int, reach: tuple[float, float]) -> _Bounds:
        """The bounds of an object with half extents ``reach``."""
        size = np.array([width, height], dtype=np.float32)
        half = np.minimum(np.array(reach, dtype=np.float32), size * 0.45)
        return cls(width, height, size, half, half, size - half)


def sample_path(
    rng: np.random.Generator, motion: str, time: Array, width: int, height: int, reach: tuple[float, float]
) -> Array:
    """One path (T, 2) of an object with half extents ``reach`` over ``time`` in [0, 1]."""
    bounds = _Bounds.of(width, height, reach)
    start = (bounds.low + (bounds.high - bounds.low) * rng.random(2)).astype(np.float32)
    if motion == "still":
        return np.broadcast_to(start, (len(time), 2)).copy()
    if motion == "circling":
        return _circle(rng, time, bounds, start)
    if motion == "bouncing":
        return _bounce(rng, time, bounds, start)
    name = tuple(DIRECTIONS)[int(rng.integers(4))]
    if motion == "back and forth":
        return _swing(rng, time, bounds, start, axis=0 if name in ("left", "right") else 1)
    way = np.array(DIRECTIONS[name], dtype=np.float32)
    if motion in _CROSSING:
        return _cross_border(rng, motion, time, bounds, start, way)
    return _travel(rng, motion, time, bounds, start, way)


def _circle(rng: np.random.Generator, time: Array, bounds: _Bounds, start: Array) -> Array:
    size, low, high = bounds.size, bounds.low, bounds.high
    shorter = min(bounds.width, bounds.height)
    room = float(np.min(np.minimum(size / 2, (high - low) / 2)))
    radius = max(min(between(rng, 0.12, 0.28) * shorter, room), 0.06 * shorter)
    centre = np.clip(start, low + radius, np.maximum(high - radius, low + radius))
    turns = between(rng, 1.0, 2.4) * (1 if rng.random() < 0.5 else -1)
    angle = 2 * np.pi * (turns * time + rng.random())
    path: Array = (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
    return path


def _bounce(rng: np.random.Generator, time: Array, bounds: _Bounds, start: Array) -> Array:
    low, high = bounds.low, bounds.high
    signs = np.where(rng.random(2) < 0.5, -1.0, 1.0)
    travel = signs * (high - low) * np.array([between(rng, 1.2, 2.4), between(rng, 1.6, 3.2)])
    line = start + time[:, None] * travel
    return np.stack(
        [_triangle(line[:, axis], float(low[axis]), float(high[axis])) for axis in (0, 1)], axis=1
    ).astype(np.float32)


def _triangle(position: Array, low: float, high: float) -> Array:
    """Fold a straight line into [low, high], as a ball bounces between walls."""
    span = max(high - low, 1e-3)
    phase = np.mod(position - low, 2 * span)
    return (low + np.where(phase > span, 2 * span - phase, phase)).astype(np.float32)


def _swing(rng: np.random.Generator, time: Array, bounds: _Bounds, start: Array, axis: int) -> Array:
    low, high = bounds.low, bounds.high
    swing = np.zeros(2, dtype=np.float32)
    swing[axis] = min(between(rng, 0.14, 0.28) * bounds.size[axis], (high - low)[axis] / 2)
    centre = np.clip(start, low + swing, high - swing)
    wave = np.sin(2 * np.pi * (between(rng, 1.4, 2.8) * time + rng.random()))
    path: Array = (centre + wave[:, None] * swing).astype(np.float32)
    return path


def _cross_border(
    rng: np.random.Generator, motion: str, time: Array, bounds: _Bounds, start: Array, way: Array
) -> Array:
    """A path that leaves the picture, enters it, or leaves and returns."""
    axis = 0 if way[0] else 1
    size, half = bounds.size, bounds.half
    # The part of the way that ends outside: `inside` from the border, then the sprite's own length.
    inside = between(rng, 0.3, 0.7) * size[axis]
    distance = inside + 2.2 * float(half[axis])
    leave, back = between(rng, 0.3, 0.42), between(rng, 0.58, 0.7)
    if motion == "returns":
        progress = np.clip(time / leave, 0, 1) - np.clip((time - back) / (1 - back), 0, 1)
    elif motion == "leaves":
        progress = np.clip(time / 0.65, 0, 1)
    else:
        progress = np.clip((time - 0.35) / 0.65, 0, 1)
    if motion == "enters":
        border = 0.0 if way[axis] > 0 else size[axis]
        start[axis] = border - way[axis] * 1.1 * half[axis]
    else:
        border = size[axis] if way[axis] > 0 else 0.0
        start[axis] = border + way[axis] * 1.1 * half[axis] - way[axis] * distance
    path: Array = (start + way * (distance * progress)[:, None]).astype(np.float32)
    return path


def _travel(
    rng: np.random.Generator, motion: str, time: Array, bounds: _Bounds, start: Array, way: Array
) -> Array:
    """A straight path with a little drift that stays inside the picture."""
    axis = 0 if way[0] else 1
    low, high = bounds.low, bounds.high
    distance, progress = _advance(rng, motion, time, length=bounds.size[axis], room=float((high - low)[axis]))
    if way[axis] > 0:
        start[axis] = between(rng, float(low[axis]), max(float(low[axis]), float(high[axis]) - distance))
    else:
        start[axis] = between(rng, min(float(high[axis]), float(low[axis]) + distance), float(high[axis]))
    drift = np.zeros(2, dtype=np.float32)
    drift[1 - axis] = between(rng, -0.12, 0.12) * distance
    end = np.clip(start + drift, low, high)
    path: Array = (start + (end - start) * progress[:, None] + way * (distance * progress)[:, None]).astype(
        np.float32
    )
    return path


def _advance(
    rng: np.random.Generator, motion: str, time: Array, *, length: float, room: float
) -> tuple[float, Array]:
    """Length of a straight path, and the share of it that is done at each time.

    Args:
        rng: Source of chance.
        motion: "slow", "fast", "starts" or "stops".
        time: (T,) in [0, 1].
        length: Of the picture along the path.
        room: The part of it within the bounds.
    """
    if motion == "slow":
        return min(between(rng, 0.16, 0.28) * length, room), time
    if motion == "fast":
        return max(between(rng, 0.75, 1.0) * room, 0.3 * length), time
    distance = max(between(rng, 0.5, 0.9) * room, 0.25 * length)
    turn = between(rng, 0.4, 0.6)
    if motion == "starts":
        return distance, np.clip((time - turn) / (1 - turn), 0, 1)
    return distance, np.clip(time / turn, 0, 1)


def clearance(path: Array, reach: float, others: Sequence[Array], reaches: Sequence[float]) -> float:
    """Smallest distance to another object over time, relative to the sum of both radii."""
    least = np.inf
    for other, radius in zip(others, reaches, strict=True):
        gap = np.sqrt(((path - other) ** 2).sum(axis=1)).min() / (reach + radius)
        least = min(least, float(gap))
    return least


def overtake(paths: list[Array], time: Array, width: int, reach: float, rng: np.random.Generator) -> None:
    """Rewrite the first two paths so that the first overtakes the second, both going left or right."""
    height_gap = float(abs(paths[0][0, 1] - paths[1][0, 1]))
    low, high = reach, width - reach
    span = high - low
    fast = low + span * time * between(rng, 0.85, 1.0)
    slow = low + span * (between(rng, 0.25, 0.35) + between(rng, 0.15, 0.25) * time)
    if rng.random() < 0.5:
        fast, slow = width - fast, width - slow
    first, second = float(paths[0][0, 1]), float(paths[1][0, 1])
    if height_gap < 1.2 * reach:
        second = first + 1.4 * reach if first < second else first - 1.4 * reach
    paths[0] = np.stack([fast, np.full_like(time, first)], axis=1).astype(np.float32)
    paths[1] = np.stack([slow, np.full_like(time, second)], axis=1).astype(np.float32)
