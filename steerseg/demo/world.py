"""Scenes of moving sprites: sampled as numbers by :func:`sample_scene`, drawn by :mod:`steerseg.demo.render`.

Sampling is plain numpy and cheap, so that worker processes can feed a GPU that does all the drawing.
Coordinates are pixels of the scene's native size, x to the right and y down; times are frame indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.backgrounds import sample_background, with_photo
from steerseg.demo.chance import between
from steerseg.demo.colours import TINTS
from steerseg.demo.motion import clearance, overtake, sample_motion, sample_path
from steerseg.demo.photos import PhotoHalf
from steerseg.demo.render import SceneBatch, collate, keyframes, render
from steerseg.demo.scene import Scene
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


@dataclass(frozen=True)
class WorldSpec:
    """The distribution of scenes. Pairs are inclusive ranges, probabilities lie in [0, 1].

    Attributes:
        sizes: Native (height, width) sizes to choose from.
        frames: Range of the number of frames.
        objects: Range of the number of objects.
        split: The objects that take part: those for training, the held-out ones, or all. In a "heldout" scene at
            least the first object is a held-out one.
        styles: Sprite styles by name.
        lookalike: Probability that a further object is of the first one's class or group.
        same_object: Of these, the share that is the very same object.
        tint: Probability that an object is tinted.
        overlap: Probability that an object may cross others.
        pan: Probability of a camera pan.
        overtaking: Probability that one object overtakes another of its kind.
        pairs: The pairs of object and tint that occur: one in eleven is kept out of "seen" scenes; in "unseen"
            scenes the first object has such a tint.
        photos: Probability that the background is a photograph.
        photo_half: The photographs of training scenes, or the held-out ones.
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
    unseen: NDArray[np.bool_] = (tint > 0) & ((sprite * 7 + tint) % 11 == 0)
    return unseen


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


def sample_scene(
    rng: np.random.Generator, spec: WorldSpec = WorldSpec(), catalogue: Catalogue | None = None
) -> Scene:
    """Draw one scene. The same generator state and spec give the same scene.

    Args:
        rng: Source of chance.
        spec: The distribution of scenes.
        catalogue: The objects; the shipped ones of ``spec.styles`` if left out.
    """
    catalogue = catalogue or load_catalogue(spec.styles)
    height, width = spec.sizes[int(rng.integers(len(spec.sizes)))]
    frames = int(rng.integers(spec.frames[0], spec.frames[1] + 1))
    count = int(rng.integers(spec.objects[0], spec.objects[1] + 1))
    time = np.linspace(0.0, 1.0, frames, dtype=np.float32)
    cast = _sample_cast(rng, spec, catalogue, count)
    scale, resized = _sample_scale(rng, count, float(np.sqrt(height * width)), time)
    centre, angle = _sample_motions(rng, spec, catalogue, cast, scale, resized, (height, width))
    pan = np.zeros((frames, 2), dtype=np.float32)
    if rng.random() < spec.pan:
        away = np.array([between(rng, -0.25, 0.25) * width, between(rng, -0.1, 0.1) * height])
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
        sprite=np.array(cast.sprites, dtype=np.int64)[order],
        style=cast.style[order].astype(np.int64),
        tint=cast.tint[order].astype(np.int64),
        flip=flip[order],
        centre=centre[order],
        scale=scale[order],
        angle=angle[order],
        pan=pan,
        background=background,
    )


@dataclass
class _Cast:
    """The objects of a scene, in the order in which they are drawn at random.

    Attributes:
        sprites: Object indices in the catalogue.
        style: (N,) index into the styles.
        tint: (N,) index into the tints.
    """

    sprites: list[int]
    style: NDArray[np.int64]
    tint: NDArray[np.int64]


def _sample_cast(rng: np.random.Generator, spec: WorldSpec, catalogue: Catalogue, count: int) -> _Cast:
    sprites = _choose_objects(rng, spec, catalogue, count)
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
    return _Cast(sprites, style, tint)


def _sample_scale(
    rng: np.random.Generator, count: int, unit: float, time: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Half sides (N, T) in pixels, and which objects (N,) grow or shrink; ``unit`` is the picture's mean side."""
    crowd = 1.0 if count <= 3 else 0.86
    side = unit * crowd * np.exp(rng.uniform(np.log(0.14), np.log(0.40), size=count))
    growth = np.ones(count)
    changing = rng.random(count) < 0.10
    growth[changing] = np.where(rng.random(int(changing.sum())) < 0.5, 1.0, -1.0) * rng.uniform(
        1.6, 2.2, size=int(changing.sum())
    )
    scale = np.zeros((count, len(time)), dtype=np.float32)
    resized = np.abs(growth) > 1
    for i in range(count):
        half = 0.5 * side[i]
        ratio = abs(float(growth[i]))
        if resized[i]:
            ramp = ratio ** (time - 0.5) if growth[i] > 0 else ratio ** (0.5 - time)
            scale[i] = half * ramp
        else:
            scale[i] = half
    return scale, resized


def _sample_motions(
    rng: np.random.Generator,
    spec: WorldSpec,
    catalogue: Catalogue,
    cast: _Cast,
    scale: Array,
    resized: NDArray[np.bool_],
    size: tuple[int, int],
) -> tuple[Array, Array]:
    """Centres (N, T, 2) and angles (N, T); an overtaking may change the cast."""
    height, width = size
    time = np.linspace(0.0, 1.0, scale.shape[1], dtype=np.float32)
    angle = np.zeros_like(scale)
    paths: list[Array] = []
    reaches: list[float] = []
    for i in range(len(scale)):
        extent = catalogue.extents[cast.style[i], cast.sprites[i]] * scale[i].max()
        reach = float(np.sqrt(extent[0] * extent[1]))
        motion = sample_motion(rng)
        needed = 0.35 if rng.random() < spec.overlap else 0.95
        best, best_gap = None, -1.0
        for _ in range(8):
            path = sample_path(rng, motion, time, width, height, (float(extent[0]), float(extent[1])))
            gap = clearance(path, reach, paths, reaches)
            if gap > best_gap:
                best, best_gap = path, gap
            if gap >= needed:
                break
        assert best is not None
        paths.append(best)
        reaches.append(reach)
        if rng.random() < 0.08 and not resized[i]:
            angle[i] = 2 * np.pi * time * between(rng, 0.8, 2.5) * (1 if rng.random() < 0.5 else -1)
        elif rng.random() < 0.4:
            angle[i] = between(rng, -0.35, 0.35)
    if rng.random() < spec.overtaking:
        if rng.random() < 0.7:
            cast.sprites[1] = cast.sprites[0]
            if spec.pairs == "seen" and unseen_pair(np.array(cast.sprites[:2]), cast.tint[:2])[1]:
                cast.tint[1] = 0
        overtake(paths, time, width, max(reaches[:2]), rng)
    return np.stack(paths), angle
