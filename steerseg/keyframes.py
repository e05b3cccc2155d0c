"""The keyframes of a video under a preset, as its language model sees them: in proposals, training and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.grounding import VisionContext, encode_keyframes, slice_seconds
from steerseg.lvlm.base import LVLM
from steerseg.lvlm.prefix import PrefixSlot, VideoPrefixes
from steerseg.lvlm.vision import Timing
from steerseg.presets import Preset
from steerseg.tracking import EncodedVideo

LEAST_SECONDS = 0.25
"""What lies closer to a frame that was seen was seen, too (our choice)."""

_SAME = 1e-6  # seconds
_AS_FAR = 0.9  # of the greatest distance: as far counts as alike, for gaps differ by a frame


@dataclass(frozen=True)
class VideoFeatures:
    """Features of a video that no expression changes; they are kept for the next one.

    Attributes:
        context: Visual tokens of the keyframes.
        encoded: The frames for the segmenter, encoded when they are first needed.
        prefixes: States of the text model after the last visual token of each pass.
    """

    context: VisionContext
    encoded: EncodedVideo
    prefixes: VideoPrefixes | None = None

    @property
    def question_slot(self) -> PrefixSlot | None:
        """Where questions about the video keep what is the same for all of them; ``None`` where nothing is kept."""
        return None if self.prefixes is None else self.prefixes.slot("reasoning", "video")


def moments_between(
    pts: NDArray[np.float64],
    seen: Sequence[int],
    count: int,
    within: NDArray[np.bool_] | None = None,
) -> tuple[int, ...]:
    """Frames that are the farthest in time from those that were seen, and from each other.

    Args:
        pts: (T,) presentation times in seconds.
        seen: Indices of frames that were seen; at least one.
        count: Most frames to choose.
        within: (T,) whether a frame may be chosen; all where left out.

    Returns:
        At most ``count`` indices, rising: fewer where all others are within :data:`LEAST_SECONDS` of one that was
        seen or chosen.

    Example:
        >>> moments_between(np.arange(9.0), (0, 4, 8), 2)
        (2, 6)
    """
    known = np.sort(pts[np.asarray(seen)])
    after = np.searchsorted(known, pts)
    away = np.minimum(
        np.abs(pts - known[np.minimum(after, len(known) - 1)]), np.abs(pts - known[np.maximum(after - 1, 0)])
    )
    if within is not None:
        away = np.where(within, away, 0.0)
    chosen: list[int] = []
    while len(chosen) < count and float(away.max()) >= LEAST_SECONDS:
        middle = (np.diff(away, prepend=-1) > _SAME) & (np.diff(away, append=-1) <= _SAME)  # of a gap
        farthest = np.flatnonzero(middle & (away >= _AS_FAR * away.max()))
        if chosen:
            apart = np.abs(pts[farthest, None] - pts[chosen]).min(axis=1)
        else:  # from the middle on
            apart = -np.abs(pts[farthest] - (pts[0] + pts[-1]) / 2)
        chosen.append(int(farthest[apart.argmax()]))
        away = np.minimum(away, np.abs(pts - pts[chosen[-1]]))
    return tuple(sorted(chosen))


def timing_of(
    pts: NDArray[np.float64], duration: float, keyframes: Sequence[int], config: PipelineConfig, merge: int
) -> Timing:
    """When keyframes are, as the LVLM is told.

    Families with times as text are told each keyframe's own, and the others the mean step between two slices.

    Args:
        pts: (T,) presentation times of the video's frames in seconds.
        duration: Seconds from the start of the first frame to the end of the last.
        keyframes: Indices of the keyframes.
        config: Its ``seconds_per_slice`` comes before the video's own times; the keyframes are spread evenly then.
        merge: Frames of a slice.
    """
    if config.seconds_per_slice is not None:
        return Timing.even(len(keyframes), config.seconds_per_slice, merge)
    seconds = slice_seconds(float(pts[-1] - pts[0]), len(keyframes), merge)
    return Timing(seconds, tuple((pts[list(keyframes)] - pts[0]).tolist()), duration)


def show_keyframes(
    lvlm: LVLM,
    preset: Preset,
    config: PipelineConfig,
    frames: NDArray[np.uint8],
    keyframes: Sequence[int],
    timing: Timing,
    *,
    pictures: Sequence[int] | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> VisionContext:
    """Show keyframes to the vision tower, with the budgets and the input settings of a preset.

    Args:
        lvlm: The preset's model.
        preset: Budgets.
        config: The rule of the grid.
        frames: (K, H, W, 3) uint8, the keyframes' pixels.
        keyframes: Their indices in the video.
        timing: When they are; see :func:`timing_of`.
        pictures: Indices of the keyframes that are encoded as images; all where left out.
        tick: Called with the fraction done.
    """
    return encode_keyframes(
        lvlm,
        frames,
        keyframes,
        budget=preset.video_tokens,
        frame_budget=preset.frame_tokens,
        timing=timing,
        frame_batch=preset.frame_batch,
        config=config,
        pictures=pictures,
        tick=tick,
    )
