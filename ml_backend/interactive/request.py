"""What an interactive call says: words, clicks, boxes and a chosen object; and what the draft beside it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from ml_backend.label_studio.controls import FramesSide, VideoSide
from ml_backend.label_studio.region_masks import MASK_TYPES, PageMask, masks_by_page, page_masks
from ml_backend.label_studio.results import instance_id, is_label_of_text, region_labels, status_id
from steerseg.masks import RLE, decode_rle, encode_rle

_OURS = re.compile(r"(t\d+-[0-9a-f]{10})-f\d+(?:-\d+)?")
_OFF_THE_OBJECT = ("negative", "background", "exclude", "remove")
_READ_REGIONS = 2048
"""So many mask regions stay read: a draft comes with every call, and few of its regions have changed."""


@dataclass(frozen=True)
class InteractiveRequest:
    """What a call is about.

    Attributes:
        texts: What stands in the expression field, the last typed last.
        chosen: The label of the object that is chosen; ``None`` where the call does not say.
        marks: Clicks and boxes.
        label: The label of an object that a mark carries itself; ``None`` where it carries none.
        region: The box track that a text was typed beside; ``None`` in all other calls.
        region_text: That text.
    """

    texts: tuple[str, ...] = ()
    chosen: str | None = None
    marks: tuple[Mark, ...] = ()
    label: str | None = None
    region: str | None = None
    region_text: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, as after a submission."""
        return not (self.texts or self.chosen or self.marks or self.region)


@dataclass(frozen=True)
class Regions:
    """The mask regions of a draft or a prediction, by object and page.

    Attributes:
        series: By place of the object, its regions that this backend once gave: one mask per page.
        painted: By label, the masks of other regions.
        notes: By place of the object, the expression that its regions are noted with.
        labels: By place of the object, the label of its regions.
        status: What the annotator is shown of the backend's last message.
        chosen: The label of the object that is chosen; empty where none is.
    """

    series: Mapping[int, Mapping[int, RLE]] = field(default_factory=dict, repr=False)
    painted: Mapping[str, Mapping[int, RLE]] = field(default_factory=dict, repr=False)
    notes: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    status: str = ""
    chosen: str = ""


def side_of(context: Sequence[Mapping[str, Any]], sides: Iterable[FramesSide | VideoSide | None]) -> Any:
    """The side of the task that a call is about; ``None`` where it is about none."""
    targets = {item.get("to_name") for item in context}
    return next((side for side in sides if side is not None and side.name in targets), None)


def read_context(context: Sequence[Mapping[str, Any]], side: FramesSide | VideoSide) -> InteractiveRequest:
    """Read what Label Studio sends with an interactive call.

    Args:
        context: The results that the call is about.
        side: The side of the task.
    """
    task = side.task
    texts = tuple(text for item in context if _from(item, task.expression) for text in texts_of(item))
    chosen = None
    if task.object is not None:
        for item in context:
            if _from(item, task.object.name):
                chosen = next(iter(region_labels(item, "choices")), chosen)
    region, region_text = None, ""
    for item in context:
        typed = [text for text in texts_of(item) if text.strip()]
        if _from(item, task.region_text) and typed:
            region, region_text = str(item.get("id")), typed[-1]
    if region == status_id(side):  # the editor lists the message beside a video as a region
        region, texts = None, (*texts, region_text)
    if not isinstance(side, FramesSide):
        return InteractiveRequest(texts=texts, chosen=chosen, region=region, region_text=region_text)
    marks, label = [], None
    for item in context:
        mark = _mark(item)
        if mark is not None:
            marks.append(mark)
            carried = [name for name in _mark_labels(item) if name in side.mask.labels]
            label = carried[0] if carried else label
    return InteractiveRequest(texts=texts, chosen=chosen, marks=tuple(marks), label=label)


def read_regions(results: Iterable[Mapping[str, Any]], side: FramesSide, task: int) -> Regions:
    """Read the mask regions of a draft or of a prediction.

    Args:
        results: Its results.
        side: The frames side of the project.
        task: The task's number, from which the names of our own regions follow.

    Raises:
        RegionError: A region is malformed, or two of one page differ in size.
    """
    places = {instance_id(task, "", place): place for place in range(max(len(side.mask.labels), 16))}
    series: dict[int, dict[int, list[Any]]] = {}
    painted: dict[str, dict[int, list[Any]]] = {}
    notes: dict[int, str] = {}
    labels: dict[int, str] = {}
    status = chosen = ""
    controls = {control.name for control in side.masks}
    for item in results:
        if _from(item, side.task.status):
            status = " ".join(texts_of(item))
        elif side.task.object is not None and _from(item, side.task.object.name):
            chosen = next(iter(region_labels(item, "choices")), chosen)
        if (
            item.get("from_name") not in controls
            or item.get("type") not in MASK_TYPES
            or is_label_of_text(item)
        ):
            continue
        ours = _OURS.fullmatch(str(item.get("id")))
        place = None if ours is None else places.get(ours.group(1))
        page = int(item.get("item_index") or 0)
        rle = _read(json.dumps(item, sort_keys=True))
        names = region_labels(item, str(item.get("type")))
        if place is None:
            painted.setdefault(names[0] if names else "", {}).setdefault(page, []).append(rle)
            continue
        series.setdefault(place, {}).setdefault(page, []).append(rle)
        note = _note(item)
        if note:
            notes.setdefault(place, note)
        if names:
            labels.setdefault(place, names[0])
    return Regions(
        series={place: _joined(pages) for place, pages in series.items()},
        painted={label: _joined(pages) for label, pages in painted.items()},
        notes=notes,
        labels=labels,
        status=status,
        chosen=chosen,
    )


def texts_of(item: Mapping[str, Any]) -> list[str]:
    """The texts of a result; none where it holds no text."""
    value = item.get("value")
    texts = value.get("text") if isinstance(value, Mapping) else None
    if isinstance(texts, str):
        return [texts]
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _from(item: Mapping[str, Any], control: str | None) -> bool:
    return control is not None and item.get("from_name") == control


@lru_cache(_READ_REGIONS)
def _read(item: str) -> RLE:
    (mask,) = page_masks([json.loads(item)])
    return encode_rle(mask.mask)


def _joined(pages: Mapping[int, list[RLE]]) -> dict[int, RLE]:
    """One mask per page, of however many parts."""
    return {
        page: rles[0]
        if len(rles) == 1
        else encode_rle(masks_by_page(PageMask("", page, decode_rle(rle), "", (), "") for rle in rles)[page])
        for page, rles in sorted(pages.items())
    }


def _mark(item: Mapping[str, Any]) -> Mark | None:
    """A click or a box; ``None`` for any other result, and for one whose place is no number."""
    kind = str(item.get("type", "")).removesuffix("labels")
    value = item.get("value")
    if kind not in ("keypoint", "rectangle") or not isinstance(value, Mapping):
        return None
    keys = ("x", "y") if kind == "keypoint" else ("x", "y", "width", "height")
    numbers = [value.get(key) for key in keys]
    page = item.get("item_index") or 0
    if not all(isinstance(n, int | float) and 0 <= n <= 100 for n in numbers) or not isinstance(page, int):
        return None
    x, y, *extent = (float(n) / 100 for n in numbers if n is not None)
    name = str(item.get("id"))
    if extent:
        return Mark(name, page, "box", x, y, extent[0], extent[1])
    off = any(word in label.casefold() for label in _mark_labels(item) for word in _OFF_THE_OBJECT)
    return Mark(name, page, "click", x, y, positive=not off and item.get("is_positive") is not False)


def _mark_labels(item: Mapping[str, Any]) -> tuple[str, ...]:
    return region_labels(item, str(item.get("type", ""))) or region_labels(item)


def _note(item: Mapping[str, Any]) -> str:
    meta = item.get("meta")
    lines = meta.get("text") if isinstance(meta, Mapping) else None
    return lines[0] if isinstance(lines, list) and lines and isinstance(lines[0], str) else ""


@dataclass(frozen=True)
class Mark:
    """A click, or a box, as an annotator made it; places are fractions of the frame's width and height.

    Attributes:
        id: Label Studio's id of it.
        frame: The page.
        kind: What it is.
        x: Of the click, or of the box's left edge.
        y: Of the click, or of the box's upper edge.
        width: Of the box; 0 of a click.
        height: Of the box; 0 of a click.
        positive: Whether a click lies on the object; true of a box.
    """

    id: str
    frame: int
    kind: Literal["click", "box"]
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    positive: bool = True
