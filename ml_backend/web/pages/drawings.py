"""Masks drawn on pictures of another size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from steerseg.masks import RLE, decode_rle
from steerseg.output.drawing import draw_tracklets

Image3 = NDArray[np.uint8]


def scaled(image: Image3, side: int) -> Image3:
    """The image with its longer side at most so long, and even sides."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = (max(2, round(width * factor)), max(2, round(height * factor)))
    if size == (width, height):
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _mask(rle: RLE, image: Image3) -> NDArray[np.bool_]:
    """A mask at the size of a picture."""
    mask = decode_rle(rle)
    if mask.shape == image.shape[:2]:
        return mask
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), dtype=bool)


def with_masks(image: Image3, rles: Sequence[RLE]) -> Image3:
    """A picture with masks of any size: the first one tinted, the others outlined."""
    return draw_tracklets(image, [_mask(rle, image) for rle in rles])
