"""What an annotator asks for in an interactive call: texts, clicks, boxes, and the chosen instance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ml_backend.label_studio.controls import FramesSide, VideoSide
from ml_backend.label_studio.results import ResultItem, status_id
from ml_backend.models.geometry import Box

_OFF_THE_OBJECT = ("negative", "background", "exclude", "remove")
"""A click whose label holds one of these lies beside the object."""


@dataclass(frozen=True)
class Prompt:
    """A click or a box of an annotator; positions are fractions of the frame's width and height.

    Attributes:
        id: Label Studio's id of it.
        frame: Index of the page.
        kind: A click or a box.
        x: Position of the click, or of the box's left edge.
        y: Position of the click, or of the box's upper edge.
        width: Width of the box; 0 for a click.
        height: Height of the box; 0 for a click.
        positive: Whether a click lies on the object; true for a box.
    """

    id: str
    frame: int
    kind: Literal["click", "box"]
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    positive: bool = True


@dataclass(frozen=True)
class DrawnTrack:
    """A box track as an annotator drew it; positions are fractions of the frame's width and height.

    Attributes:
        id: Label Studio's id of it.
        label: Its label; ``None`` without one.
        boxes: By Label Studio's frame number, from 1, left edge, upper edge, width and height of each keyframe.
        count: Frames of the video, by the track.
    """

    id: str
    label: str | None
    boxes: Mapping[int, Box]
    count: int


@dataclass(frozen=True)
class InteractiveRequest:
    """The content of an interactive call.

    Attributes:
        texts: The texts in the expression field, the last typed last.
        chosen_label: The label of the chosen instance; ``None`` where the call does not say.
        prompts: Clicks and boxes.
        prompt_label: The instance, or the class, that a click or box carries as its label; ``None`` where it has none.
        track_id: The box track that a text was typed beside; ``None`` in all other calls.
        track_text: That text.
        drawn: Box tracks that the call is about.
    """

    texts: tuple[str, ...] = ()
    chosen_label: str | None = None
    prompts: tuple[Prompt, ...] = ()
    prompt_label: str | None = None
    track_id: str | None = None
    track_text: str = ""
    drawn: tuple[DrawnTrack, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is a typed text, for the task or beside a box track."""
        return bool(self.texts or self.track_text) and not self.prompts

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, as after a submission."""
        return not (self.texts or self.chosen_label or self.prompts or self.track_id or self.drawn)


def side_of(
    context: Sequence[Mapping[str, Any]], sides: Iterable[FramesSide | VideoSide | None]
) -> FramesSide | VideoSide | None:
    """The side of the task that a call is about; ``None`` where it is about none."""
    targets = {ResultItem(item).side for item in context}
    return next((side for side in sides if side is not None and side.name in targets), None)


def read_context(context: Sequence[Mapping[str, Any]], side: FramesSide | VideoSide) -> InteractiveRequest:
    """Read what Label Studio sends with an interactive call.

    Results that are none of ours, and prompts that are malformed, are passed over.

    Args:
        context: The results that the call is about.
        side: The side of the task.
    """
    items = [ResultItem(item) for item in context]
    texts = tuple(text for item in items if item.is_from(side.task.expression) for text in item.texts)
    track_id, track_text = None, ""
    for item in items:
        typed = [text for text in item.texts if text.strip()]
        if item.is_from(side.task.region_text) and typed:
            track_id, track_text = item.id, typed[-1]
    if track_id == status_id(side):  # the editor lists the message beside a video as a region
        track_id, texts = None, (*texts, track_text)
    chosen = chosen_label(items, side)
    if not isinstance(side, FramesSide):
        drawn = tuple(track for item in items if (track := _read_track(item, side, items)) is not None)
        return InteractiveRequest(
            texts=texts, chosen_label=chosen, track_id=track_id, track_text=track_text, drawn=drawn
        )
    prompts: list[Prompt] = []
    prompt_label = None
    known = {*side.mask.labels, *side.instance_names}
    for item in items:
        prompt = _read_prompt(item)
        if prompt is not None:
            prompts.append(prompt)
            prompt_label = next((n for n in _prompt_labels(item) if n in known), prompt_label)
    return InteractiveRequest(
        texts=texts, chosen_label=chosen, prompts=tuple(prompts), prompt_label=prompt_label
    )


def chosen_label(items: Iterable[ResultItem], side: FramesSide | VideoSide) -> str | None:
    """The label of the chosen instance; ``None`` where no result says."""
    control = side.task.object
    chosen = None
    for item in items:
        if control is not None and item.is_from(control.name):
            chosen = next(iter(item.labels("choices")), chosen)
    return chosen


def _read_track(item: ResultItem, side: VideoSide, items: Iterable[ResultItem]) -> DrawnTrack | None:
    """A box track; ``None`` for any other result, and for one whose keyframes cannot be read."""
    sequence, count = item.value.get("sequence"), item.value.get("framesCount")
    if item.type != "videorectangle" or not item.is_from(side.box) or not isinstance(sequence, list):
        return None
    label = next((name for one in items if one.id == item.id for name in one.labels()), None)
    try:
        boxes = {
            int(key["frame"]): tuple(float(key[edge]) / 100 for edge in ("x", "y", "width", "height"))
            for key in sequence
            if key.get("enabled", True)
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    usable = {number: box for number, box in boxes.items() if all(map(math.isfinite, box))}
    length = count if isinstance(count, int) and count > 0 else max(usable, default=1)
    return DrawnTrack(item.id, label, cast(Mapping[int, Box], usable), length) if usable else None


def _read_prompt(item: ResultItem) -> Prompt | None:
    """A click or a box; ``None`` for any other result, and for one whose position is no number."""
    kind = item.type.removesuffix("labels")
    if kind not in ("keypoint", "rectangle"):
        return None
    keys = ("x", "y") if kind == "keypoint" else ("x", "y", "width", "height")
    numbers = [item.value.get(key) for key in keys]
    if not all(isinstance(n, int | float) and 0 <= n <= 100 for n in numbers) or not isinstance(
        item.page, int
    ):
        return None
    x, y, *extent = (float(n) / 100 for n in numbers if n is not None)
    if extent:
        return Prompt(item.id, item.page, "box", x, y, extent[0], extent[1])
    off = any(word in label.casefold() for label in _prompt_labels(item) for word in _OFF_THE_OBJECT)
    positive = not off and item.raw.get("is_positive") is not False
    return Prompt(item.id, item.page, "click", x, y, positive=positive)


def _prompt_labels(item: ResultItem) -> tuple[str, ...]:
    return item.labels(item.type) or item.labels()
