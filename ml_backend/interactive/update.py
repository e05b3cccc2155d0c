"""From a call and the draft beside it to what is remembered of a task: pure steps, without model or database."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ml_backend.interactive.request import InteractiveRequest, Mark, Regions
from ml_backend.interactive.state import NOTHING, InstanceState, TaskState, fingerprint
from steerseg.masks import RLE, decode_rle, encode_rle


class Event(enum.StrEnum):
    """What a call is."""

    WORDS = "words"
    MARKS = "marks"


@dataclass(frozen=True)
class Heard:
    """A call, taken in.

    Attributes:
        event: What it is.
        place: The object that it is about.
        task: What is remembered from now on.
    """

    event: Event
    place: int
    task: TaskState


def hear(task: TaskState, told: InteractiveRequest, draft: Regions | None, labels: Sequence[str]) -> Heard:
    """Take a call in.

    Label Studio sends the chosen object with words; of clicks and boxes the draft tells it, seconds late. So a
    mark beside the object in hand that lies on another one is about that one.

    Args:
        task: What is remembered.
        told: The call; there is something to do in it.
        draft: The draft beside it.
        labels: Of the objects, in their order.
    """
    task = with_draft(task, draft)
    if not told.marks:
        place = labels.index(told.chosen) if told.chosen in labels else task.active
        return Heard(Event.WORDS, place, replace(task, active=place, chosen=told.chosen or task.chosen))
    chosen = "" if draft is None else draft.chosen
    place = task.active
    if told.label in labels:
        place = labels.index(told.label)
    elif chosen in labels and chosen != task.chosen:
        place = labels.index(chosen)
    else:
        place = _under(task, told.marks[-1])
    return Heard(Event.MARKS, place, replace(task, active=place, chosen=chosen or task.chosen))


def _under(task: TaskState, mark: Mark) -> int:
    """The object that a mark lies on; the one in hand where it lies on it, or on none."""
    x, y = mark.x + mark.width / 2, mark.y + mark.height / 2

    def lies_on(steered: InstanceState) -> bool:
        shown = steered.painted.get(mark.frame)
        if shown is None and mark.frame < len(steered.shown):
            shown = steered.shown[mark.frame]
        if shown is None:
            return False
        height, width = shown["size"]
        return bool(decode_rle(shown)[min(int(y * height), height - 1), min(int(x * width), width - 1)])

    hit = [place for place, steered in sorted(task.objects.items()) if lies_on(steered)]
    return task.active if not hit or task.active in hit else hit[0]


def with_draft(task: TaskState, draft: Regions | None) -> TaskState:
    """What is remembered, with what the annotator painted, erased, removed or deleted since.

    A draft may be older than the last answer. That it is younger is known by the message of that answer in it;
    only then does a missing region mean that the annotator removed it.
    """
    if draft is None:
        return task
    young = bool(task.message) and draft.status == task.message
    for place, steered in list(task.objects.items()):
        gone = young and bool(steered.visible_pages) and not draft.series.get(place)
        if gone and not draft.painted.get(steered.label):
            task = task.without_object(place)
        else:
            task = task.with_object(with_paint(steered, draft, young=young))
    return task


def with_paint(steered: InstanceState, draft: Regions, *, young: bool) -> InstanceState:
    """An object with the pages that the annotator made: those that no answer gave.

    Args:
        steered: The object.
        draft: What stands on the pages.
        young: Whether the draft is younger than the last answer.
    """
    series = draft.series.get(steered.place, {})
    own = draft.painted.get(steered.label, {})
    painted = dict(steered.painted)
    if young:  # what was removed stays so until something stands there again
        painted = {page: rle for page, rle in painted.items() if rle is None and page not in series}
    for page, rle in series.items():
        mark = fingerprint(rle)
        if mark not in steered.known.get(page, ()):
            painted[page] = None if mark == NOTHING else rle
        elif page not in own:
            painted.pop(page, None)
    if young:
        painted |= {page: None for page in steered.visible_pages - series.keys()}
    for page, rle in own.items():
        together = _union(rle, series[page]) if page in series else rle
        painted[page] = None if fingerprint(together) == NOTHING else together
    return replace(steered, painted=dict(sorted(painted.items())))


def adopt(
    place: int, label: str, pages: int, draft: Regions | None, predictions: Sequence[Regions]
) -> InstanceState:
    """An object that nothing is remembered of, from what stands on the pages.

    It is the prediction that the draft is nearest to, or the newest one where there is no draft; pages that
    differ from every prediction are the annotator's. Where most pages do, the draft itself is the track.

    Args:
        place: Its place.
        label: Its label.
        pages: T.
        draft: The draft beside the call.
        predictions: The stored predictions, the newest last.
    """
    drawn = None if draft is None else draft.series.get(place)
    offered = [found for found in predictions if found.series.get(place)]

    def likeness(found: Regions) -> int:
        masks = found.series[place]
        return sum(fingerprint(masks.get(page)) == fingerprint(rle) for page, rle in (drawn or {}).items())

    steered = InstanceState(place, label)
    for found in offered:
        steered = steered.with_known(dict(found.series[place]))
    best = max(enumerate(offered), key=lambda pair: (likeness(pair[1]), pair[0]), default=None)
    source = None if best is None else best[1]
    if drawn and draft is not None and (source is None or 2 * likeness(source) < len(drawn)):
        source = draft
        steered = steered.with_known(dict(drawn))
    if source is not None:
        track = _by_page(source.series[place], pages)
        steered = replace(
            steered,
            expression=source.notes.get(place, ""),
            label=source.labels.get(place, label),
            track=track,
            shown=track,
        )
    return steered if draft is None else with_paint(steered, draft, young=bool(drawn))


def _by_page(masks: Mapping[int, RLE], pages: int) -> tuple[RLE | None, ...]:
    return tuple(masks.get(page) for page in range(pages))


def _union(a: RLE, b: RLE) -> RLE:
    if a["size"] != b["size"]:
        return a
    return encode_rle(decode_rle(a) | decode_rle(b))
