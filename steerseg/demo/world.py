"""Scenes of moving sprites: sampled as numbers by :func:`sample_scene`, drawn by :mod:`steerseg.demo.render`.

Sampling is plain numpy and cheap, so that worker processes can feed a GPU that does all the drawing.
Coordinates are pixels of the scene's native size, x to the right and y down; times are frame indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.colours import TINTS
from steerseg.demo.photos import VIEW, PhotoHalf, photo_views
from steerseg.demo.render import SceneBatch, collate, keyframes, render
from steerseg.demo.scene import BLOBS, OCTAVES, Background, Scene
from steerseg.demo.sprites import STYLES, Catalogue, load_catalogue

__all__ = [
    "Scene",
    "SceneBatch",
    "WorldSpec",
    "collate",
    "keyframes",
    "render",
    "sample_scene",
    "unseen_pair",
]

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


@dataclass(frozen=True)
class WorldSpec:
    """What scenes are like. Pairs are inclusive ranges, probabilities lie in [0, 1].

    Attributes:
        sizes: Native (height, width) sizes to choose from.
        frames: Range of the number of frames.
        objects: Range of the number of objects.
        split: Which objects take part: those for training, the held-out ones, or all. In a "heldout" scene at
            least the first object is a held-out one.
        styles: Sprite styles by name.
        lookalike: Probability that a further object is of the first one's class or group.
        same_object: Of these, the share that is the very same object.
        tint: Probability that an object is tinted.
        overlap: Probability that an object may cross others.
        pan: Probability of a camera pan.
        overtaking: Probability that one object overtakes another of its kind.
        pairs: Which pairs of object and tint occur: one in eleven is kept out of "seen" scenes; in "unseen"
            scenes the first object has such a tint.
        photos: Probability that the background is a photograph.
        photo_half: Which photographs: those of training scenes, or the held-out ones.
    """

    sizes: tuple[tuple[int, int], ...] = ((270, 480),)
    frames: tuple[int, int] = (24, 48)
    objects: tuple[int, int] = (2, 5)
    split: Literal["train", "heldout", "all"] = "train"
    styles: tuple[str, ...] = STYLES
    lookalike: float = 0.45
    same_object: float = 0.5
    tint: float = 0.55
    overlap: float = 0.25
    pan: float = 0.15
    overtaking: float = 0.04
    pairs: Literal["seen", "any", "unseen"] = "seen"
    photos: float = 0.0
    photo_half: PhotoHalf = "train"


VARIED_SIZES = ((270, 480), (270, 480), (270, 480), (360, 480), (384, 384), (480, 270), (288, 512))
"""Mostly 16:9, with 4:3, square and portrait: for training and the test splits."""


@dataclass(frozen=True)
class _Pools:
    """Object indices to draw from."""

    any: NDArray[np.intp]
    first: NDArray[np.intp]
    by_group: dict[str, NDArray[np.intp]] = field(repr=False)


_POOLS: dict[tuple[str, tuple[str, ...]], _Pools] = {}


def _pools(catalogue: Catalogue, split: str) -> _Pools:
    key = (split, catalogue.names)
    if key not in _POOLS:
        everything = np.arange(len(catalogue.names))
        known = everything if split != "train" else everything[~catalogue.heldout]
        first = everything[catalogue.heldout] if split == "heldout" else known
        groups = np.array(catalogue.groups)
        _POOLS[key] = _Pools(known, first, {g: known[groups[known] == g] for g in set(catalogue.groups)})
    return _POOLS[key]


def unseen_pair(sprite: NDArray[np.int64], tint: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a pair of object and tint is kept for the "unseen compositions" split."""
    return (tint > 0) & ((sprite * 7 + tint) % 11 == 0)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _choose_objects(rng: np.random.Generator, spec: WorldSpec, catalogue: Catalogue, count: int) -> list[int]:
    pools = _pools(catalogue, spec.split)
    first = int(pools.first[rng.integers(len(pools.first))])
    chosen = [first]
    while len(chosen) < count:
        pool = pools.any
        if rng.random() < spec.lookalike:
            if rng.random() < spec.same_object:
                chosen.append(first)
                continue
            group = pools.by_group[catalogue.groups[first]]
            pool = group if len(group) else pool
        chosen.append(int(pool[rng.integers(len(pool))]))
    return chosen


def _triangle(position: Array, low: float, high: float) -> Array:
    """Fold a straight line into [low, high], as a ball bounces between walls."""
    span = max(high - low, 1e-3)
    phase = np.mod(position - low, 2 * span)
    return (low + np.where(phase > span, 2 * span - phase, phase)).astype(np.float32)


def _path(
    rng: np.random.Generator, motion: str, time: Array, width: int, height: int, reach: tuple[float, float]
) -> Array:
    """One path (T, 2) of an object with half extents ``reach`` over ``time`` in [0, 1]."""
    size = np.array([width, height], dtype=np.float32)
    half = np.minimum(np.array(reach, dtype=np.float32), size * 0.45)
    low, high = half, size - half
    start = (low + (high - low) * rng.random(2)).astype(np.float32)
    if motion == "still":
        return np.broadcast_to(start, (len(time), 2)).copy()
    if motion == "circling":
        room = float(np.min(np.minimum(size / 2, (high - low) / 2)))
        radius = max(min(_between(rng, 0.12, 0.28) * min(width, height), room), 0.06 * min(width, height))
        centre = np.clip(start, low + radius, np.maximum(high - radius, low + radius))
        turns = _between(rng, 1.0, 2.4) * (1 if rng.random() < 0.5 else -1)
        angle = 2 * np.pi * (turns * time + rng.random())
        return (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
    if motion == "bouncing":
        signs = np.where(rng.random(2) < 0.5, -1.0, 1.0)
        travel = signs * (high - low) * np.array([_between(rng, 1.2, 2.4), _between(rng, 1.6, 3.2)])
        line = start + time[:, None] * travel
        return np.stack(
            [_triangle(line[:, axis], float(low[axis]), float(high[axis])) for axis in (0, 1)], axis=1
        ).astype(np.float32)
    name = ("left", "right", "up", "down")[int(rng.integers(4))]
    if motion == "back and forth":
        axis = 0 if name in ("left", "right") else 1
        swing = np.zeros(2, dtype=np.float32)
        swing[axis] = min(_between(rng, 0.14, 0.28) * size[axis], (high - low)[axis] / 2)
        centre = np.clip(start, low + swing, high - swing)
        wave = np.sin(2 * np.pi * (_between(rng, 1.4, 2.8) * time + rng.random()))
        return (centre + wave[:, None] * swing).astype(np.float32)

    way = np.array(DIRECTIONS[name], dtype=np.float32)
    axis = 0 if way[0] else 1
    room = float((high - low)[axis])
    if motion == "slow":
        distance, progress = min(_between(rng, 0.16, 0.28) * size[axis], room), time
    elif motion == "fast":
        distance, progress = max(_between(rng, 0.75, 1.0) * room, 0.3 * size[axis]), time
    elif motion in ("starts", "stops"):
        distance = max(_between(rng, 0.5, 0.9) * room, 0.25 * size[axis])
        turn = _between(rng, 0.4, 0.6)
        progress = (
            np.clip((time - turn) / (1 - turn), 0, 1) if motion == "starts" else np.clip(time / turn, 0, 1)
        )
    else:
        # The part of the way that ends outside: `inside` from the border, then the sprite's own length.
        inside = _between(rng, 0.3, 0.7) * size[axis]
        distance = inside + 2.2 * float(half[axis])
        leave, back = _between(rng, 0.3, 0.42), _between(rng, 0.58, 0.7)
        if motion == "returns":
            progress = np.clip(time / leave, 0, 1) - np.clip((time - back) / (1 - back), 0, 1)
        else:
            progress = (
                np.clip(time / 0.65, 0, 1) if motion == "leaves" else np.clip((time - 0.35) / 0.65, 0, 1)
            )
        border = size[axis] if way[axis] > 0 else 0.0
        outside = border + way[axis] * 1.1 * half[axis]
        if motion == "enters":
            border = 0.0 if way[axis] > 0 else size[axis]
            outside = border - way[axis] * 1.1 * half[axis]
            start[axis] = outside
        else:
            start[axis] = outside - way[axis] * distance
        path = start + way * (distance * progress)[:, None]
        return path.astype(np.float32)
    # Keep the whole way inside the picture.
    if way[axis] > 0:
        start[axis] = _between(rng, float(low[axis]), max(float(low[axis]), float(high[axis]) - distance))
    else:
        start[axis] = _between(rng, min(float(high[axis]), float(low[axis]) + distance), float(high[axis]))
    drift = np.zeros(2, dtype=np.float32)
    drift[1 - axis] = _between(rng, -0.12, 0.12) * distance
    end = np.clip(start + drift, low, high)
    return (start + (end - start) * progress[:, None] + way * (distance * progress)[:, None]).astype(
        np.float32
    )


def _clearance(path: Array, reach: float, others: list[Array], reaches: list[float]) -> float:
    """Smallest distance to another object over time, relative to the sum of both radii."""
    least = np.inf
    for other, radius in zip(others, reaches, strict=True):
        gap = np.sqrt(((path - other) ** 2).sum(axis=1)).min() / (reach + radius)
        least = min(least, float(gap))
    return least


def _random_colour(rng: np.random.Generator) -> Array:
    """An RGB in [0, 1], mostly of moderate saturation."""
    hue, saturation, value = rng.random() * 6, rng.random() ** 1.5 * 0.75, _between(rng, 0.15, 0.95)
    shade = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation + saturation * shade)).astype(np.float32)


def sample_background(rng: np.random.Generator) -> Background:
    """A gradient with, at random, noise of several octaves, stripes and blobs."""
    noise_on, stripes_on, blobs_on = rng.random() < 0.75, rng.random() < 0.25, rng.random() < 0.3
    roughness = _between(rng, 0.35, 0.85)
    weights = roughness ** np.arange(len(OCTAVES)) * (rng.random(len(OCTAVES)) < 0.8)
    weights = weights / max(float(weights.sum()), 1e-6)
    angle, stripe_angle = rng.random(2) * 2 * np.pi
    colours = np.stack([_random_colour(rng) for _ in range(4)])
    if rng.random() < 0.5:  # related colours: a calmer picture
        colours = colours[:1] + (colours - colours[:1]) * _between(rng, 0.15, 0.5)
    return Background(
        colours=colours.astype(np.float32),
        gradient=np.array([np.cos(angle), np.sin(angle), _between(rng, 0.0, 1.2)], dtype=np.float32),
        noise=rng.integers(-127, 128, sum(n * n for n in OCTAVES), dtype=np.int8),
        noise_weights=weights.astype(np.float32),
        noise_amount=np.float32(_between(rng, 0.3, 1.6) if noise_on else 0.0),
        stripes=np.array(
            [
                np.cos(stripe_angle),
                np.sin(stripe_angle),
                _between(rng, 2, 14),
                _between(rng, 1, 8),
                _between(rng, 0.2, 0.8) if stripes_on else 0.0,
                _between(rng, 0, 6),
            ],
            dtype=np.float32,
        ),
        blobs=np.concatenate(
            [
                rng.random((BLOBS, 2)) * 1.5,
                0.03 + 0.2 * rng.random((BLOBS, 1)) ** 2,
                (rng.random((BLOBS, 1)) < 0.7) * _between(rng, 0.3, 0.9) * float(blobs_on),
                rng.random((BLOBS, 3)),
            ],
            axis=1,
        ).astype(np.float32),
    )


def with_photo(
    background: Background, rng: np.random.Generator, half: PhotoHalf, size: tuple[int, int], pan: Array
) -> Background:
    """The background with a random part of a random photograph in front of its gradient and noise.

    Args:
        background: What is there already. Its stripes and blobs mostly go, and sometimes stay on top.
        rng: Source of chance.
        half: Which photographs to choose from.
        size: Height and width of the scene in pixels.
        pan: (T, 2) the camera's way in pixels; what it shows is part of the photograph.
    """
    height, width = size
    views = photo_views(half)
    index = views[rng.integers(len(views))]
    # `room` is how many frame sizes the camera sees in all; the resting picture is in their middle.
    room = 1 + 2 * np.abs(pan).max(axis=0) / (width, height)
    largest = min(VIEW[1] / room[0], VIEW[0] / room[1] * width / height)  # columns of the view
    across = _between(rng, 0.7, 1.0) * largest
    part = np.array([across / VIEW[1], across * height / width / VIEW[0]])
    low = (room - 1) / 2 * part
    left, top = low + rng.random(2) * np.maximum(1 - room * part, 0)
    mirrored = rng.random() < 0.5
    window = (left + part[0], top, -part[0], part[1]) if mirrored else (left, top, part[0], part[1])
    opacity = 1.0 if rng.random() < 0.65 else _between(rng, 0.5, 1.0)
    look = (float(np.exp(_between(rng, np.log(0.6), np.log(1.35)))), opacity)
    stripes, blobs = background.stripes.copy(), background.blobs.copy()
    if rng.random() < 0.75:
        stripes[4] = 0.0
        blobs[:, 3] = 0.0
    return replace(
        background,
        stripes=stripes,
        blobs=blobs,
        photo=int(index),
        photo_window=np.array(window, dtype=np.float32),
        photo_look=np.array(look, dtype=np.float32),
    )


def _overtake(paths: list[Array], time: Array, width: int, reach: float, rng: np.random.Generator) -> None:
    """Rewrite the first two paths so that the first overtakes the second, both going left or right."""
    height_gap = float(abs(paths[0][0, 1] - paths[1][0, 1]))
    low, high = reach, width - reach
    span = high - low
    fast = low + span * time * _between(rng, 0.85, 1.0)
    slow = low + span * (_between(rng, 0.25, 0.35) + _between(rng, 0.15, 0.25) * time)
    if rng.random() < 0.5:
        fast, slow = width - fast, width - slow
    first, second = float(paths[0][0, 1]), float(paths[1][0, 1])
    if height_gap < 1.2 * reach:
        second = first + 1.4 * reach if first < second else first - 1.4 * reach
    paths[0] = np.stack([fast, np.full_like(time, first)], axis=1).astype(np.float32)
    paths[1] = np.stack([slow, np.full_like(time, second)], axis=1).astype(np.float32)


def sample_scene(
    rng: np.random.Generator, spec: WorldSpec = WorldSpec(), catalogue: Catalogue | None = None
) -> Scene:
    """Draw one scene. The same generator state and spec give the same scene.

    Args:
        rng: Source of chance.
        spec: What scenes are like.
        catalogue: The objects; the shipped ones of ``spec.styles`` if left out.
    """
    catalogue = catalogue or load_catalogue(spec.styles)
    height, width = spec.sizes[int(rng.integers(len(spec.sizes)))]
    frames = int(rng.integers(spec.frames[0], spec.frames[1] + 1))
    count = int(rng.integers(spec.objects[0], spec.objects[1] + 1))
    sprites = _choose_objects(rng, spec, catalogue, count)
    unit = float(np.sqrt(height * width))
    time = np.linspace(0.0, 1.0, frames, dtype=np.float32)

    style = rng.integers(len(spec.styles), size=count)
    tint = np.where(rng.random(count) < spec.tint, rng.integers(1, len(TINTS), size=count), 0)
    kept_out = unseen_pair(np.array(sprites), tint)
    if spec.pairs == "seen":
        tint = np.where(kept_out, 0, tint)
    elif spec.pairs == "unseen":
        # Of seven tints at most one makes such a pair; where there is none the scene stays as it is.
        for candidate in range(1, len(TINTS)):
            if unseen_pair(np.array(sprites[:1]), np.array([candidate]))[0]:
                tint[0] = candidate
    crowd = 1.0 if count <= 3 else 0.86
    side = unit * crowd * np.exp(rng.uniform(np.log(0.14), np.log(0.40), size=count))
    growth = np.ones(count)
    changing = rng.random(count) < 0.10
    growth[changing] = np.where(rng.random(int(changing.sum())) < 0.5, 1.0, -1.0) * rng.uniform(
        1.6, 2.2, size=int(changing.sum())
    )

    centre = np.zeros((count, frames, 2), dtype=np.float32)
    scale = np.zeros((count, frames), dtype=np.float32)
    angle = np.zeros((count, frames), dtype=np.float32)
    paths: list[Array] = []
    reaches: list[float] = []
    motions: list[str] = []
    for i in range(count):
        half = 0.5 * side[i]
        ratio = abs(float(growth[i]))
        if ratio > 1:
            ramp = ratio ** (time - 0.5) if growth[i] > 0 else ratio ** (0.5 - time)
            scale[i] = half * ramp
        else:
            scale[i] = half
        extent = catalogue.extents[style[i], sprites[i]] * scale[i].max()
        reach = float(np.sqrt(extent[0] * extent[1]))
        motion = _MOTION_NAMES[int(np.searchsorted(_MOTION_SHARES, rng.random()))]
        needed = 0.35 if rng.random() < spec.overlap else 0.95
        best, best_gap = None, -1.0
        for _ in range(8):
            path = _path(rng, motion, time, width, height, (float(extent[0]), float(extent[1])))
            gap = _clearance(path, reach, paths, reaches)
            if gap > best_gap:
                best, best_gap = path, gap
            if gap >= needed:
                break
        assert best is not None
        paths.append(best)
        reaches.append(reach)
        motions.append(motion)
        if rng.random() < 0.08 and ratio == 1:
            angle[i] = 2 * np.pi * time * _between(rng, 0.8, 2.5) * (1 if rng.random() < 0.5 else -1)
        elif rng.random() < 0.4:
            angle[i] = _between(rng, -0.35, 0.35)
    if rng.random() < spec.overtaking:
        if rng.random() < 0.7:
            sprites[1] = sprites[0]
            if spec.pairs == "seen" and unseen_pair(np.array(sprites[:2]), tint[:2])[1]:
                tint[1] = 0
        _overtake(paths, time, width, max(reaches[:2]), rng)
    for i, path in enumerate(paths):
        centre[i] = path

    pan = np.zeros((frames, 2), dtype=np.float32)
    if rng.random() < spec.pan:
        away = np.array([_between(rng, -0.25, 0.25) * width, _between(rng, -0.1, 0.1) * height])
        pan = (away * (time - 0.5)[:, None]).astype(np.float32)
        centre = centre - pan
    order = rng.permutation(count)  # the drawing order must not tell what was drawn first
    flip = rng.random(count) < 0.5
    background = sample_background(rng)
    # Last, so that a world without photographs draws what it drew before there were any.
    if spec.photos and rng.random() < spec.photos:
        background = with_photo(background, rng, spec.photo_half, (height, width), pan)
    return Scene(
        height=height,
        width=width,
        fps=12.0,
        styles=spec.styles,
        sprite=np.array(sprites, dtype=np.int64)[order],
        style=style[order].astype(np.int64),
        tint=tint[order].astype(np.int64),
        flip=flip[order],
        centre=centre[order],
        scale=scale[order],
        angle=angle[order],
        pan=pan,
        background=background,
    )
