"""Targets that are visible for a part of the time: what is shown of them, with and without added keyframes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import ClipQuestions, Masks, mean_iou
from steerseg.pipeline import SteerSeg
from steerseg.presence.added_keyframes import look_between, with_returns
from steerseg.presence.findings import Finding
from steerseg.presence.signals import Presence
from steerseg.statistics import bootstrap_mean
from steerseg.tracking import Tracklet
from steerseg.video import keyframe_indices

ADDED = 7
"""Added keyframes, where the preset adds none: one for each gap between eight keyframes."""


_NOTHING = 0.3  # CPU seconds of a step that has nothing to do, at most


class LateRow(BaseModel):
    """One expression; J is in [0, 1], on all frames, of what is shown.

    Attributes:
        video: The clip.
        visit: When the target is visible, or the kind of what is not there; see :mod:`benchmarks.meaning.visits`.
        text: The expression.
        frames: Of the clip.
        before: J without added keyframes.
        after: J with them.
        before_visible: J on the frames that show the target, without added keyframes; ``None`` where none does.
        after_visible: The same with them.
        before_shown: Whether anything is shown without added keyframes.
        after_shown: The same with them.
        before_presence: Presence in [0, 1] without added keyframes; ``None`` where it was not judged.
        between_presence: Presence by the keyframes between the first; ``None`` where none were looked at.
        between: Whether what those show took the place of the first finding.
        returned: Whether an added keyframe filled a stretch of the tracklet.
        seconds: CPU seconds without added keyframes.
        between_seconds: CPU seconds on top for keyframes between the first, and for tracking what they show.
        returns_seconds: CPU seconds on top for keyframes where the tracklet shows nothing.
    """

    video: str
    visit: str
    text: str
    frames: int
    before: float
    after: float
    before_visible: float | None
    after_visible: float | None
    before_shown: bool
    after_shown: bool
    before_presence: float | None
    between_presence: float | None
    between: bool
    returned: bool
    seconds: float
    between_seconds: float
    returns_seconds: float


def measure_late(steerseg: SteerSeg, one: ClipQuestions) -> list[LateRow]:
    """Propose for the expression of a clip as :meth:`SteerSeg.propose` does, without added keyframes and with them."""
    (expression,) = one.clip.entry.expressions
    config = replace(steerseg.config, alternatives=1)
    config = replace(config, added_keyframes=config.added_keyframes or ADDED, seek_returns=True)
    steering, truth = steerseg.steering(config), one.clip.masks(expression)
    looked: list[Presence] = []

    def tracked(found: Finding) -> tuple[Tracklet, ...]:
        return steerseg.track(found.features, found.candidates, found.ranking)

    def report(stage: str, fraction: float) -> None:
        """Nobody waits for it."""

    begin = time.process_time()
    reading = steerseg.read(expression.text, config)
    keyframes = keyframe_indices(len(one.video), config.keyframes)
    first = steerseg.find(one.video, reading, keyframes, config, steering)
    before = tracked(first)
    seconds = time.process_time() - begin
    begin = time.process_time()
    found = look_between(steerseg, first, config, steering, report, tried=looked.append)
    after = before if found.case is first.case else tracked(found)
    between_seconds = time.process_time() - begin
    begin = time.process_time()
    after, note = with_returns(steerseg, found, after, config, steering, report)
    returns_seconds = time.process_time() - begin
    masks = [_shown(each, tracklets, truth) for each, tracklets in ((first, before), (found, after))]
    there = truth.any((1, 2))
    return [
        LateRow(
            video=one.clip.entry.video,
            visit=expression.kind,
            text=expression.text,
            frames=len(truth),
            before=mean_iou(masks[0], truth),
            after=mean_iou(masks[1], truth),
            before_visible=mean_iou(masks[0][there], truth[there]) if there.any() else None,
            after_visible=mean_iou(masks[1][there], truth[there]) if there.any() else None,
            before_shown=bool(masks[0].any()),
            after_shown=bool(masks[1].any()),
            before_presence=first.presence.value,
            between_presence=looked[0].value if looked else None,
            between=found.case is not first.case,
            returned=bool(note),
            seconds=seconds,
            between_seconds=between_seconds,
            returns_seconds=returns_seconds,
        )
    ]


def _shown(found: Finding, tracklets: Sequence[Tracklet], truth: Masks) -> Masks:
    """The masks (T, H, W) that a person is shown."""
    return np.zeros_like(truth) if found.presence.refused or not tracklets else tracklets[0].masks


def describe_late(rows: Sequence[LateRow]) -> Iterator[str]:
    """The lines of two tables."""
    yield "| target | number | shown | J without | J with | gain | J where it is visible | gain there | changed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    visits = dict.fromkeys(row.visit for row in rows)
    groups = {
        "**all**": list(rows),
        **{visit: [row for row in rows if row.visit == visit] for visit in visits},
    }
    for name, group in groups.items():
        if group:
            clips = [row.video for row in group]
            before, after = (
                np.array([getattr(row, field) for row in group]) for field in ("before", "after")
            )
            cells = [bootstrap_mean(values, clips) for values in (before, after, after - before)]
            shown = f"{sum(row.before_shown for row in group)} → {sum(row.after_shown for row in group)}"
            changed = sum(row.between or row.returned for row in group)
            visible = " | ".join(_visible(group))
            yield f"| {name} | {len(group)} | {shown} | {' | '.join(map(str, cells))} | {visible} | {changed} |"
    yield ""
    yield "| keyframes are added | clips | CPU seconds on top, mean | CPU seconds without, mean | changed |"
    yield "|---|---|---|---|---|"
    between = [row for row in rows if row.between_seconds > _NOTHING]
    returns = [row for row in rows if row.returns_seconds > _NOTHING]
    found, filled = sum(row.between for row in rows), sum(row.returned for row in rows)
    yield _cost("between the first", between, [row.between_seconds for row in between], found)
    yield _cost("where the tracklet shows nothing", returns, [row.returns_seconds for row in returns], filled)


def _cost(name: str, group: Sequence[LateRow], added: Sequence[float], changed: int) -> str:
    seconds, base = (float(np.mean(each or [0.0])) for each in (added, [row.seconds for row in group]))
    return f"| {name} | {len(group)} | {seconds:.1f} | {base:.1f} | {changed} |"


def _visible(group: Sequence[LateRow]) -> list[str]:
    """J with added keyframes on the frames that show the target, and its gain; of clips that have such frames."""
    seen = [row for row in group if row.before_visible is not None and row.after_visible is not None]
    if not seen:
        return ["", ""]
    after = np.array([row.after_visible for row in seen], dtype=np.float64)
    gain = after - np.array([row.before_visible for row in seen], dtype=np.float64)
    clips = [row.video for row in seen]
    return [str(bootstrap_mean(values, clips)) for values in (after, gain)]
