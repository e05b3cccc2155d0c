"""Diagnosis of a sample: whether the model names the right object, and whether its attention lies on it.

The paper opens with this: the language model mostly names the right object while its raw attention misses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.grounding import GroundingMaps

LONGEST_NAME = 16  # tokens of the answer to the grounding question


@dataclass(frozen=True)
class Pointing:
    """Shares of keyframes on which a map's highest cell has its centre on the target.

    Attributes:
        frame: Share in [0, 1] of the keyframes with a visible target that the frame map hits.
        video: The same for the video map; a slice hits where its target is in one of the slice's keyframes.
        fused: The same for the fused map.
        peak: Whether the fused map's highest cell of the whole clip hits: the first point that SAM 2 gets.

    Each is ``None`` where the map is not there, or the target is on no keyframe.
    """

    frame: float | None
    video: float | None
    fused: float | None
    peak: bool | None


def highest(grid: torch.Tensor) -> tuple[float, float]:
    """The centre (x, y) in [0, 1] of the highest cell of a map (h, w)."""
    height, width = grid.shape
    row, column = divmod(int(grid.argmax()), width)
    return (column + 0.5) / width, (row + 0.5) / height


def hits(point: tuple[float, float], mask: NDArray[np.bool_]) -> bool:
    """Whether a point in [0, 1] lies on a mask (H, W)."""
    height, width = mask.shape
    return bool(mask[int(point[1] * height), int(point[0] * width)])


def _share(grids: torch.Tensor | None, masks: Sequence[NDArray[np.bool_]]) -> float | None:
    """Share of the grids (N, h, w) whose highest cell lies on their mask, among those with a mask."""
    if grids is None:
        return None
    hit = [hits(highest(grid), mask) for grid, mask in zip(grids, masks, strict=True) if mask.any()]
    return float(np.mean(hit)) if hit else None


def pointing(maps: GroundingMaps, truth: NDArray[np.bool_]) -> Pointing:
    """Compare maps with the true masks (T, H, W) of the whole video."""
    masks = [truth[frame] for frame in maps.keyframes]
    slices: list[NDArray[np.bool_]] = []
    if maps.video is not None:
        merge = -(-len(masks) // len(maps.video))
        slices = [np.any(masks[start : start + merge], axis=0) for start in range(0, len(masks), merge)]
    best = int(maps.fused.flatten(1).amax(dim=1).argmax())
    return Pointing(
        frame=_share(maps.frame, masks),
        video=_share(maps.video, slices),
        fused=_share(maps.fused, masks),
        peak=hits(highest(maps.fused[best]), masks[best]) if any(mask.any() for mask in masks) else None,
    )


def same_name(answer: str, name: str) -> bool:
    """Whether an answer is the object's name, whatever its case, article and full stop."""

    def tidy(text: str) -> str:
        words = text.lower().strip(" .!\"'").split()
        return " ".join(words[1:] if words[:1] in (["the"], ["a"], ["an"]) else words)

    return tidy(answer) == tidy(name)
