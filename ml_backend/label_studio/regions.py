"""Tracklets as Label Studio's regions, and regions back as masks and boxes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from label_studio_sdk.converter.brush import decode_rle as decode_brush
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image

from ml_backend.label_studio.config import FramesSide, MaskControl, VideoSide, choose_label
from ml_backend.label_studio.keyframes import Keyframe, interpolate, thin_keyframes
from ml_backend.label_studio.outlines import Outline, mask_to_outlines, outlines_to_mask
from steerseg.errors import SteerSegError
from steerseg.masks import RLE, decode_rle, mask_area, mask_box

__all__ = [
    "MASK_TYPES",
    "Keyframe",
    "MaskTrack",
    "PageMask",
    "RegionError",
    "Result",
    "Track",
    "instance_id",
    "interpolate",
    "is_label_of_text",
    "masks_by_page",
    "note",
    "page_masks",
    "region_labels",
    "status_id",
    "status_result",
    "thin_keyframes",
    "track_boxes",
    "tracklet_to_frames_regions",
    "tracklet_to_video_region",
]

Result = dict[str, Any]
"""One item of the ``result`` of a prediction or annotation, as Label Studio writes it."""

MAX_PAGE_PIXELS = 64_000_000
"""Pages larger than this are refused before anything is allocated for them."""

_PNG_URL = "data:image/png;base64,"
_STROKE_BITS = 4  # of fractions of a pixel
_DECIMALS = 3  # of percents; a thousandth of a percent is far below a pixel
MASK_TYPES = frozenset(
    kind + suffix for kind in ("brush", "bitmask", "polygon", "vector") for suffix in ("", "labels")
)
"""Types of results that are masks, in lower case."""


class Track(Protocol):
    """What is written of a tracklet; :class:`steerseg.tracking.tracklets.Tracklet` has it, and so has a stored one."""

    @property
    def rles(self) -> Sequence[RLE]: ...

    @property
    def frame_scores(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class MaskTrack:
    """A track of masks alone, as regions are written from."""

    rles: tuple[RLE, ...]
    frame_scores: NDArray[np.float32]


class RegionError(SteerSegError):
    """A region cannot be read."""


@dataclass(frozen=True)
class PageMask:
    """One region of an annotation or prediction as a mask.

    Attributes:
        region_id: The region's id.
        page: Index of the page, from 0.
        mask: (H, W) bool.
        control: Name of the control (``from_name``).
        labels: The region's labels.
        origin: ``prediction``, ``prediction-changed``, ``manual`` or ``""``.
    """

    region_id: str
    page: int
    mask: NDArray[np.bool_] = field(repr=False)
    control: str
    labels: tuple[str, ...]
    origin: str


def instance_id(task: int | str, expression: str, rank: int) -> str:
    """Name one tracked object of a task; the same input gives the same name.

    Region ids are built from it, so that a later answer for the same object replaces its regions.
    """
    digest = hashlib.sha256(f"{task}\x1f{expression}\x1f{rank}".encode()).hexdigest()
    return f"t{task}-{digest[:10]}"


def note(expression: str, attributes: Sequence[str] = ()) -> list[str]:
    """The texts of ``meta.text``, the expression first; Label Studio shows them in a region's panel.

    The second begins with a dash, since the panel puts them directly behind one another.
    """
    return [expression, f" — attributes: {', '.join(attributes)}"] if attributes else [expression]


def tracklet_to_frames_regions(
    tracklet: Track,
    side: FramesSide,
    *,
    instance_id: str,
    expression: str,
    attributes: Sequence[str] = (),
    label: str | None = None,
    pages: Sequence[int] | None = None,
    left_alone: Collection[int] = (),
    blank: Collection[int] = (),
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
        left_alone: Pages that get no region whatever the masks are, since the annotator's own stands there.
        blank: Pages that get a region without a pixel where the mask is empty: an interactive answer can
            replace a region, but not delete one.

    Returns:
        Results in page order; none for empty masks that are not to be blank, so an invisible object gives an
        empty list, of which no prediction must be made.
    """
    control = side.mask
    label = label or choose_label(control.labels, expression, attributes)
    lines = note(expression, attributes)
    results: list[Result] = []
    for i, rle in enumerate(tracklet.rles):
        page = i if pages is None else pages[i]
        visible = mask_area(rle) > 0
        if page in left_alone or not (visible or page in blank):
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
    fps: float,
    frames_count: int | None = None,
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
        expression: For the note, and for choosing a label.
        attributes: Likewise.
        fps: Frames a second by which Label Studio numbers the frames (:meth:`VideoSide.fps`).
        frames_count: Decoded frames of the video; T if not given.
        label: The label to give; chosen by the expression if not given.
        frames: (T,) decode index of each mask; 0, 1, 2, ... if not given.
        tolerance: Most that an interpolated box may deviate, as a fraction of the frame's size.
        region_texts: Per-region texts to echo, since Label Studio drops them when a region is replaced.

    Returns:
        The track and, with ``region_texts``, its text; empty if the object is never visible.
    """
    positions = list(range(len(tracklet.rles))) if frames is None else [int(frame) for frame in frames]
    total = (positions[-1] + 1 if positions else 0) if frames_count is None else frames_count
    boxes = _percent_boxes(tracklet)
    # The boxes are rounded before they are thinned; what rounding may cost is taken off the tolerance.
    keyframes = thin_keyframes(boxes / 100, max(tolerance - 2 * 10.0**-_DECIMALS / 100, 0.0), positions)
    if not keyframes:
        return []
    if keyframes[-1].enabled and positions[-1] + 1 < total:
        # The masks end before the video does; nothing is known of the rest.
        keyframes[-1] = Keyframe(keyframes[-1].index, enabled=False)
    visible = ~np.isnan(boxes[:, 0])
    label = label or choose_label(side.labels, expression, attributes)
    geometry: dict[str, Any] = {
        "framesCount": total,
        "duration": round(total / fps, 6),
        "sequence": [
            {
                "frame": positions[k.index] + 1,
                "enabled": k.enabled,
                "rotation": 0,
                **dict(zip(("x", "y", "width", "height"), boxes[k.index].tolist(), strict=True)),
                "time": round((positions[k.index] + 1) / fps, 6),
            }
            for k in keyframes
        ],
    }
    base = {
        "id": instance_id,
        "to_name": side.name,
        "meta": {"text": note(expression, attributes)},
        "score": round(float(np.asarray(tracklet.frame_scores)[visible].mean()), 4),
    }
    value = {**geometry, "labels": [label]} if label is not None else geometry
    results = [{**base, "from_name": side.box, "type": "videorectangle", "value": value}]
    if region_texts and side.task.region_text:
        text = {**geometry, "text": list(region_texts)}
        results.append({**base, "from_name": side.task.region_text, "type": "textarea", "value": text})
    return results


def status_result(side: FramesSide | VideoSide, text: str, *, interactive: bool = False) -> Result | None:
    """A message for annotators in the task's ``status`` field; ``None`` if the configuration has none.

    Its id is always the same, so that a later message replaces an earlier one.

    Args:
        side: The side of the task.
        text: The message.
        interactive: Whether it belongs to an interactive answer. Label Studio's editor takes a text of one beside a
            video for a span of its timeline, and breaks when a span without frames is selected: so it gets one.
    """
    result = _text_result(side, side.task.status, text)
    if result is not None and interactive and isinstance(side, VideoSide):
        result["value"]["ranges"] = [{"start": 1, "end": 1}]
    return result


def expression_result(side: FramesSide | VideoSide, expression: str) -> Result | None:
    """What was asked for, in the field that annotators ask by; ``None`` if the configuration has none."""
    return _text_result(side, side.task.expression, expression)


def status_id(side: FramesSide | VideoSide) -> str:
    """The id of messages beside a side of a task."""
    return _text_id(side, side.task.status)


def _text_id(side: FramesSide | VideoSide, control: str | None) -> str:
    return f"{control}-{side.name}"


def _text_result(side: FramesSide | VideoSide, control: str | None, text: str) -> Result | None:
    if control is None:
        return None
    return {
        "id": _text_id(side, control),
        "from_name": control,
        "to_name": side.name,
        "type": "textarea",
        "value": {"text": [text]},
    }


def page_masks(results: Iterable[Mapping[str, Any]]) -> list[PageMask]:
    """Read the mask regions of an annotation, a prediction or a draft; other results are passed over.

    Brush masks count as foreground above 127, since Label Studio's editor smooths their edges.

    Raises:
        RegionError: A mask region is malformed; the message names it.
    """
    results = list(results)
    pair_labels = {
        str(result.get("id")): region_labels(result)
        for result in results
        if str(result.get("type", "")).lower() == "labels"
    }
    masks = []
    for result in results:
        kind = str(result.get("type", "")).lower()
        if kind not in MASK_TYPES or is_label_of_text(result):
            continue
        region_id = str(result.get("id", ""))
        try:
            mask = _read_mask(kind.removesuffix("labels"), result)
            page = int(result.get("item_index") or 0)
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            raise RegionError(
                f"region {region_id!r} ({kind}) cannot be read: {error}; "
                "expected a value as Label Studio writes it"
            ) from error
        masks.append(
            PageMask(
                region_id=region_id,
                page=page,
                mask=mask,
                control=str(result.get("from_name", "")),
                labels=region_labels(result, kind) or pair_labels.get(region_id, ()),
                origin=str(result.get("origin", "")),
            )
        )
    return masks


def is_label_of_text(result: Mapping[str, Any]) -> bool:
    """Whether a result is no region, but a label that Label Studio has hung on a text of the whole task.

    It does so with the label that is selected when an interactive answer brings the text.
    """
    value = result.get("value")
    kind = str(result.get("type", ""))
    return "original_height" not in result and isinstance(value, Mapping) and value.keys() <= {kind}


def region_labels(result: Mapping[str, Any], kind: str = "labels") -> tuple[str, ...]:
    """The labels of a region below the name of their kind, such as ``brushlabels``; none where there are none."""
    value = result.get("value")
    labels = value.get(kind) if isinstance(value, Mapping) else None
    return tuple(str(label) for label in labels) if isinstance(labels, list | tuple) else ()


def masks_by_page(masks: Iterable[PageMask]) -> dict[int, NDArray[np.bool_]]:
    """Join masks (several parts, several strokes) into one per page.

    Raises:
        RegionError: Two masks of one page differ in size.
    """
    pages: dict[int, NDArray[np.bool_]] = {}
    for item in masks:
        if item.page not in pages:
            pages[item.page] = item.mask.copy()
        elif pages[item.page].shape != item.mask.shape:
            raise RegionError(
                f"page {item.page} has masks of {pages[item.page].shape} and {item.mask.shape} pixels; "
                "every mask of a page must have the page's own size"
            )
        else:
            pages[item.page] |= item.mask
    return dict(sorted(pages.items()))


def track_boxes(result: Mapping[str, Any], frames_count: int | None = None) -> NDArray[np.float64]:
    """Give a ``videorectangle``'s box in every frame; see :func:`interpolate` for the meaning of the columns.

    Args:
        result: The result.
        frames_count: T; the result's own ``framesCount`` if not given.

    Returns:
        (T, 5); NaN where the track is hidden.

    Raises:
        RegionError: The result is malformed.
    """
    try:
        value = result["value"]
        total = int(value["framesCount"]) if frames_count is None else frames_count
        if not 0 <= total <= 10_000_000:
            raise ValueError(f"framesCount is {total}")
        return interpolate(value["sequence"], total)
    except (KeyError, TypeError, ValueError) as error:
        raise RegionError(
            f"track {result.get('id')!r} cannot be read: {error}; expected a videorectangle with a sequence"
        ) from error


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


def _read_mask(kind: str, result: Mapping[str, Any]) -> NDArray[np.bool_]:
    height, width = int(result["original_height"]), int(result["original_width"])
    if not (height > 0 and width > 0 and height * width <= MAX_PAGE_PIXELS):
        raise ValueError(f"its page is {width} x {height} pixels")
    value = result["value"]
    if kind == "brush":
        return _read_brush(value, height, width)
    if kind == "bitmask":
        return _read_bitmask(value["imageDataURL"], height, width)
    if kind == "polygon":
        points = value["points"]
    else:
        points = [(vertex["x"], vertex["y"]) for vertex in value["vertices"]]
    outline = np.asarray(points, dtype=np.float64).reshape(-1, 2) * (width, height) / 100
    if not np.isfinite(outline).all():
        raise ValueError("it has corners that are not numbers")
    return outlines_to_mask([outline], height, width)


def _read_brush(value: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """A brush region: its run lengths and, in a draft, the strokes that were made over them since."""
    rle, strokes = value.get("rle"), value.get("touches") or ()
    if rle is None and not strokes:
        raise ValueError("it has no run lengths ('rle')")
    mask = np.zeros((height, width), dtype=np.uint8)
    if rle is not None:
        # The length stands first; checking it keeps a forged one from allocating gigabytes.
        declared = int.from_bytes(bytes(rle[:4]), "big")
        if declared != height * width * 4:
            raise ValueError(
                f"its run lengths are for {declared} values, its page has {width} x {height} x 4"
            )
        mask = (decode_brush(rle).reshape(height, width, 4)[:, :, 3] > 127).astype(np.uint8)
    for stroke in strokes:
        _draw_stroke(mask, stroke)
    return mask.astype(bool)


def _draw_stroke(mask: NDArray[np.uint8], stroke: Mapping[str, Any]) -> None:
    """Draw or erase a stroke as Label Studio's editor does: round ends and corners, all in percents of the page."""
    height, width = mask.shape
    points = np.asarray(stroke["relativePoints"], dtype=np.float64).reshape(-1, 2)
    thickness = float(stroke["relativeStrokeWidth"]) * width / 100
    if not (np.isfinite(points).all() and 0 <= thickness <= 4 * max(width, height)):
        raise ValueError("it has a stroke that is no line of points")
    corners = (points * (width, height) / 100 * (1 << _STROKE_BITS)).round().astype(np.int32)
    colour = 0 if stroke.get("type") == "eraser" else 1
    cv2.polylines(mask, [corners], False, colour, max(1, round(thickness)), cv2.LINE_8, _STROKE_BITS)


def _read_bitmask(url: str, height: int, width: int) -> NDArray[np.bool_]:
    if not url.startswith(_PNG_URL):
        raise ValueError(f"its image is not a data URL that starts with {_PNG_URL}")
    try:
        data = base64.b64decode(url[len(_PNG_URL) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its image is not base64 ({error})") from None
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.size != (width, height):
            raise ValueError(f"its image is {image.size[0]} x {image.size[1]}, its page {width} x {height}")
        return np.asarray(image.convert("RGBA").getchannel("A")) > 127


def _png_url(mask: NDArray[np.bool_]) -> str:
    """A white image whose alpha is the mask."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    buffer = io.BytesIO()
    Image.merge("LA", (alpha, alpha)).save(buffer, format="PNG", optimize=False)
    return _PNG_URL + base64.b64encode(buffer.getvalue()).decode("ascii")
