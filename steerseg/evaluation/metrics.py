"""Region and boundary accuracy of video masks, as DAVIS and Ref-YouTube-VOS measure them.

J is the intersection over union of a frame's masks, F the harmonic mean of precision and recall of their
boundaries, matched within 0.008 of the image diagonal. Both are averaged over all frames of an expression;
J&F is their mean. Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016), as implemented by davis2017-evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from steerseg.statistics import Interval, bootstrap_mean

__all__ = ["Interval", "Scores", "bootstrap_mean", "boundary", "boundary_f", "region_iou", "score"]

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Scores of one expression, each in [0, 1]."""

    j: float
    f: float

    @property
    def jf(self) -> float:
        """J&F."""
        return (self.j + self.f) / 2


def region_iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two (H, W) masks; 1 where both are empty."""
    union = int(np.count_nonzero(prediction | truth))
    return 1.0 if union == 0 else int(np.count_nonzero(prediction & truth)) / union


def boundary(mask: Mask) -> Mask:
    """(H, W) → the one-pixel boundary of a mask, half a pixel towards the origin of the true edge."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    edge[-1] = mask[-1] ^ right[-1]
    edge[:, -1] = mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


@lru_cache(maxsize=32)
def _disk(radius: int) -> NDArray[np.uint8]:
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset[None] ** 2 <= radius * radius).astype(np.uint8)


def boundary_f(prediction: Mask, truth: Mask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """Boundary F-measure of two (H, W) masks in [0, 1]; 1 where both are empty.

    Args:
        prediction: Predicted mask.
        truth: True mask.
        tolerance: Largest distance of matching boundary pixels, as a fraction of the image diagonal.
    """
    predicted, real = boundary(prediction), boundary(truth)
    count_predicted, count_real = int(np.count_nonzero(predicted)), int(np.count_nonzero(real))
    if count_predicted == 0 or count_real == 0:
        return 1.0 if count_predicted == count_real else 0.0
    disk = _disk(math.ceil(tolerance * math.hypot(*truth.shape)))
    near_predicted = cv2.dilate(predicted.astype(np.uint8), disk).astype(bool)
    near_real = cv2.dilate(real.astype(np.uint8), disk).astype(bool)
    precision = int(np.count_nonzero(predicted & near_real)) / count_predicted
    recall = int(np.count_nonzero(real & near_predicted)) / count_real
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def score(prediction: Mask, truth: Mask, void: Mask | None = None) -> Scores:
    """Scores of one expression: means over all frames.

    Args:
        prediction: (T, H, W) bool.
        truth: (T, H, W) bool.
        void: (T, H, W) bool, pixels that count for nothing: of neither mask, and of neither's boundary
            (davis2017-evaluation); none where left out.

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != truth.shape or (void is not None and void.shape != truth.shape):
        raise ValueError(
            f"predicted masks are {prediction.shape}, the true ones {truth.shape}; they must agree"
        )
    if void is not None:
        prediction, truth = prediction & ~void, truth & ~void
    pairs = list(zip(prediction.astype(bool), truth.astype(bool), strict=True))
    return Scores(
        j=float(np.mean([region_iou(a, b) for a, b in pairs])),
        f=float(np.mean([boundary_f(a, b) for a, b in pairs])),
    )
