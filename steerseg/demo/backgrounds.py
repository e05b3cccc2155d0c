"""Backgrounds of scenes, sampled as numbers: gradients, noise, stripes, blobs, photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.chance import between
from steerseg.demo.photos import VIEW, PhotoHalf, photo_views
from steerseg.demo.scene import BLOBS, OCTAVES, Background

Array = NDArray[np.float32]


def _random_colour(rng: np.random.Generator) -> Array:
    """An RGB in [0, 1], mostly of moderate saturation."""
    hue, saturation, value = rng.random() * 6, rng.random() ** 1.5 * 0.75, between(rng, 0.15, 0.95)
    shade = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    colour: Array = (value * (1 - saturation + saturation * shade)).astype(np.float32)
    return colour


def sample_background(rng: np.random.Generator) -> Background:
    """A gradient with, at random, noise of several octaves, stripes and blobs."""
    noise_on, stripes_on, blobs_on = rng.random() < 0.75, rng.random() < 0.25, rng.random() < 0.3
    roughness = between(rng, 0.35, 0.85)
    weights = roughness ** np.arange(len(OCTAVES)) * (rng.random(len(OCTAVES)) < 0.8)
    weights = weights / max(float(weights.sum()), 1e-6)
    angle, stripe_angle = rng.random(2) * 2 * np.pi
    colours = np.stack([_random_colour(rng) for _ in range(4)])
    if rng.random() < 0.5:  # related colours: a calmer picture
        colours = colours[:1] + (colours - colours[:1]) * between(rng, 0.15, 0.5)
    return Background(
        colours=colours.astype(np.float32),
        gradient=np.array([np.cos(angle), np.sin(angle), between(rng, 0.0, 1.2)], dtype=np.float32),
        noise=rng.integers(-127, 128, sum(n * n for n in OCTAVES), dtype=np.int8),
        noise_weights=weights.astype(np.float32),
        noise_amount=np.float32(between(rng, 0.3, 1.6) if noise_on else 0.0),
        stripes=np.array(
            [
                np.cos(stripe_angle),
                np.sin(stripe_angle),
                between(rng, 2, 14),
                between(rng, 1, 8),
                between(rng, 0.2, 0.8) if stripes_on else 0.0,
                between(rng, 0, 6),
            ],
            dtype=np.float32,
        ),
        blobs=np.concatenate(
            [
                rng.random((BLOBS, 2)) * 1.5,
                0.03 + 0.2 * rng.random((BLOBS, 1)) ** 2,
                (rng.random((BLOBS, 1)) < 0.7) * between(rng, 0.3, 0.9) * float(blobs_on),
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
        background: The background so far. Its stripes and blobs mostly go, and sometimes stay on top.
        rng: Source of chance.
        half: Photographs of training scenes, or held-out ones.
        size: Height and width of the scene in pixels.
        pan: (T, 2) the camera's way in pixels; what it shows is part of the photograph.
    """
    height, width = size
    views = photo_views(half)
    index = views[rng.integers(len(views))]
    # `room` is how many frame sizes the camera sees in all; the resting picture is in their middle.
    room = 1 + 2 * np.abs(pan).max(axis=0) / (width, height)
    largest = min(VIEW[1] / room[0], VIEW[0] / room[1] * width / height)  # columns of the view
    across = between(rng, 0.7, 1.0) * largest
    part = np.array([across / VIEW[1], across * height / width / VIEW[0]])
    low = (room - 1) / 2 * part
    left, top = low + rng.random(2) * np.maximum(1 - room * part, 0)
    mirrored = rng.random() < 0.5
    window = (left + part[0], top, -part[0], part[1]) if mirrored else (left, top, part[0], part[1])
    opacity = 1.0 if rng.random() < 0.65 else between(rng, 0.5, 1.0)
    look = (float(np.exp(between(rng, np.log(0.6), np.log(1.35)))), opacity)
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
