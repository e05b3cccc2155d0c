"""Sprite sheets: how pictures of one size lie in a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerseg.errors import ConfigError

VARIATION_SELECTOR = "\ufe0f"


ASSETS = Path(__file__).parent / "assets"
SPRITE = 96  # side of a sprite in pixels
MARGIN = 2  # clear border, so that interpolation fades out inside the sprite
COLUMNS = 24  # sprites in a row of a sheet


def centred(image: Image.Image) -> Image.Image:
    """Crop to what is visible and centre it in a square of :data:`SPRITE` pixels with a clear margin.

    Raises:
        ConfigError: If the image is empty.
    """
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise ConfigError(
            "a sprite is empty: the emoji set lacks this emoji; update the set or the catalogue"
        )
    image = image.crop(box)
    factor = (SPRITE - 2 * MARGIN) / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Premultiply, so that colourless transparent pixels do not bleed into the edge.
    image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (SPRITE, SPRITE))
    square.paste(image, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return square


def sheet(sprites: list[Image.Image]) -> Image.Image:
    """Sprites side by side, :data:`COLUMNS` a row."""
    rows = -(-len(sprites) // COLUMNS)
    image = Image.new("RGBA", (COLUMNS * SPRITE, rows * SPRITE))
    for index, sprite in enumerate(sprites):
        image.paste(sprite, (index % COLUMNS * SPRITE, index // COLUMNS * SPRITE))
    return image


def half_extent(sprite: NDArray[np.uint8]) -> tuple[float, float]:
    """Half width and half height of what is visible, as fractions of half the sprite's side."""
    solid = sprite[..., 3] > 127
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    return (
        round(float(columns[-1] - columns[0] + 1) / SPRITE, 3),
        round(float(rows[-1] - rows[0] + 1) / SPRITE, 3),
    )


def split_sheet(image: Image.Image, count: int) -> NDArray[np.uint8]:
    """An RGBA sheet → (count, S, S, 4) sprites, row by row."""
    pixels = np.asarray(image.convert("RGBA"))
    rows = pixels.shape[0] // SPRITE
    tiles = pixels.reshape(rows, SPRITE, COLUMNS, SPRITE, 4).swapaxes(1, 2).reshape(-1, SPRITE, SPRITE, 4)
    return np.ascontiguousarray(tiles[:count])
