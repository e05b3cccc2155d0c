"""Masks drawn on pictures of another size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from steerseg.masks import RLE, decode_rle
from steerseg.output.drawing import draw_tracklets

Image3 = NDArray[np.uint8]

_LEAST_PART = 0.4  # of a picture's sides that is shown around masks
_MARGIN = 1.6  # of what is shown over what the masks take


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


def cut_around(image: Image3, shown: Image3, rles: Sequence[RLE]) -> Image3:
    """The part of a picture around masks, of the picture's own shape, so that a small object is seen.

    Args:
        image: The picture that the masks are of.
        shown: The same with what is drawn on it.
        rles: The masks, of any size; the whole picture is shown where all are empty.
    """
    height, width = image.shape[:2]
    taken = np.zeros((height, width), dtype=bool)
    for rle in rles:
        taken |= _mask(rle, image)
    if not taken.any():
        return shown
    rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    share = min(1.0, max(_LEAST_PART, _MARGIN * max((bottom - top) / height, (right - left) / width)))
    high, wide = round(share * height), round(share * width)
    y = int(np.clip((top + bottom - high) // 2, 0, height - high))
    x = int(np.clip((left + right - wide) // 2, 0, width - wide))
    return shown[y : y + high, x : x + wide]


def with_masks(image: Image3, rles: Sequence[RLE]) -> Image3:
    """A picture with masks of any size: the first one tinted, the others outlined."""
    return draw_tracklets(image, [_mask(rle, image) for rle in rles])
