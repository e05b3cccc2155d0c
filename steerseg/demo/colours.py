"""Colour words: what colours a sprite has, and the tints that a scene may give it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "grey", "black",
)  # fmt: skip

TINTS: tuple[str, ...] = ("", "red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Tint index → colour word; index 0 leaves the sprite as it is."""

TINT_RGB = np.array(
    [
        [1.0, 1.0, 1.0],
        [0.95, 0.10, 0.10],
        [1.00, 0.55, 0.05],
        [1.00, 0.92, 0.10],
        [0.15, 0.80, 0.20],
        [0.12, 0.35, 1.00],
        [0.58, 0.15, 0.90],
        [1.00, 0.50, 0.80],
    ],
    dtype=np.float32,
)
"""Tint index → RGB in [0, 1]."""

NEAR: dict[str, frozenset[str]] = {
    "red": frozenset({"orange", "pink", "brown"}),
    "orange": frozenset({"red", "yellow", "brown"}),
    "yellow": frozenset({"orange", "white"}),
    "green": frozenset(),
    "blue": frozenset({"purple"}),
    "purple": frozenset({"blue", "pink"}),
    "pink": frozenset({"red", "purple", "white"}),
    "brown": frozenset({"orange", "red", "black", "grey"}),
    "white": frozenset({"grey", "yellow", "pink"}),
    "grey": frozenset({"white", "black", "blue", "brown"}),
    "black": frozenset({"grey", "brown"}),
}
"""Colour → colours that people may take for it; an expression never tells objects apart by such a pair."""


def _name_pixels(rgb: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N, 3) RGB in [0, 1] → (N,) index into :data:`COLOURS`, by hue, saturation and value."""
    value = rgb.max(axis=1)
    spread = value - rgb.min(axis=1)
    saturation = np.where(value > 0, spread / np.maximum(value, 1e-6), 0.0)
    red, green, blue = rgb.T
    safe = np.maximum(spread, 1e-6)
    hue = (
        np.select(
            [value == red, value == green],
            [((green - blue) / safe) % 6, (blue - red) / safe + 2],
            (red - green) / safe + 4,
        )
        * 60.0
    )
    index = {name: i for i, name in enumerate(COLOURS)}
    by_hue = np.select(
        [hue < 14, hue < 37, hue < 66, hue < 170, hue < 255, hue < 300, hue < 335],
        [index[n] for n in ("red", "orange", "yellow", "green", "blue", "purple", "pink")],
        index["red"],
    )
    warm = (hue < 50) | (hue >= 335)
    cool = (hue >= 180) & (hue < 300)
    light_red = ((hue < 20) | (hue >= 320)) & (saturation < 0.55) & (value > 0.75)
    return np.select(
        [
            (value < 0.26) | ((value < 0.40) & (saturation < 0.42)),
            (saturation < np.where(cool, 0.18, 0.14)) & (value > 0.80),
            saturation < np.where(cool, 0.34, 0.18),
            light_red,
            warm & (value < 0.60) & (saturation < 0.70),
            warm & (value < 0.74) & (hue > 10) & (hue < 50),
            warm & (saturation < 0.55) & (hue > 14) & (hue < 50) & (value < 0.87),
        ],
        [index[n] for n in ("black", "white", "grey", "pink", "brown", "brown", "brown")],
        by_hue,
    )


def colour_shares(sprite: NDArray[np.uint8]) -> dict[str, float]:
    """The colours that cover at least a tenth of an (S, S, 4) RGBA sprite, largest first, with their shares."""
    pixels = sprite.reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 127, :3].astype(np.float32) / 255.0
    counts = np.bincount(_name_pixels(opaque), minlength=len(COLOURS)) / max(1, len(opaque))
    return {COLOURS[i]: round(float(counts[i]), 2) for i in np.argsort(-counts) if counts[i] >= 0.1}


def main_colour(shares: dict[str, float]) -> str:
    """The colour word a person would use: the largest share if it is clearly so, else an empty string."""
    ranked = list(shares.items())
    if not ranked or ranked[0][1] < 0.45:
        return ""
    if len(ranked) > 1 and ranked[1][1] > 0.75 * ranked[0][1]:
        return ""
    return ranked[0][0]
