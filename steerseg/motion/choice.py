"""The choice among candidates by the motion that an expression states (our choice).

Attention over a few frames seldom points at the one of two dogs that runs to the left. So candidates are also what the
expression without its motion means, "the dog": one after the other, as several objects are sought. How each moves over
the keyframes then counts beside the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from steerseg.config import PipelineConfig
from steerseg.keyframes import VideoFeatures
from steerseg.motion.agreement import WITHOUT_WAY, motion_agreement
from steerseg.motion.camera import background_shifts
from steerseg.motion.reading import Motion, stated_motions, without_motion
from steerseg.motion.spin import spin_evidence
from steerseg.points import point_prompts
from steerseg.presence.judge import Case
from steerseg.ranking import rank_scores
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Propagation
from steerseg.tracking.sources import Candidates
from steerseg.video import Video
from steerseg.words.counting import MOST_INSTANCES, InstanceCount, instances_meant

if TYPE_CHECKING:  # which calls this
    from steerseg.pipeline import SteerSeg

_ALL = InstanceCount(MOST_INSTANCES, exact=False)
_EVERY = 1 << 16  # candidates that are ranked: all of them
_HIDDEN = 0.1  # least value of a mask that may hide the background


@dataclass(frozen=True)
class CandidatesByMotion:
    """Candidates of an expression that states a motion.

    Attributes:
        candidates: Of the expression, and of the same expression without its motion.
        agreement: (N,) how far each moves as stated, in [0, 1].
        correlations: (N,) of each with the maps of the expression without its motion, in [-1, 1].
    """

    candidates: Candidates
    agreement: torch.Tensor
    correlations: torch.Tensor


def by_motion(
    steerseg: SteerSeg,
    case: Case,
    features: VideoFeatures,
    found: Candidates,
    config: PipelineConfig,
    soft_prompts: SoftPrompts | None,
    report: Callable[[str, float], None],
) -> CandidatesByMotion | None:
    """The candidates of an expression that states a motion, and how far each moves so.

    ``None`` where it states none or means several objects, and where nothing is found.

    Args:
        steerseg: The models.
        case: The expression, its maps and its candidates.
        features: The keyframes.
        found: The candidates.
        config: Whether this is done at all; thresholds of points and duplicates.
        soft_prompts: Those that take part.
        report: Called with each stage and the fraction of it that is done.
    """
    motions = stated_motions(case.reading.text) if config.motion else ()
    if not motions or instances_meant(case.reading.text) is not None:
        return None
    reading = replace(case.reading, text=without_motion(case.reading.text))
    maps = steerseg.ground(features, reading.text, (), config, soft_prompts, report)
    points, known = point_prompts(maps, config), found.on_keyframes.candidates
    tracker, frames = steerseg.tracker, maps.keyframes
    further = tracker.candidates(features.encoded, points, config, keyframes=frames, known=known)
    tracked = tracker.propagate(features.encoded, [*known, *further], frames=frames)
    both = Candidates((*found.points, *points), tracked, found.note)
    alike = replace(case, reading=reading, maps=maps, on_keyframes=tracked)
    progress = partial(report, "candidates")
    most = replace(config, alternatives=_EVERY)
    everything, graded = steerseg.instances.search(alike, features.encoded, both, _ALL, most, progress)
    if not everything.on_keyframes.candidates:
        return None
    others = {one.index for one in graded if one.opinion is not None and one.opinion.stance == "rejected"}
    masks, merge = everything.on_keyframes.soft_masks(), steerseg.lvlm.family.temporal_merge
    return CandidatesByMotion(
        everything,
        _agreement(case.video, everything.on_keyframes, masks, others, motions),
        rank_scores(masks, maps, frame_weight=config.frame_weight, temporal_merge=merge),
    )


def _agreement(
    video: Video,
    tracked: Propagation,
    masks: torch.Tensor,
    others: Collection[int],
    motions: Sequence[Motion],
) -> torch.Tensor:
    """How far each candidate moves as stated: (N,) float32 in [0, 1]. ``others`` are of another kind."""
    alike = [index not in others for index in range(len(masks))]
    hidden = (masks > _HIDDEN).any(dim=0).cpu().numpy()
    frames, pts = video.frames[list(tracked.frames)], video.pts[list(tracked.frames)]
    times = (pts - pts[0]) / max(float(np.ptp(pts)), 1e-9)
    spins = spin_evidence(frames, masks, times) if Motion.SPINNING in motions else None
    shifts = None if WITHOUT_WAY.issuperset(motions) else background_shifts(frames, hidden)
    return motion_agreement(motions, masks, alike, shifts, (video.height, video.width), times, spins)
