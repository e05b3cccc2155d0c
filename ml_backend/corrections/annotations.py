"""From an annotation's results to what its annotator decided, object by object and frame by frame."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from ml_backend.corrections.records import DecidedFrame, Decision, Problem, Verdict
from ml_backend.expressions import typed_expressions
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide, choose_label
from ml_backend.label_studio.frame_numbers import renumbered
from ml_backend.label_studio.region_masks import PageMask, RegionError, masks_by_page, page_masks, track_boxes
from ml_backend.label_studio.results import region_labels
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import page_stride
from ml_backend.models.geometry import TrackBox
from steerseg.errors import ExpressionError
from steerseg.masks import encode_rle
from steerseg.reasoning import check_expression

MAX_FRAMES = 50_000
"""Tracks that claim to be longer are refused before anything is allocated for them."""

_OURS = re.compile(r"t\d+-[0-9a-f]{10}(-f\d+(-\d+)?)?")
_EXACT = ("brush", "bitmask")
_Side = TypeVar("_Side", FramesSide, VideoSide)

_VERDICTS: dict[Verdict, frozenset[str]] = {
    Verdict.NOT_VISIBLE: frozenset({"not visible", "invisible", "absent", "not there", "not in the video"}),
    Verdict.REJECT: frozenset({"reject", "rejected", "bad", "wrong", "no", "incorrect", "discard"}),
    Verdict.ACCEPT: frozenset(
        {"accept", "accepted", "good", "right", "yes", "correct", "ok", "okay", "keep"}
    ),
}


@dataclass
class _Group:
    """The regions of one object."""

    name: str
    label: str
    text: str | None  # typed beside its regions
    note: str | None  # the expression in the note of a proposed region
    ours: bool  # whether a proposed region is among them
    frames: dict[int, DecidedFrame]


def read_annotation(
    annotation: Mapping[str, Any],
    *,
    task_data: Mapping[str, Any],
    label_config: str,
    expression: str | None,
) -> tuple[Decision, ...]:
    """Read an annotation that was not skipped.

    Regions of one label are one object; a text typed beside a box track makes it an object of its own. The
    object that carries the expression's label (see :func:`choose_label`) is what the expression means; others
    need an expression of their own.

    Args:
        annotation: The annotation as Label Studio sends it.
        task_data: The data of its task.
        label_config: The project's labelling configuration.
        expression: The task's own expression, for where the annotation names none.

    Returns:
        At least one decision; what cannot be used says why.

    Raises:
        ConfigError: The labelling configuration is unusable.
    """
    controls = parse_controls(label_config)
    frames = _present(controls.frames, task_data)
    video = _present(controls.video, task_data)
    results = list(_results(annotation))
    bare = Decision(
        object="",
        expression="",
        side="video" if frames is None else "frames",
        frames={},
        absent_elsewhere=False,
        erased=False,
        verdict=_verdict(results, controls),
        proposed_expression=None,
        parent_prediction=_integer(annotation.get("parent_prediction")),
        task_data=task_data,
        label_config=label_config,
        lead_time=_number(annotation.get("lead_time")),
        created_at=read_time(annotation.get("created_at")),
        updated_at=read_time(annotation.get("updated_at")),
    )
    if frames is None and video is None:
        reason = "the task's data no longer has the media that the labelling configuration shows"
        return (replace(bare, problem=(Problem.MEDIA_GONE, reason)),)
    try:
        masked = [] if frames is None else _masked(results, frames)
        tracked = [] if video is None else _tracked(results, video, _pages(frames, task_data), task_data)
    except RegionError as error:
        return (replace(bare, problem=(Problem.UNREADABLE, f"{error}; correct and submit it again")),)
    decisions: list[Decision] = []
    for side, groups in ((frames, masked), (video, tracked)):
        if side is not None and (groups or not decisions):
            own = _typed(results, side.task.expression, _labels_of(side))
            own = own or (decisions[0].expression if decisions else None)
            decisions += _decide(bare, groups, side, own, expression)
    return _sorted_out(decisions)


def read_time(value: object) -> datetime | None:
    """A time as Label Studio writes it; ``None`` for anything else."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


# --- from regions to groups


def _masked(results: Sequence[Mapping[str, Any]], side: FramesSide) -> list[_Group]:
    """The mask regions of each label."""
    by_label: dict[str, list[PageMask]] = {}
    for mask in page_masks(r for r in results if r.get("to_name") in (side.name, None)):
        by_label.setdefault(mask.labels[0] if mask.labels else "", []).append(mask)
    kinds = {control.name: control.kind for control in side.masks}
    notes = _notes(results)
    groups = []
    for label, masks in by_label.items():
        changed: dict[int, bool | None] = {}
        for mask in masks:
            reported = _reported_change(mask.origin, kinds.get(mask.control, "") in _EXACT)
            # One changed region changes its page; one that nothing is known of leaves it open.
            changed[mask.page] = _any_changed(changed.get(mask.page, reported), reported)
        groups.append(
            _Group(
                name=label,
                label=label,
                text=None,
                note=next((notes[mask.region_id] for mask in masks if mask.region_id in notes), None),
                ours=any(_is_ours(mask.region_id, mask.origin) for mask in masks),
                frames={
                    page: DecidedFrame(
                        rle=encode_rle(mask) if mask.any() else None, changed=changed.get(page, True)
                    )
                    for page, mask in masks_by_page(masks).items()
                },
            )
        )
    return groups


def _tracked(
    results: Sequence[Mapping[str, Any]],
    side: VideoSide,
    pages: int | None,
    task_data: Mapping[str, Any],
) -> list[_Group]:
    """The box tracks of each label and text, by frame of the video; by page where there are pages."""
    texts = {
        str(r.get("id")): text
        for r in results
        if side.task.region_text is not None and r.get("from_name") == side.task.region_text
        for text in _texts(r)
        if text.strip()
    }
    labels = {
        str(r.get("id")): region_labels(r) for r in results if str(r.get("type", "")).lower() == "labels"
    }
    notes = _notes(results)
    tracks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        if str(result.get("type", "")).lower() == "videorectangle":
            number = str(result.get("id"))
            label = next(iter(region_labels(result) or labels.get(number, ())), "")
            value = renumbered(result["value"], side.fps(task_data))
            tracks.setdefault((texts.get(number, ""), label), []).append({**result, "value": value})
    return [
        _Group(
            name=f"track {text or label}",
            label=label,
            text=text or None,
            note=next((notes[str(r.get("id"))] for r in members if str(r.get("id")) in notes), None),
            ours=False,
            frames=_track_frames(members, pages, page_stride(task_data)),
        )
        for (text, label), members in tracks.items()
    ]


def _track_frames(
    tracks: Sequence[Mapping[str, Any]], pages: int | None, stride: int
) -> dict[int, DecidedFrame]:
    """What one or several tracks of an object decide: boxes at keyframes, nothing outside of lifespans.

    Frames between keyframes are left to SAM 2, since a straight line between boxes only comes near. Where the
    media are pages, each page counts whose frame, or one nearer to it than to the next page, is a keyframe.
    """
    boxes: dict[int, list[TrackBox]] = {}
    shown: set[int] = set()
    total = 0
    for track in tracks:
        length = _integer(track["value"].get("framesCount"))
        try:
            keyframes = {int(key["frame"]) - 1 for key in track["value"]["sequence"]}
        except (KeyError, TypeError, ValueError) as error:
            raise RegionError(f"track {track.get('id')!r} has keyframes that cannot be read") from error
        length = max(length or 0, max(keyframes, default=-1) + 1)
        if length > MAX_FRAMES:
            raise RegionError(f"track {track.get('id')!r} has {length} frames; at most {MAX_FRAMES} are read")
        positions = track_boxes(track, length)  # (T, 5)
        if not np.isfinite(positions[~np.isnan(positions).any(axis=1)]).all():
            raise RegionError(f"track {track.get('id')!r} has boxes that are not numbers")
        if pages is not None:
            keyframes = {round(frame / stride) for frame in keyframes}
            positions = positions[: pages * stride : stride]
        for index, position in enumerate(positions):
            if not np.isnan(position).any():
                shown.add(index)
                if index in keyframes:
                    x, y, width, height, rotation = position.tolist()
                    boxes.setdefault(index, []).append((x, y, width, height, rotation))
        total = max(total, len(positions))
    decided = {index: DecidedFrame(rle=None, boxes=tuple(drawn)) for index, drawn in boxes.items()}
    hidden = {index: DecidedFrame(rle=None) for index in range(total) if index not in shown}
    return dict(sorted((decided | hidden).items()))


# --- from groups to decisions


def _decide(
    bare: Decision,
    groups: Sequence[_Group],
    side: FramesSide | VideoSide,
    typed: str | None,
    expression: str | None,
) -> list[Decision]:
    """One decision for each group of a side, the one that the expression means first."""
    noted = next((group.note for group in groups if group.note), None)
    changed = any(frame.changed for group in groups for frame in group.frames.values())
    # Masks are noted with the expression that they answer. One that was typed after that was never answered, so it is
    # about something else only where the masks were changed as well.
    meant = (typed if changed else noted) or typed or noted or expression
    if bare.verdict is Verdict.NOT_VISIBLE:
        return [_with_expression(replace(bare, absent_elsewhere=True, proposed_expression=noted), meant)]
    primary = _primary(groups, side, meant)
    if primary is None:
        if bare.verdict is Verdict.REJECT:
            return [_with_expression(bare, meant)]
        return [replace(bare, expression=meant or "", problem=(Problem.EMPTY, _NOTHING))]
    decisions = []
    # What was typed last is about one of the objects only, where each was asked for by an expression of its own.
    each_noted = len({group.note for group in groups if group.note}) > 1
    for group in (primary, *(group for group in groups if group is not primary)):
        own = group.text or (meant if group is primary else None)
        if each_noted and group.note:
            own = group.text or group.note
        if own is None and group.note not in (None, meant):
            own = group.note
        decision = replace(
            bare,
            object=group.name,
            frames=group.frames,
            erased=group.ours,
            proposed_expression=group.note,
        )
        visible = any(frame.rle is not None or frame.boxes for frame in group.frames.values())
        if own is None and group is not primary:
            reason = (
                f"nothing says what {group.label or 'the object without a label'!r} is, beside "
                f"{primary.label or 'the object without a label'!r} for {meant!r}; annotate it in a task of "
                "its own"
            )
            decision = replace(decision, problem=(Problem.NO_EXPRESSION, reason))
        else:
            decision = _with_expression(decision, own)
            if not visible and bare.verdict is not Verdict.REJECT:
                decision = replace(decision, problem=(Problem.EMPTY, _NOTHING))
        decisions.append(decision)
    return decisions


_NOTHING = (
    "the annotation shows nothing on any frame; if that is so, choose the verdict “Not visible”, otherwise draw "
    "the object, and submit again"
)


def _with_expression(decision: Decision, expression: str | None) -> Decision:
    """The decision with its expression, or with the reason why it has none."""
    if expression is None:
        reason = "neither the annotation nor its task says what was tracked; type it into the task and update"
        return replace(decision, problem=(Problem.NO_EXPRESSION, reason))
    try:
        return replace(decision, expression=check_expression(expression))
    except ExpressionError as error:
        return replace(decision, problem=(Problem.NO_EXPRESSION, str(error)))


def _primary(groups: Sequence[_Group], side: FramesSide | VideoSide, meant: str | None) -> _Group | None:
    """The group that the expression means: the only one, the expression's label's, or the first label's."""
    plain = [group for group in groups if group.text is None] or list(groups)
    labels = _labels_of(side)
    chosen = choose_label(labels, meant or "")
    order = {label: index for index, label in enumerate(labels)}
    ranked = sorted(plain, key=lambda group: (group.label != chosen, order.get(group.label, len(order))))
    return ranked[0] if ranked else None


def _sorted_out(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Without what says nothing beside something that does, and without boxes of an object that has masks."""
    useful = [d for d in decisions if d.problem is None or d.problem[0] is not Problem.EMPTY]
    kept: list[Decision] = []
    for decision in useful or decisions[:1]:
        twin = any(
            d.expression == decision.expression and d.object != decision.object and d.problem is None
            for d in kept
        )
        if decision.problem is not None or not twin or not _only_boxes(decision):
            kept.append(decision)
    if kept[0].verdict in (Verdict.REJECT, Verdict.NOT_VISIBLE):
        kept = kept[:1]  # the verdict is about what the task asks for, not about what stands beside it
    return tuple(kept)


def _only_boxes(decision: Decision) -> bool:
    return all(frame.rle is None for frame in decision.frames.values())


# --- single values


def _present(side: _Side | None, task_data: Mapping[str, Any]) -> _Side | None:
    """The side, where the task has media for it."""
    return side if side is not None and task_value(task_data, side.data_key) else None


def _labels_of(side: FramesSide | VideoSide) -> tuple[str, ...]:
    """The labels of the side's objects, in their order."""
    return side.mask.labels if isinstance(side, FramesSide) else side.labels


def _pages(side: FramesSide | None, task_data: Mapping[str, Any]) -> int | None:
    pages = None if side is None else task_value(task_data, side.data_key)
    return len(pages) if isinstance(pages, Sequence) and not isinstance(pages, str) else None


def _results(annotation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping):
            yield result


def _verdict(results: Iterable[Mapping[str, Any]], controls: Controls) -> Verdict | None:
    """The last verdict that was chosen; choices of other controls count only if there is no verdict control."""
    sides = [side for side in (controls.frames, controls.video) if side is not None]
    names = {side.task.verdict.name for side in sides if side.task.verdict is not None}
    chosen = None
    for result in results:
        if result.get("type") == "choices" and result.get("from_name") in names:
            for choice in region_labels(result, "choices"):
                text = " ".join(re.split(r"[\s_-]+", choice.strip().casefold()))
                chosen = next((verdict for verdict, known in _VERDICTS.items() if text in known), chosen)
    return chosen


def _typed(results: Iterable[Mapping[str, Any]], control: str | None, labels: Sequence[str]) -> str | None:
    """The last expression that was typed into a control of the whole task.

    A candidate's number does not count, nor what is refused where it is typed, unless there is nothing else.
    """
    texts = [
        text
        for r in results
        if control is not None and r.get("from_name") == control
        for text in _texts(r)
        if text.strip()
    ]
    for expression in typed_expressions(texts, labels):
        with contextlib.suppress(ExpressionError):
            return check_expression(expression)
    return texts[-1] if texts else None


def _texts(result: Mapping[str, Any]) -> list[str]:
    texts = result["value"].get("text")
    if isinstance(texts, str):
        return [texts]
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _notes(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The expressions in the notes of proposed regions; annotators write notes of their own into others."""
    notes = {}
    for result in results:
        number, meta = str(result.get("id")), result.get("meta")
        lines = meta.get("text") if isinstance(meta, Mapping) else None
        proposed = _is_ours(number, str(result.get("origin", "")))
        if proposed and isinstance(lines, list) and lines and isinstance(lines[0], str) and lines[0].strip():
            notes[number] = lines[0]
    return notes


def _is_ours(region: str, origin: str) -> bool:
    return origin.startswith("prediction") or _OURS.fullmatch(region) is not None


def _reported_change(origin: str, exact: bool) -> bool | None:
    """What Label Studio says of a region; it notes changes of brush and bitmask regions alone."""
    if origin == "prediction-changed":
        return True
    return False if origin == "prediction" and exact else None


def _any_changed(one: bool | None, other: bool | None) -> bool | None:
    if one or other:
        return True
    return None if one is None or other is None else False


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
