"""Pictures of masks and maps for people: tints, outlines, rank tags, heat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

RANK_COLOURS: tuple[Colour, ...] = (
    (0, 190, 255),
    (255, 176, 0),
    (255, 80, 150),
    (150, 110, 255),
    (70, 220, 120),
)
"""RGB by rank, best first, far apart for every kind of colour vision; repeated when there are more."""

_TINT = 0.45
_SHADOW: Colour = (16, 16, 20)


def rank_colour(rank: int) -> Colour:
    """The colour of the tracklet at ``rank``, counted from 0."""
    return RANK_COLOURS[rank % len(RANK_COLOURS)]


def draw_tracklets(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], *, tags: bool = True
) -> NDArray[np.uint8]:
    """Show ranked masks on a frame: the first tinted with a strong contour, the others as thin outlines.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        masks: (H, W) bool each, best first; an empty one is not visible.
        tags: Whether each visible mask carries its rank ("1", "2", ...) where there are several.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = image.copy()
    line = max(1, round(min(image.shape[:2]) / 240))
    for rank in reversed(range(1, len(masks))):
        _outline(canvas, masks[rank], rank_colour(rank), line, shadow=line)
    if masks and masks[0].any():
        colour = np.array(rank_colour(0), dtype=np.float32)
        inside = canvas[masks[0]].astype(np.float32)
        canvas[masks[0]] = ((1 - _TINT) * inside + _TINT * colour).round().astype(np.uint8)
        _outline(canvas, masks[0], (255, 255, 255), line + 1, shadow=line)
    if tags and len(masks) > 1:
        canvas = _tag(canvas, masks)
    return canvas


def heat_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a map over a frame that is dimmed and grey, so that all colour is the map's.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (h, w) in [0, 1]; scaled up smoothly.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    smooth = cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * 0.7
    colours = matplotlib.colormaps["inferno"](0.25 + 0.75 * smooth)[..., :3].astype(np.float32) * 255
    alpha = (0.9 * smooth**1.2)[..., None]
    blended: NDArray[np.float32] = ((1 - alpha) * grey + alpha * colours).round().clip(0, 255)
    return blended.astype(np.uint8)


def _outline(
    canvas: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour, thickness: int, shadow: int
) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # A dark rim keeps the line visible on any background.
    cv2.drawContours(canvas, contours, -1, _SHADOW, thickness + 2 * shadow, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, colour, thickness, cv2.LINE_AA)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, so the text looks the same on every machine.
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", size
    )


def _tag(canvas: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Write each visible mask's rank on a small plate at its top."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    size = max(9, round(min(canvas.shape[:2]) / 20))
    font = _font(size)
    height, width = canvas.shape[:2]
    for rank in reversed(range(len(masks))):
        rows, columns = np.nonzero(masks[rank])
        if rows.size == 0:
            continue
        top = int(rows.min())
        at_top = columns[rows == top]
        text = str(rank + 1)
        plate = (int(font.getlength(text)) + size, round(size * 1.35))
        x = min(max(0, int(at_top.mean()) - plate[0] // 2), max(0, width - plate[0]))
        y = min(max(0, top - plate[1] - size // 3), max(0, height - plate[1]))
        box = (x, y, x + plate[0] - 1, y + plate[1] - 1)
        draw.rounded_rectangle(box, radius=size // 3, fill=rank_colour(rank), outline=_SHADOW)
        draw.text((x + plate[0] / 2, y + plate[1] / 2), text, font=font, fill=_SHADOW, anchor="mm")
    return np.asarray(picture)
