"""Tracklets as Label Studio's regions."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image

from ml_backend.label_studio.controls import FramesSide, MaskControl, VideoSide, are_numbered, choose_label
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.keyframes import Keyframe, thin_keyframes
from ml_backend.label_studio.outlines import Outline, mask_to_outlines
from ml_backend.label_studio.region_masks import PNG_URL
from ml_backend.label_studio.results import Result, region_note
from steerseg.masks import RLE, decode_rle, mask_area, mask_box

_DECIMALS = 3  # of percents; a thousandth of a percent is far below a pixel


class Track(Protocol):
    """The part of a tracklet that regions are written from."""

    @property
    def rles(self) -> Sequence[RLE]:
        """T encoded (H, W) masks."""

    @property
    def frame_scores(self) -> NDArray[np.float32]:
        """(T,) in [0, 1], how certain each mask is."""


@dataclass(frozen=True)
class MaskTrack:
    """A track of masks without a proposal.

    Attributes:
        rles: T encoded (H, W) masks.
        frame_scores: (T,) in [0, 1], how certain each mask is.
    """

    rles: tuple[RLE, ...]
    frame_scores: NDArray[np.float32]


def tracklet_to_frames_regions(
    tracklet: Track,
    side: FramesSide,
    *,
    instance_id: str,
    expression: str,
    attributes: Sequence[str] = (),
    label: str | None = None,
    pages: Sequence[int] | None = None,
    skipped_pages: Collection[int] = (),
    blank_pages: Collection[int] = (),
) -> list[Result]:
    """Write a tracklet as mask regions on the pages of an ``<Image valueList>`` task.

    Args:
        tracklet: T masks of the pages' own size.
        side: The frames side of the project; ``side.mask`` says what the regions are made of.
        instance_id: From :func:`instance_id`; region ids follow from it and the page.
        expression: For the note, and for choosing a label.
        attributes: Likewise.
        label: The label to give; chosen by the expression if not given.
        pages: (T,) the page of each mask; 0, 1, 2, ... if not given.
        skipped_pages: Pages that get no region, such as those that the annotator painted.
        blank_pages: Pages that get a region without a pixel where the mask is empty: an interactive answer can
            replace a region, but not delete one.

    Returns:
        Results in page order. An empty mask gives none outside ``blank_pages``, so an instance that is never visible
        gives an empty list, of which no prediction must be made.
    """
    control = side.mask
    label = label or choose_label(control.labels, expression, attributes)
    lines = region_note(expression, attributes)
    results: list[Result] = []
    for i, rle in enumerate(tracklet.rles):
        page = i if pages is None else pages[i]
        visible = mask_area(rle) > 0
        if page in skipped_pages or not (visible or page in blank_pages):
            continue
        mask = decode_rle(rle)
        for part, value in enumerate(_mask_values(mask, control) if visible else [_blank(mask, control)]):
            results += _page_results(
                value,
                control,
                side.name,
                region_id=f"{instance_id}-f{page}" + (f"-{part}" if part else ""),
                page=page,
                size=mask.shape,
                label=label,
                score=round(float(tracklet.frame_scores[i]), 4),
                lines=lines,
            )
    return results


def tracklet_to_video_region(
    tracklet: Track,
    side: VideoSide,
    *,
    instance_id: str,
    expression: str,
    attributes: Sequence[str] = (),
    numbers: FrameNumbers,
    label: str | None = None,
    frames: Sequence[int] | None = None,
    tolerance: float = 0.02,
    region_texts: Sequence[str] = (),
) -> list[Result]:
    """Write a tracklet as one box track on a ``<Video>`` task.

    Args:
        tracklet: T masks.
        side: The video side of the project.
        instance_id: From :func:`instance_id`; it becomes the region's id.
        expression: For the note, and for choosing a label; empty where there is none.
        attributes: Likewise.
        numbers: Which frame of the video Label Studio shows at each of its numbers.
        label: The label to give; chosen by the expression if not given, and none where that names no class.
        frames: (T,) decode index of each mask; 0, 1, 2, ... if not given.
        tolerance: Most that an interpolated box may deviate, as a fraction of the frame's size.
        region_texts: Per-region texts to echo, since Label Studio drops them when a region is replaced.

    Returns:
        The track and, with ``region_texts``, its text; empty if the instance is never visible.
    """
    boxes = _percent_boxes(tracklet)
    sequence = _sequence(boxes, range(len(boxes)) if frames is None else frames, numbers, tolerance)
    if not sequence:
        return []
    visible = ~np.isnan(boxes[:, 0])
    # A class that the expression does not name would be a guess: the track has none then.
    certain = are_numbered(side.labels) or len(side.labels) == 1
    if label is None and expression:
        label = choose_label(side.labels, expression, attributes, default=certain)
    total = len(numbers.shown)
    geometry = {"framesCount": total, "duration": round(total / numbers.rate, 6), "sequence": sequence}
    base = {
        "id": instance_id,
        "to_name": side.name,
        **({"meta": {"text": region_note(expression, attributes)}} if expression else {}),
        "score": round(float(np.asarray(tracklet.frame_scores)[visible].mean()), 4),
    }
    value = {**geometry, "labels": [label]} if label is not None else geometry
    results = [{**base, "from_name": side.box, "type": "videorectangle", "value": value}]
    if region_texts and side.task.region_text:
        text = {**geometry, "text": list(region_texts)}
        results.append({**base, "from_name": side.task.region_text, "type": "textarea", "value": text})
    return results


def _sequence(
    boxes: NDArray[np.float64], frames: Sequence[int], numbers: FrameNumbers, tolerance: float
) -> list[dict[str, Any]]:
    """The keyframes of a box track, as Label Studio writes them.

    Args:
        boxes: (T, 4) x, y, width, height in percent; NaN where nothing is visible.
        frames: (T,) decode index of each box.
        numbers: Which frame Label Studio shows at each of its numbers.
        tolerance: Most that an interpolated box may deviate, as a fraction of the frame's size.
    """
    positions, rows = numbers.showing(frames)
    boxes = boxes[rows]
    # The boxes are rounded before they are thinned; what rounding may cost is taken off the tolerance.
    spare = max(tolerance - 2 * 10.0**-_DECIMALS / 100, 0.0)
    keyframes = thin_keyframes(boxes / 100, spare, positions.tolist())
    if keyframes and keyframes[-1].enabled and positions[-1] + 1 < len(numbers.shown):
        # The masks end before the video does; nothing is known of the rest.
        keyframes[-1] = Keyframe(keyframes[-1].index, enabled=False)
    return [
        {
            "frame": int(positions[keyframe.index]) + 1,
            "enabled": keyframe.enabled,
            "rotation": 0,
            **dict(zip(("x", "y", "width", "height"), boxes[keyframe.index].tolist(), strict=True)),
            "time": round((int(positions[keyframe.index]) + 1) / numbers.rate, 6),
        }
        for keyframe in keyframes
    ]


def _percent_boxes(tracklet: Track) -> NDArray[np.float64]:
    """(T, 4) x, y, width, height in percent, rounded; NaN where the mask is empty."""
    boxes = np.full((len(tracklet.rles), 4), np.nan)
    for i, rle in enumerate(tracklet.rles):
        box = mask_box(decode_rle(rle)) if mask_area(rle) else None
        if box is not None:
            height, width = rle["size"]
            boxes[i] = np.array(box) * 100 / (width, height, width, height)
    return boxes.round(_DECIMALS)


def _mask_values(mask: NDArray[np.bool_], control: MaskControl) -> list[dict[str, Any]]:
    """The values of the regions that hold one mask: one, or for outlines one for each part of the mask."""
    if control.kind == "brush":
        return [{"format": "rle", "rle": mask2rle(mask.astype(np.uint8) * 255)}]
    if control.kind == "bitmask":
        return [{"imageDataURL": _png_url(mask)}]
    height, width = mask.shape
    outlines = [outline * 100 / (width, height) for outline in mask_to_outlines(mask)]
    if control.kind == "polygon":
        return [{"points": outline.round(_DECIMALS).tolist(), "closed": True} for outline in outlines]
    return [{"closed": True, "vertices": _vertices(outline)} for outline in outlines]


def _blank(mask: NDArray[np.bool_], control: MaskControl) -> dict[str, Any]:
    """The value of a region without a pixel. An outline cannot be empty: its corners lie on one point."""
    if control.kind in ("brush", "bitmask"):
        return _mask_values(np.zeros_like(mask), control)[0]
    corner = np.zeros((3, 2))
    if control.kind == "polygon":
        return {"points": corner.tolist(), "closed": True}
    return {"closed": True, "vertices": _vertices(corner)}


def _vertices(outline: Outline) -> list[dict[str, Any]]:
    return [
        {
            "id": f"v{i}",
            "prevPointId": f"v{i - 1}" if i else None,
            "isBezier": False,
            "x": round(float(x), _DECIMALS),
            "y": round(float(y), _DECIMALS),
        }
        for i, (x, y) in enumerate(outline)
    ]


def _page_results(
    value: dict[str, Any],
    control: MaskControl,
    to_name: str,
    *,
    region_id: str,
    page: int,
    size: tuple[int, ...],
    label: str | None,
    score: float,
    lines: list[str],
) -> list[Result]:
    base = {
        "id": region_id,
        "to_name": to_name,
        "item_index": page,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "score": score,
        "meta": {"text": lines},
    }
    kind = control.result_type
    if control.combined:
        return [{**base, "from_name": control.name, "type": kind, "value": {**value, kind: [label]}}]
    results = [{**base, "from_name": control.name, "type": kind, "value": value}]
    if control.labels_name is not None:
        labels = {**value, "labels": [label]}
        results.append({**base, "from_name": control.labels_name, "type": "labels", "value": labels})
    return results


def _png_url(mask: NDArray[np.bool_]) -> str:
    """A white image whose alpha is the mask."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    buffer = io.BytesIO()
    Image.merge("LA", (alpha, alpha)).save(buffer, format="PNG", optimize=False)
    return PNG_URL + base64.b64encode(buffer.getvalue()).decode("ascii")
