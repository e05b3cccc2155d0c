"""Answers of the pipeline on the keyframes of rendered clips, where presence is judged and candidates are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.demo.dataset import Clip, ClipEntry, Manifest, clips
from steerseg.pipeline import SteerSeg
from steerseg.presence.judge import Case
from steerseg.presence.signals import Look
from steerseg.ranking import RankedCandidate
from steerseg.video import Video, keyframe_indices, video_from_frames

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class ClipQuestions:
    """A rendered clip that is asked about.

    Attributes:
        clip: The clip with its expressions.
        video: Its frames.
    """

    clip: Clip
    video: Video

    @classmethod
    def of(cls, manifest: Manifest, entry: ClipEntry) -> ClipQuestions:
        """A clip of a split, drawn again."""
        clip = next(clips(replace(manifest, clips=(entry,))))
        return cls(clip, video_from_frames(clip.frames, fps=clip.fps))


@dataclass(frozen=True)
class Found:
    """What the pipeline found for an expression, on the keyframes.

    Attributes:
        case: The expression as the models read it, and its candidates.
        ranking: The best ones.
        look: What presence follows from; ``None`` where nothing was found or nobody looked.
        attributes: Of the chain-of-thought step.
    """

    case: Case
    ranking: tuple[RankedCandidate, ...]
    look: Look | None = None
    attributes: tuple[str, ...] = ()

    def masks(self, rank: int = 0) -> Masks:
        """(K, H, W) masks of a ranked candidate; none of them set where there is no such candidate."""
        on_keyframes = self.case.on_keyframes
        if rank >= len(self.ranking):
            return np.zeros((len(on_keyframes.frames), on_keyframes.height, on_keyframes.width), dtype=bool)
        return on_keyframes.masks(self.ranking[rank].index)


class Asker:
    """Asks a pipeline about clips.

    Args:
        steerseg: The pipeline.
    """

    def __init__(self, steerseg: SteerSeg) -> None:
        self._steerseg = steerseg

    def ask(self, video: Video, expression: str, config: PipelineConfig, *, look: bool = False) -> Found:
        """The candidates of an expression on the keyframes, as :meth:`SteerSeg.propose` finds and ranks them."""
        steerseg = self._steerseg
        reading = steerseg.read(expression, config)
        keyframes = keyframe_indices(len(video), config.keyframes)
        found = steerseg.find(video, reading, keyframes, config, steerseg.steering(config))
        case, ranking = found.case, found.ranking
        looked = (
            steerseg.judge.look(case, ranking[0].index, ranking[0].correlation) if look and ranking else None
        )
        return Found(case, ranking, looked, found.attributes)


def on_keyframes(masks: Masks, config: PipelineConfig) -> Masks:
    """The masks (T, H, W) of the keyframes alone."""
    return masks[list(keyframe_indices(len(masks), config.keyframes))]


def mean_iou(a: Masks, b: Masks) -> float:
    """Mean IoU over frames (J); 1 on frames where both are empty."""
    shared, all_of_both = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return float(np.where(all_of_both > 0, shared / np.maximum(all_of_both, 1), 1.0).mean())


def matched(found: Sequence[Masks], truth: Sequence[Masks], least: float = 0.5) -> int:
    """How many true instances are found: pairs with a mean IoU of at least ``least``, one to one, the closest first."""
    pairs = sorted(
        ((mean_iou(one, other), i, j) for i, one in enumerate(found) for j, other in enumerate(truth)),
        reverse=True,
    )
    used: set[tuple[str, int]] = set()
    for overlap, i, j in pairs:
        if overlap >= least and ("found", i) not in used and ("true", j) not in used:
            used |= {("found", i), ("true", j)}
    return len(used) // 2
