"""Point prompts -> the different objects under them, as candidates tracked over the keyframes."""

from __future__ import annotations

from collections.abc import Sequence

from steerseg.config import PipelineConfig
from steerseg.masks import iou
from steerseg.points import PointPrompt
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.prompt_decoder import PromptDecoder
from steerseg.tracking.propagation import Propagator
from steerseg.tracking.tracklets import Candidate, DecodedPrompt, StageProgress


def find_candidates(
    encoded: EncodedVideo,
    points: Sequence[PointPrompt],
    frames: tuple[int, ...],
    config: PipelineConfig,
    *,
    decoder: PromptDecoder,
    propagator: Propagator,
    progress: StageProgress,
    known: Sequence[Candidate] = (),
) -> list[Candidate]:
    """Decode all points, and track the different objects among them, the best first.

    Args:
        encoded: The video, with the keyframes encoded.
        points: Prompts.
        frames: The keyframes, rising.
        config: ``duplicate_iou``, ``max_candidates`` and ``conditioning`` count here.
        decoder: Decodes points.
        propagator: Tracks candidates over the keyframes.
        progress: Told of each tracked frame.
        known: Candidates that are tracked over the keyframes already; their objects are not found again.

    Returns:
        Candidates in the order in which they were found; empty where no point gives a mask.
    """
    decoded = decoder.decode_points(encoded, points)
    progress(0.0)
    pool: list[DecodedPrompt] = []
    for frame in dict.fromkeys(point.frame for point in points):
        pool += without_duplicates(
            [each for each in decoded if each.point.frame == frame], config.duplicate_iou
        )
    pool = [each for each in pool if not _is_covered(each, known, config.duplicate_iou)]
    most = max(1, min(len(pool), config.max_candidates))

    candidates: list[Candidate] = []
    while pool and len(candidates) < config.max_candidates:
        best = max(pool, key=lambda each: each.score)
        group = [each for each in pool if each.point.frame == best.point.frame]
        group = group[: config.max_candidates - len(candidates)]
        memories = (
            decoder.remember(encoded, group)
            if config.conditioning == "click"
            else decoder.remember_masks(encoded, group)
        )
        started = [
            Candidate(each.point, each.score, each.answer.predicted_iou, {each.point.frame: memory})
            for each, memory in zip(group, memories, strict=True)
        ]
        done, end = len(candidates) / most, (len(candidates) + len(started)) / most
        tracked = propagator.tracked(encoded, started, frames, _within(progress, done, end))
        candidates += tracked
        pool = [
            each
            for each in pool
            if each.point.frame != best.point.frame and not _is_covered(each, tracked, config.duplicate_iou)
        ]
    return candidates


def without_duplicates(decoded: Sequence[DecodedPrompt], limit: float) -> list[DecodedPrompt]:
    """Best first, without masks that overlap a better one by more than ``limit``."""
    kept: list[DecodedPrompt] = []
    for each in sorted(decoded, key=lambda each: -each.score):
        if all(iou(each.answer.mask.numpy(), other.answer.mask.numpy()) <= limit for other in kept):
            kept.append(each)
    return kept


def _is_covered(decoded: DecodedPrompt, candidates: Sequence[Candidate], limit: float) -> bool:
    """Whether one of the tracked candidates is the decoded object."""
    return any(_covers(candidate, decoded, limit) for candidate in candidates)


def _covers(candidate: Candidate, decoded: DecodedPrompt, limit: float) -> bool:
    """Whether a tracked candidate is the decoded object on the latter's keyframe."""
    track = candidate.tracked
    if track is None:
        return False
    logits = track.logits[track.frames.index(decoded.point.frame)]
    return iou((logits > 0).numpy(), decoded.answer.mask.numpy()) > limit


def _within(progress: StageProgress, start: float, end: float) -> StageProgress:
    """Progress of a part of the work that lies between two fractions of the whole."""
    return lambda fraction: progress(start + fraction * (end - start))
