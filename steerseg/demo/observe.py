"""A scene's objects as a viewer describes them: position, motion, size.

Everything is decided from the frames in which an object can be seen. Where a viewer might hesitate the answer
is "unclear", and expressions avoid it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.scene import Scene, visible_fraction
from steerseg.demo.sprites import Catalogue

Array = NDArray[np.float32]

SEEN = 0.3  # visible share from which an object counts as seen in a frame
STILL = 0.03  # a path shorter than this, relative to the picture, is no motion
CLEAR = 0.10  # a displacement longer than this is one


@dataclass(frozen=True)
class Observation:
    """Arrays over N objects and T frames; lengths are relative to sqrt(height x width).

    Attributes:
        seen: (N, T) bool.
        share: (N,) share of frames in which the object is seen.
        x, y: (N, T) centre in the picture as fractions of width and height.
        size: (N,) square root of the visible area's extent.
        speed: (N,) mean speed over the seen frames, in lengths per clip.
        motion: "still", "left", "right", "up", "down", "circling", "bouncing", "back and forth" or "unclear".
        phase: "starts", "stops" or "".
        presence: "leaves", "enters", "returns" or "".
        growth: "growing", "shrinking", "" or "unclear".
        spinning: (N,) 1 yes, 0 no, -1 unclear.
        travelled: (N, T, 2) positions in the world (without the camera's pan), for "overtakes".
    """

    seen: NDArray[np.bool_]
    share: Array
    x: Array
    y: Array
    size: Array
    speed: Array
    motion: tuple[str, ...]
    phase: tuple[str, ...]
    presence: tuple[str, ...]
    growth: tuple[str, ...]
    spinning: NDArray[np.int8]
    travelled: Array


def _runs_outside(seen: NDArray[np.bool_], outside: NDArray[np.bool_]) -> str:
    """How an object comes and goes by the picture's borders."""
    if seen.all() or not seen.any():
        return ""
    frames = np.flatnonzero(seen)
    first, last = int(frames[0]), int(frames[-1])
    total = len(seen)
    early, late = first <= 0.2 * total, last >= 0.8 * total
    if early and late:
        gap = outside[first:last]
        return "returns" if gap.sum() >= 2 else ""
    if early and outside[last + 1 :].mean() > 0.7:
        return "leaves"
    if late and outside[:first].mean() > 0.7:
        return "enters"
    return ""


def _reversals(values: Array, least: float) -> int:
    """How often a path along one axis turns back by at least ``least``."""
    turns, direction, extreme = 0, 0, float(values[0])
    for value in values.tolist():
        if (direction >= 0 and value > extreme) or (direction <= 0 and value < extreme):
            if direction == 0 and abs(value - float(values[0])) > least:
                direction = 1 if value > float(values[0]) else -1
            if direction != 0 or abs(value - float(values[0])) > least:
                extreme = value
        elif direction != 0 and abs(value - extreme) > least:
            turns += 1
            direction, extreme = -direction, value
    return turns


def _classify(path: Array) -> tuple[str, str]:
    """Motion and phase of a path (n, 2) in relative lengths."""
    steps = np.diff(path, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    total = float(lengths.sum())
    extent = path.max(axis=0) - path.min(axis=0)
    if float(extent.max()) < STILL:
        return "still", ""
    whole = path[-1] - path[0]
    distance = float(np.hypot(*whole))
    if distance > 0.9 * total and distance > CLEAR:
        major, minor = (0, 1) if abs(whole[0]) >= abs(whole[1]) else (1, 0)
        if abs(whole[minor]) > 0.45 * abs(whole[major]):
            return "unclear", ""
        name = (("left", "right"), ("up", "down"))[major][int(whole[major] > 0)]
        part = max(1, len(lengths) * 3 // 10)
        head, tail = float(lengths[:part].sum()) / total, float(lengths[-part:].sum()) / total
        phase = "starts" if head < 0.03 <= tail else "stops" if tail < 0.03 <= head else ""
        if not phase and (head < 0.12 or tail < 0.12):
            return "unclear", ""
        return name, phase
    moving = steps[lengths > 1e-4]
    if len(moving) < 6:
        return "unclear", ""
    heading = np.unwrap(np.arctan2(moving[:, 1], moving[:, 0]))
    turned = np.diff(heading)
    if abs(float(turned.sum())) > 1.6 * np.pi and float(np.abs(turned).max()) < 1.2:
        steady = float(np.abs(turned.sum())) / max(float(np.abs(turned).sum()), 1e-6)
        if steady > 0.9 and extent.min() > 0.5 * extent.max():
            return "circling", ""
    least = max(0.03, 0.12 * float(extent.max()))
    reversals = [_reversals(path[:, axis], least) if extent[axis] > 0.06 else 0 for axis in (0, 1)]
    if extent.min() < 0.2 * extent.max() and max(reversals) >= 2:
        return "back and forth", ""
    if min(extent) > 0.1 and sum(reversals) >= 2 and min(reversals) >= 1:
        return "bouncing", ""
    return "unclear", ""


@dataclass(frozen=True)
class _ObjectView:
    """The entries of one object in an :class:`Observation`."""

    motion: str
    phase: str
    presence: str
    growth: str
    spinning: int
    size: float
    speed: float


def _growth(scale: Array) -> str:
    """How the size changes over the frames in which an object is seen, (n,)."""
    quarter = max(1, len(scale) // 4)
    ratio = float(scale[-quarter:].mean() / scale[:quarter].mean())
    if ratio > 1.25:
        return "growing"
    if ratio < 0.8:
        return "shrinking"
    return "" if 0.95 < ratio < 1.05 else "unclear"


def _observe_object(
    scene: Scene, i: int, seen: NDArray[np.bool_], outside: NDArray[np.bool_], world: Array, extent: Array
) -> _ObjectView:
    """Look at one object.

    Args:
        scene: The scene.
        i: Index of the object.
        seen: (T,) whether it is seen.
        outside: (T,) whether it reaches beyond the picture.
        world: (T, 2) its positions in the world, in relative lengths.
        extent: (2,) half width and half height of its sprite.
    """
    at = np.flatnonzero(seen)
    presence = _runs_outside(seen, outside)
    if len(at) < 4:
        return _ObjectView("unclear", "", presence, "unclear", spinning=-1, size=0.0, speed=0.0)
    path = world[at]
    motion, phase = ("unclear", "") if presence == "returns" else _classify(path)
    if presence:
        phase = ""  # it is cut by the border, not at rest
    unit = float(np.sqrt(scene.height * scene.width))
    travelled = float(np.hypot(*np.diff(path, axis=0).T).sum())
    turn = float(np.abs(scene.angle[i, at[-1]] - scene.angle[i, at[0]]))
    return _ObjectView(
        motion=motion,
        phase=phase,
        presence=presence,
        growth=_growth(scene.scale[i, at]),
        spinning=1 if turn > np.pi else 0 if turn < 0.3 else -1,
        size=np.sqrt(extent.prod()) * scene.scale[i, at].mean() * 2 / unit,
        speed=travelled * (scene.num_frames - 1) / max(1, int(at[-1] - at[0])),
    )


def observe(scene: Scene, catalogue: Catalogue) -> Observation:
    """Look at a scene."""
    seen = visible_fraction(scene, catalogue) > SEEN
    unit = float(np.sqrt(scene.height * scene.width))
    extent = catalogue.extents[scene.style, scene.sprite]
    world = (scene.centre + scene.pan) / unit
    half = extent.max(axis=1)[:, None] * scene.scale * 0.5
    outside = (
        (scene.centre[..., 0] < half)
        | (scene.centre[..., 0] > scene.width - half)
        | (scene.centre[..., 1] < half)
        | (scene.centre[..., 1] > scene.height - half)
    )
    views = [
        _observe_object(scene, i, seen[i], outside[i], world[i], extent[i]) for i in range(scene.num_objects)
    ]
    return Observation(
        seen=seen,
        share=seen.mean(axis=1, dtype=np.float32),
        x=(scene.centre[..., 0] / scene.width).astype(np.float32),
        y=(scene.centre[..., 1] / scene.height).astype(np.float32),
        size=np.array([view.size for view in views], dtype=np.float32),
        speed=np.array([view.speed for view in views], dtype=np.float32),
        motion=tuple(view.motion for view in views),
        phase=tuple(view.phase for view in views),
        presence=tuple(view.presence for view in views),
        growth=tuple(view.growth for view in views),
        spinning=np.array([view.spinning for view in views], dtype=np.int8),
        travelled=world,
    )
