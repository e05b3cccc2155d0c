"""The keyframes of a video under a preset, as its language model sees them: in proposals, training and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.grounding import VisionContext, encode_keyframes, slice_seconds
from steerseg.lvlm.base import LVLM
from steerseg.lvlm.prefix import VideoPrefixes
from steerseg.presence.judge import Case
from steerseg.presence.localisation import Positions
from steerseg.presets import Preset
from steerseg.ranking import RankedCandidate
from steerseg.reasoning import Reasoning
from steerseg.tracking import EncodedVideo
from steerseg.tracking.sources import Candidates


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


@dataclass(frozen=True)
class Found:
    """What was found for an expression on the keyframes, before it is tracked over the video.

    Attributes:
        features: Of the video.
        reasoning: The chain-of-thought step.
        case: The expression, its maps and its candidates, as they are judged.
        candidates: All of them.
        ranking: The best ones, best first.
        positions: Where the LVLM says that the object is; ``None`` where it was not asked, or said nothing of use.
    """

    features: VideoFeatures
    reasoning: Reasoning
    case: Case
    candidates: Candidates
    ranking: tuple[RankedCandidate, ...]
    positions: Positions | None


def show_keyframes(
    lvlm: LVLM,
    preset: Preset,
    config: PipelineConfig,
    frames: NDArray[np.uint8],
    keyframes: Sequence[int],
    duration: float,
    *,
    pictures: Sequence[int] | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> VisionContext:
    """Show keyframes to the vision tower, with the budgets and the input settings of a preset.

    Args:
        lvlm: The preset's model.
        preset: Budgets.
        config: Seconds between slices, and the rule of the grid.
        frames: (K, H, W, 3) uint8, the keyframes' pixels.
        keyframes: Their indices in the video.
        duration: Seconds from the video's first frame to its last.
        pictures: Indices of the keyframes that are encoded as images; all where left out.
        tick: Called with the fraction done.
    """
    seconds = config.seconds_per_slice
    if seconds is None:
        seconds = slice_seconds(duration, len(keyframes), lvlm.family.temporal_merge)
    return encode_keyframes(
        lvlm,
        frames,
        keyframes,
        budget=preset.video_tokens,
        frame_budget=preset.frame_tokens,
        seconds_per_slice=seconds,
        frame_batch=preset.frame_batch,
        config=config,
        pictures=pictures,
        tick=tick,
    )
