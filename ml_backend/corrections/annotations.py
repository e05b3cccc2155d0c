"""From an annotation's results to what its annotator decided, instance by instance and frame by frame."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from ml_backend.corrections.instances import Instance, masked_instances, relations
from ml_backend.corrections.records import DecidedFrame, Decision, Problem, Verdict
from ml_backend.corrections.tracks import Tracks, tracked_instances
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import (
    Controls,
    FramesSide,
    VideoSide,
    are_numbered,
    choose_label,
    verdict_word,
)
from ml_backend.label_studio.region_masks import MASK_TYPES, RegionError
from ml_backend.label_studio.results import ResultItem
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import page_stride
from ml_backend.language.expressions import typed_expressions
from ml_backend.models.geometry import box_iou, box_of, upright_box
from steerseg.errors import ExpressionError
from steerseg.reasoning import check_expression

_TWIN_IOU = 0.5
"""A box track that overlaps the masks of an instance by as much, on the pages of both, is the same object."""

_Side = TypeVar("_Side", FramesSide, VideoSide)


@dataclass(frozen=True)
class _Verdicts:
    """The verdict of the whole task, and those of single pages."""

    whole: Verdict | None = None
    pages: Mapping[int, Verdict] = field(default_factory=dict)


def read_annotation(
    annotation: Mapping[str, Any],
    *,
    task_data: Mapping[str, Any],
    label_config: str,
    expression: str | None,
) -> tuple[Decision, ...]:
    """Read an annotation that was not skipped.

    Regions become instances as :mod:`ml_backend.corrections.instances` says. The instance that the expression means
    (see :func:`_primary`) gets it; others have the expression that stands beside their regions or in their note, or
    none: these are exported, and train nothing.

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
    verdicts = _verdicts(results, controls)
    bare = Decision(
        object="",
        expression="",
        side="video" if frames is None else "frames",
        frames={},
        absent_elsewhere=False,
        erased=False,
        verdict=verdicts.whole,
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
        decisions = _sides(bare, annotation, results, frames, video, expression)
    except RegionError as error:
        return (replace(bare, problem=(Problem.UNREADABLE, f"{error}; correct and submit it again")),)
    return _sorted_out(_with_page_verdicts(decisions, verdicts))


def _sides(
    bare: Decision,
    annotation: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    frames: FramesSide | None,
    video: VideoSide | None,
    expression: str | None,
) -> list[Decision]:
    """The decisions on the pages and on the video of a task.

    Raises:
        RegionError: A region is malformed.
    """
    joined, data = relations(annotation), bare.task_data
    masked = [] if frames is None else masked_instances(results, frames, joined)
    tracks = Tracks()
    if video is not None:
        pages, stride = _pages(frames, data), page_stride(data)
        tracks = tracked_instances(results, video, joined, pages=pages, stride=stride, task_data=data)
    bare = replace(bare, notes=_unread(results, frames, video))
    decisions: list[Decision] = []
    if frames is not None:
        typed = _typed(results, frames.task.expression, frames.instance_names)
        decisions += _decide(bare, masked, frames, typed, expression)
    if video is not None:
        typed = _typed(results, video.task.expression, video.labels)
        typed = typed or (decisions[0].expression if decisions else None) or None
        own = [one for one in tracks.instances if not _is_twin(one, masked)]
        beside = replace(bare, notes=(*bare.notes, *tracks.notes), numbering=tracks.numbering)
        if own or not decisions:
            decisions += _decide(beside, own, video, typed, expression)
    return decisions


def read_time(value: object) -> datetime | None:
    """A time as Label Studio writes it; ``None`` for anything else."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


# --- from instances to decisions


def _decide(
    bare: Decision,
    instances: Sequence[Instance],
    side: FramesSide | VideoSide,
    typed: str | None,
    expression: str | None,
) -> list[Decision]:
    """One decision for each instance of a side, the one that the expression means first."""
    noted = next((instance.note for instance in instances if instance.note), None)
    changed = any(frame.changed for instance in instances for frame in instance.frames.values())
    # Masks are noted with the expression that they answer. One that was typed after that was never answered, so it is
    # about something else only where the masks were changed as well.
    meant = (typed if changed else noted) or typed or noted or expression
    if bare.verdict is Verdict.NOT_VISIBLE:
        return [_with_expression(replace(bare, absent_elsewhere=True, proposed_expression=noted), meant)]
    if not instances:
        if bare.verdict is Verdict.REJECT:
            return [_with_expression(bare, meant)]
        return [replace(bare, expression=meant or "", problem=(Problem.EMPTY, _NOTHING))]
    primary = _primary(instances, side, meant)
    if primary is None and bare.verdict is Verdict.REJECT:
        return [_with_expression(bare, meant)]
    # What was typed last is about one of the instances only, where each was asked for by an expression of its own.
    each_noted = len({instance.note for instance in instances if instance.note}) > 1
    ordered = [one for one in instances if one is primary] + [one for one in instances if one is not primary]
    decisions = []
    for instance in ordered:
        own = instance.text or (meant if instance is primary else None)
        if instance.note and (each_noted or (own is None and instance.note != meant)):
            own = instance.text or instance.note
        decisions.append(_decision(bare, instance, own, primary, meant))
    return decisions


def _decision(
    bare: Decision, instance: Instance, own: str | None, primary: Instance | None, meant: str | None
) -> Decision:
    decision = replace(
        bare,
        object=instance.name,
        label=instance.label,
        frames=instance.frames,
        erased=instance.ours,
        proposed_expression=instance.note,
    )
    if own is None and primary is not instance:
        decision = replace(decision, notes=(*decision.notes, _without_words(instance, primary, meant)))
    else:
        decision = _with_expression(decision, own)
    visible = any(frame.rle is not None or frame.boxes for frame in instance.frames.values())
    if not visible and bare.verdict is not Verdict.REJECT:
        decision = replace(decision, problem=(Problem.EMPTY, _NOTHING))
    return decision


_NOTHING = (
    "the annotation shows nothing on any frame; if that is so, choose the verdict “Not visible”, otherwise draw "
    "the object, and submit again"
)
_EXPORTED_ONLY = "it is exported, and no refinement learns from it"


def _without_words(instance: Instance, primary: Instance | None, meant: str | None) -> str:
    """Why an instance has no expression, for a person."""
    if meant is None:
        return f"nothing says what {instance.name!r} is: {_EXPORTED_ONLY}"
    if primary is None:
        return f"{meant!r} may mean {instance.name!r} or another instance: {_EXPORTED_ONLY}"
    return f"{meant!r} is {primary.name!r}, and nothing says what {instance.name!r} is: {_EXPORTED_ONLY}"


def _with_expression(decision: Decision, expression: str | None) -> Decision:
    """The decision with its expression, or with a note why it has none."""
    try:
        if expression is not None:
            return replace(decision, expression=check_expression(expression))
        reason = "neither the annotation nor its task says what was tracked"
    except ExpressionError as error:
        reason = str(error)
    return replace(decision, notes=(*decision.notes, f"{reason}: {_EXPORTED_ONLY}"))


def _primary(
    instances: Sequence[Instance], side: FramesSide | VideoSide, meant: str | None
) -> Instance | None:
    """The instance that the expression means; ``None`` where it may mean several.

    It is one without a text of its own: of the label that the expression names, else, where labels name objects, of
    the first label. Of several, it is one whose note says that it was proposed.
    """
    plain = [instance for instance in instances if instance.text is None] or list(instances)
    labels = _labels_of(side)
    named = choose_label(labels, meant or "", default=False)
    fitting = [instance for instance in plain if instance.label == named]
    if not fitting and _labels_name_instances(side):
        order = {label: index for index, label in enumerate(labels)}
        first = min((order.get(instance.label, len(order)) for instance in plain), default=0)
        fitting = [instance for instance in plain if order.get(instance.label, len(order)) == first]
    fitting = fitting or plain
    noted = [instance for instance in fitting if instance.note]
    noted = [instance for instance in noted if instance.note == meant] or noted
    if noted:
        return noted[0]
    return fitting[0] if len(fitting) == 1 else None


def _is_twin(track: Instance, masked: Sequence[Instance]) -> bool:
    """Whether a box track beside pages is an instance that has masks there."""
    return track.text is None and any(
        track.regions & instance.regions or _box_overlap(track, instance) >= _TWIN_IOU for instance in masked
    )


def _box_overlap(track: Instance, instance: Instance) -> float:
    """Mean overlap in [0, 1] of boxes and masks, over the pages that have both."""
    overlaps = []
    for page, frame in track.frames.items():
        mask = instance.frames.get(page)
        box = None if mask is None or mask.rle is None else box_of(mask.rle)
        if frame.boxes and box is not None and mask is not None and mask.rle is not None:
            height, width = mask.rle["size"]
            overlaps.append(box_iou(box, upright_box(frame.boxes[0], height, width)))
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def _with_page_verdicts(decisions: Sequence[Decision], verdicts: _Verdicts) -> list[Decision]:
    """The decisions, where each page has a verdict of its own: a rejected page decides nothing."""
    rejected = frozenset(page for page, verdict in verdicts.pages.items() if verdict is Verdict.REJECT)
    absent = [page for page, verdict in verdicts.pages.items() if verdict is Verdict.NOT_VISIBLE]
    judged = []
    for decision in decisions:
        if decision.side != "frames" or not decision.frames:
            judged.append(decision)
            continue
        frames = {page: frame for page, frame in decision.frames.items() if page not in rejected}
        frames |= {page: DecidedFrame(rle=None, changed=True) for page in absent}
        left = replace(decision, frames=dict(sorted(frames.items())), undecided=rejected)
        shown = any(frame.rle is not None or frame.boxes for frame in frames.values())
        if rejected and not shown and decision.problem is None:
            left = replace(left, problem=(Problem.EMPTY, f"every page of {decision.object!r} was rejected"))
        judged.append(left)
    if rejected and all(decision.problem is not None and not decision.frames for decision in judged):
        return [replace(decision, verdict=Verdict.REJECT, problem=None) for decision in judged]
    return judged


def _sorted_out(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Without what shows nothing beside something that does; a rejected task is one decision."""
    useful = [d for d in decisions if d.problem is None or d.problem[0] is not Problem.EMPTY]
    kept = useful or decisions[:1]
    if kept[0].verdict in (Verdict.REJECT, Verdict.NOT_VISIBLE):
        kept = kept[:1]  # the verdict is about what the task asks for, not about what stands beside it
    return tuple(kept)


def _unread(
    results: Iterable[Mapping[str, Any]], frames: FramesSide | None, video: VideoSide | None
) -> tuple[str, ...]:
    """What is drawn on media that nobody reads, for a person."""
    drawn = (*MASK_TYPES, "videorectangle")
    read = {side.name for side in (frames, video) if side is not None}
    items = [item for item in map(ResultItem, results) if item.type.lower() in drawn and "value" in item.raw]
    unread = Counter(item.side for item in items if item.side is not None and item.side not in read)
    return tuple(
        f"{number} regions on {name!r} are not read: the task shows no such media"
        for name, number in sorted(unread.items())
    )


# --- single values


def _present(side: _Side | None, task_data: Mapping[str, Any]) -> _Side | None:
    """The side, where the task has media for it."""
    return side if side is not None and task_value(task_data, side.data_key) else None


def _labels_of(side: FramesSide | VideoSide) -> tuple[str, ...]:
    """The labels of the side's objects, in their order."""
    return side.mask.labels if isinstance(side, FramesSide) else side.labels


def _labels_name_instances(side: FramesSide | VideoSide) -> bool:
    return side.labels_name_instances if isinstance(side, FramesSide) else are_numbered(side.labels)


def _pages(side: FramesSide | None, task_data: Mapping[str, Any]) -> int | None:
    pages = None if side is None else task_value(task_data, side.data_key)
    return len(pages) if isinstance(pages, Sequence) and not isinstance(pages, str) else None


def _results(annotation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping):
            yield result


def _verdicts(results: Iterable[Mapping[str, Any]], controls: Controls) -> _Verdicts:
    """The last verdict that was chosen in a control that asks for it, of the task and of each page."""
    sides = [side for side in (controls.frames, controls.video) if side is not None]
    asked = {side.task.verdict.name: side.task.verdict for side in sides if side.task.verdict is not None}
    whole: Verdict | None = None
    pages: dict[int, Verdict] = {}
    for item in map(ResultItem, results):
        control = asked.get(item.control or "") if item.type == "choices" else None
        chosen = [word for choice in item.labels("choices") if (word := verdict_word(choice)) is not None]
        if control is None or not chosen:
            continue
        verdict = Verdict(chosen[-1])
        page = _integer(item.raw.get("item_index"))
        if control.per_item and page is not None:
            pages[page] = verdict
        else:
            whole = verdict
    if whole is None and pages and set(pages.values()) == {Verdict.ACCEPT}:
        whole = Verdict.ACCEPT
    return _Verdicts(whole, pages)


def _typed(results: Iterable[Mapping[str, Any]], control: str | None, labels: Sequence[str]) -> str | None:
    """The last expression that was typed into a control of the whole task.

    A candidate's number does not count, nor what is refused where it is typed, unless there is nothing else.
    """
    items = [item for item in map(ResultItem, results) if item.is_from(control)]
    texts = [text for item in items for text in item.texts if text.strip()]
    for expression in typed_expressions(texts, labels):
        with contextlib.suppress(ExpressionError):
            return check_expression(expression)
    return texts[-1] if texts else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
