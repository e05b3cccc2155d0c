"""How evidently objects spin, by their pictures on the keyframes (our choice).

The centre of a thing that spins may rest. So its picture is unrolled around the centre, and compared with the next ones
at every angle. One rate has to fit all keyframes: symmetric things fit at several angles, and noise at none for long.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.motion.pictures import small_sides

Array = NDArray[np.float64]

_ANGLES, _RADII = 72, 16  # of an unrolled picture
_REACH = 1.8  # its radius, as a multiple of that of a disc of the object's area
_LEAST_AREA = 30  # pixels; less shows no angle
_STRIDES = (1, 2, 3)  # keyframes between two that are compared
_LEAST_TURN = np.pi  # over all keyframes; less is swaying
_EVIDENT = 0.06  # by which pictures fit better turned than unturned, and evidently spin


def spin_evidence(frames: NDArray[np.uint8], masks: torch.Tensor, times: Array) -> Array:
    """How evidently each of N objects spins.

    Args:
        frames: (K, H, W, 3) uint8 RGB.
        masks: (N, K, h, w) masks of the objects, in [0, 1].
        times: (K,) of the frames, from 0 for the first to 1 for the last.

    Returns:
        (N,) in [0, 1]; 0 where too few keyframes show the object.
    """
    sides = small_sides(frames.shape)
    steps = times * (len(frames) - 1)
    pictures = [cv2.resize(frame, sides, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.array(
        [
            _evidence([_unrolled(*both, sides) for both in zip(pictures, one, strict=True)], steps)
            for one in masks.float().cpu().numpy()
        ]
    )


def _unrolled(
    picture: NDArray[np.uint8], mask: NDArray[np.float32], sides: tuple[int, int]
) -> NDArray[np.complex128] | None:
    """The spectrum over angles of what a mask shows, of length 1; ``None`` where the mask is cut or small."""
    shown = (cv2.resize(mask, sides, interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.float32)
    area = float(shown.sum())
    if area < _LEAST_AREA or shown[0].any() or shown[-1].any() or shown[:, 0].any() or shown[:, -1].any():
        return None
    rows, columns = np.nonzero(shown)
    layers = np.dstack([shown, shown[..., None] * (picture / np.float32(255) - 0.5)])
    rolled = cv2.warpPolar(
        layers,
        (_RADII, _ANGLES),
        (float(columns.mean()), float(rows.mean())),
        _REACH * float(np.sqrt(area / np.pi)),
        cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS,
    )
    weighted = rolled * np.sqrt(np.arange(_RADII) + 0.5)[None, :, None]
    spectrum = np.fft.rfft(weighted / max(float(np.linalg.norm(weighted)), 1e-6), axis=0)
    return np.asarray(spectrum)


def _evidence(unrolled: Sequence[NDArray[np.complex128] | None], steps: Array) -> float:
    """By how much one rate of spinning fits better than none; ``steps`` are times in mean distances of keyframes."""
    count = len(unrolled)
    rates = np.linspace(-np.pi, np.pi, 2 * _ANGLES + 1)  # radians in the mean time between keyframes
    fits, pairs = np.zeros(len(rates)), 0
    for stride in _STRIDES:
        for k in range(count - stride):
            before, after = unrolled[k], unrolled[k + stride]
            if before is None or after is None:
                continue
            alike = np.fft.irfft((after * before.conj()).sum(axis=(1, 2)), n=_ANGLES)
            at = rates * (steps[k + stride] - steps[k]) / (2 * np.pi) * _ANGLES
            fits += np.interp(at, np.arange(_ANGLES), alike, period=_ANGLES)
            pairs += 1
    turning = np.abs(rates) * (count - 1) >= _LEAST_TURN
    if pairs < 3 or not turning.any():
        return 0.0
    still = float(fits[~turning].max())
    return min(max((float(fits[turning].max()) - still) / pairs / _EVIDENT, 0.0), 1.0)
