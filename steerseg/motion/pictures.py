"""The size of the small pictures in which motions are looked for (our choice)."""

from __future__ import annotations

from collections.abc import Sequence

_LONGER_SIDE = 320  # pixels


def small_sides(shape: Sequence[int]) -> tuple[int, int]:
    """Width and height in pixels of a small picture of frames (K, H, W, 3) of this shape; none is enlarged."""
    _, height, width, _ = shape
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))
