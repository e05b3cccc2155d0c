"""A scene as numbers, and what can be seen of its objects."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.sprites import Catalogue

Array = NDArray[np.float32]

OCTAVES = (3, 6, 12, 24, 48, 96)
"""Lattice sides of the background's noise."""
BLOBS = 8


@dataclass(frozen=True)
class Background:
    """A background over [0, 1.5] x [0, 1.5] frame sizes (the half beyond 1 is room for pans).

    Gradient and noise come first, then the photograph where there is one, then stripes and blobs.

    Attributes:
        colours: (4, 3) RGB in [0, 1]: both ends of the gradient, the noise, the stripes.
        gradient: (3,) direction x, direction y, strength.
        noise: (sum of OCTAVES squared,) int8: the lattices, one after the other.
        noise_weights: (len(OCTAVES),) summing to 1 or 0.
        noise_amount: Strength of the noise's colour.
        stripes: (6,) direction x, direction y, frequency, sharpness, opacity, bending by the noise.
        blobs: (BLOBS, 7) x, y, radius, opacity, RGB.
        photo: Index of a view in :mod:`steerseg.demo.photos`; -1 for none.
        photo_window: (4,) the part of the view that fills the resting picture, as fractions of the view: left,
            top, width, height; a negative width mirrors it. Pans go on beyond.
        photo_look: (2,) brightness as a factor, opacity in [0, 1].
    """

    colours: Array
    gradient: Array
    noise: NDArray[np.int8]
    noise_weights: Array
    noise_amount: np.float32
    stripes: Array
    blobs: Array
    photo: int = -1
    photo_window: Array = field(default_factory=lambda: np.array([0, 0, 1, 1], dtype=np.float32))
    photo_look: Array = field(default_factory=lambda: np.array([1, 1], dtype=np.float32))


@dataclass(frozen=True)
class Scene:
    """N objects over T frames. Objects are in painter's order: a later one covers an earlier one.

    Attributes:
        height, width: Native size in pixels; every coordinate refers to it.
        fps: Frames a second.
        styles: Names that ``style`` indexes.
        sprite: (N,) object index in the catalogue.
        style: (N,) index into ``styles``.
        tint: (N,) index into :data:`steerseg.demo.colours.TINTS`; 0 is untinted.
        flip: (N,) bool: mirrored left to right.
        centre: (N, T, 2) x, y in the picture; may lie outside.
        scale: (N, T) half the side of the sprite's square, in pixels.
        angle: (N, T) clockwise rotation in radians.
        pan: (T, 2) how far the camera has moved; ``centre + pan`` is the position in the world.
        background: The background.
    """

    height: int
    width: int
    fps: float
    styles: tuple[str, ...]
    sprite: NDArray[np.int64]
    style: NDArray[np.int64]
    tint: NDArray[np.int64]
    flip: NDArray[np.bool_]
    centre: Array
    scale: Array
    angle: Array
    pan: Array
    background: Background

    @property
    def num_objects(self) -> int:
        """N."""
        return len(self.sprite)

    @property
    def num_frames(self) -> int:
        """T."""
        return self.centre.shape[1]


def _probe_points() -> Array:
    """Points spread over the unit disc: the centre and two rings."""
    rings = [(0.45, 5, 0.3), (0.85, 9, 0.0)]
    points: list[NDArray[np.float64]] = [np.zeros((1, 2))]
    for radius, count, turn in rings:
        angle = 2 * np.pi * (np.arange(count) / count) + turn
        points.append(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate(points).astype(np.float32)


_PROBES = _probe_points()


def extents(scene: Scene, catalogue: Catalogue) -> Array:
    """(N, T, 2) half width and half height in pixels of what is visible of each unrotated sprite."""
    return catalogue.extents[scene.style, scene.sprite][:, None, :] * scene.scale[..., None]


def visible_fraction(scene: Scene, catalogue: Catalogue) -> Array:
    """(N, T) in [0, 1]: which share of each object is inside the picture and not covered.

    Sprites are taken as ellipses and probed at 15 points: close to the drawn masks, without drawing.
    """
    half = extents(scene, catalogue)  # (N, T, 2)
    cosine, sine = np.cos(scene.angle), np.sin(scene.angle)
    local = _PROBES[None, None] * half[:, :, None]  # (N, T, P, 2)
    x = scene.centre[..., None, 0] + cosine[..., None] * local[..., 0] - sine[..., None] * local[..., 1]
    y = scene.centre[..., None, 1] + sine[..., None] * local[..., 0] + cosine[..., None] * local[..., 1]
    free = (x >= 0) & (x < scene.width) & (y >= 0) & (y < scene.height)
    for i in range(scene.num_objects):
        for j in range(i + 1, scene.num_objects):
            dx, dy = x[i] - scene.centre[j, :, 0, None], y[i] - scene.centre[j, :, 1, None]
            u = (cosine[j, :, None] * dx + sine[j, :, None] * dy) / half[j, :, 0, None]
            v = (-sine[j, :, None] * dx + cosine[j, :, None] * dy) / half[j, :, 1, None]
            free[i] &= u * u + v * v > 0.9
    visible: Array = free.mean(axis=2, dtype=np.float32)
    return visible
