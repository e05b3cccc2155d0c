"""Keyframes that are added where the first ones, or a tracklet, show nothing of the object (our choice).

The LVLM sees few frames. An object that is in the picture between two of them alone is on no map. What is found then is
something else, and its presence is unlikely: keyframes between the first ones are looked at. An object that was found,
and leaves, may come back where the segmenter does not know it again. Keyframes are added where its tracklet shows
nothing, and what is found there joins the tracklet if it is the same object by every sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.keyframes import VideoFeatures, moments_between
from steerseg.masks import iou, mask_area
from steerseg.points import point_prompts
from steerseg.presence.findings import Finding
from steerseg.presence.judge import Case
from steerseg.presence.signals import Presence
from steerseg.ranking import RankedCandidate
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Candidate, Propagation, Tracklet
from steerseg.tracking.packed_masks import RefilledTrack
from steerseg.words.counting import instances_meant
from steerseg.words.nouns import noun_phrases

if TYPE_CHECKING:  # which calls this
    from steerseg.pipeline import SteerSeg

ANCHORS = 2
"""Most keyframes that show the object, which are looked at again beside the added ones."""

LEAST_OVERLAP = 0.5
"""Least IoU with the tracklet on each anchor that a candidate of an added keyframe is tracked to."""

LEAST_QUALITY = 0.5
"""Least overlap with an object that the segmenter itself expects of a candidate's mask."""

LEAST_CORRELATION = 0.5
"""Least correlation of a candidate with the maps, as a share of that of the first."""

_NOTHING_BETWEEN = "Keyframes that were added between the first show nothing more likely."

_Report = Callable[[str, float], None]


def look_between(
    steerseg: SteerSeg,
    first: Finding,
    config: PipelineConfig,
    soft_prompts: SoftPrompts | None,
    report: _Report,
    tried: Callable[[Presence], None] = lambda presence: None,
) -> Finding:
    """What keyframes between the first ones show, where the judge does not accept the first finding; else the first.

    The judge has to accept what is found there. So the first finding stays where presence is not judged.

    Args:
        steerseg: The models.
        first: What the first keyframes show.
        config: ``added_keyframes`` counts here.
        soft_prompts: Those that take part.
        report: Called with the stage ``added keyframes`` and the fraction of its current part that is done.
        tried: Told of the presence by the added keyframes, for measurements.
    """
    video = first.case.video
    if first.presence.value is None or steerseg.judge.accepts(first.presence):
        return first
    added = moments_between(video.pts, first.case.maps.keyframes, config.added_keyframes)
    if not added:
        return first
    again = steerseg.find(
        video,
        first.reading,
        added,
        config,
        soft_prompts,
        lambda _, done: report("added keyframes", done),
    )
    tried(again.presence)
    if not steerseg.judge.accepts(again.presence):
        return replace(first, note=_NOTHING_BETWEEN) if first.presence.refused else first
    found = again.candidates.on_keyframes.candidates[again.ranking[0].index].prompt.frame
    return replace(
        again, note=f"Found at {video.pts[found]:.1f} s, on a keyframe that was added between the first."
    )


def with_returns(
    steerseg: SteerSeg,
    found: Finding,
    tracklets: tuple[Tracklet, ...],
    config: PipelineConfig,
    soft_prompts: SoftPrompts | None,
    report: _Report,
) -> tuple[tuple[Tracklet, ...], str]:
    """The tracklets, the first of them with what added keyframes show of it where it showed nothing; and a note.

    Left as they are where the judge does not accept what was found, and where several objects are meant.

    Args:
        steerseg: The models.
        found: What was tracked.
        tracklets: The ranked tracklets of the whole video.
        config: ``seek_returns`` and ``added_keyframes`` count here.
        soft_prompts: Those that take part.
        report: Called with the stage ``added keyframes`` and the fraction of its current part that is done.
    """
    if not config.seek_returns or not tracklets or instances_meant(found.reading.text):
        return tracklets, ""
    if not steerseg.judge.accepts(found.presence):
        return tracklets, ""
    first, *others = tracklets
    video, encoded = found.case.video, found.features.encoded
    empty = np.array([mask_area(rle) == 0 for rle in first.rles])
    seen = (*found.case.maps.keyframes, *np.flatnonzero(~empty).tolist())
    added = moments_between(video.pts, seen, config.added_keyframes, within=empty)
    anchors = _anchors(found, empty)
    if not added or not anchors:
        return tracklets, ""
    again = steerseg.room.work(
        "the search on added keyframes",
        lambda: _seen_on(steerseg, found, added, anchors, config, soft_prompts, report),
    )
    if again is None:
        return tracklets, ""
    start = found.candidates.on_keyframes.candidates[found.ranking[0].index]
    memories = {**start.memories, **again.memories}
    joined = replace(start, memories=memories, tracked=None, origin=start.first_frame)
    stretch = _stretch(empty, again.first_frame)
    track = RefilledTrack(first.rles, first.frame_scores, stretch, video.height, video.width)
    steerseg.room.work(
        "the tracking from added keyframes",
        lambda: steerseg.tracker.follow(
            encoded, [joined], [track], lambda done: report("added keyframes", done), frames=stretch
        ),
    )
    filled = replace(first, rles=track.rles, frame_scores=track.presence)
    seen_at = video.pts[again.first_frame]
    return (filled, *others), f"Seen again at {seen_at:.1f} s, on a keyframe that was added."


def _seen_on(
    steerseg: SteerSeg,
    found: Finding,
    added: Sequence[int],
    anchors: Sequence[int],
    config: PipelineConfig,
    soft_prompts: SoftPrompts | None,
    report: _Report,
) -> Candidate | None:
    """The best candidate of the added keyframes that is the first one by every sign; ``None`` where none is.

    The added keyframes are looked at together with the anchors, so that the maps, which always have a peak, have it
    there where nothing of the object is on the added ones.
    """

    def reported(_: str, done: float) -> None:
        report("added keyframes", done)

    video, reading = found.case.video, found.case.reading
    frames = tuple(sorted({*added, *anchors}))
    context = steerseg.encode_keyframes(video, config, reported, keyframes=frames)
    features = VideoFeatures(context, found.features.encoded)
    maps = steerseg.ground(features, reading.text, found.attributes, config, soft_prompts, reported)
    points = [point for point in point_prompts(maps, config) if point.frame in added]
    phrases = noun_phrases((reading.text, *found.attributes))
    candidates = steerseg.finder.find(
        features.encoded, points, frames, phrases, config, lambda done: reported("", done)
    )
    # On the anchors it may have the first one's masks: it is looked at on the added keyframes alone.
    case = replace(found.case, maps=maps, on_keyframes=candidates.on_keyframes.on(added), context=context)
    for ranked in steerseg.rank(candidates, maps, replace(config, alternatives=config.max_candidates)):
        candidate = candidates.on_keyframes.candidates[ranked.index]
        if (
            candidate.first_frame in added
            and candidate.predicted_iou >= LEAST_QUALITY
            and ranked.correlation >= LEAST_CORRELATION * found.ranking[0].correlation
            and _is_same(found, candidates.on_keyframes, ranked.index, anchors)
            and _is_accepted(steerseg, case, ranked, config)
        ):
            return candidate
    return None


def _is_same(found: Finding, again: Propagation, index: int, anchors: Sequence[int]) -> bool:
    """Whether a candidate of the added keyframes is tracked to the first one on every anchor."""
    first = found.case.on_keyframes
    shown, tracked = first.masks(found.ranking[0].index), again.masks(index)
    return all(
        iou(shown[first.frames.index(anchor)], tracked[again.frames.index(anchor)]) >= LEAST_OVERLAP
        for anchor in anchors
    )


def _is_accepted(steerseg: SteerSeg, case: Case, ranked: RankedCandidate, config: PipelineConfig) -> bool:
    """Whether the judge accepts a candidate as what the expression means."""
    look = steerseg.judge.look(case, ranked.index, ranked.correlation)
    return steerseg.judge.accepts(steerseg.judge.presence(case, look, ranked.score, config))


def _anchors(found: Finding, empty: NDArray[np.bool_]) -> tuple[int, ...]:
    """The keyframes that show the most of the first candidate, where its tracklet shows it as well."""
    first = found.case.on_keyframes
    areas = {
        frame: int(mask.sum())
        for frame, mask in zip(first.frames, first.frame_masks(found.ranking[0].index), strict=True)
        if not empty[frame] and mask.any()
    }
    return tuple(sorted(sorted(areas, key=lambda frame: -areas[frame])[:ANCHORS]))


def _stretch(empty: NDArray[np.bool_], frame: int) -> tuple[int, ...]:
    """The frames around one that are empty without a break."""
    full = np.flatnonzero(~empty)
    start = int(max((other + 1 for other in full if other < frame), default=0))
    end = int(min((other for other in full if other > frame), default=len(empty)))
    return tuple(range(start, end))
