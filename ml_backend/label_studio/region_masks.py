"""Regions read back: masks of pages and boxes of tracks."""

from __future__ import annotations

import base64
import binascii
import io
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.label_studio.brush import declared_values, decode_brush
from ml_backend.label_studio.keyframes import interpolate
from ml_backend.label_studio.outlines import outlines_to_rle
from ml_backend.label_studio.results import is_label_of_text, region_labels
from ml_backend.label_studio.vector_paths import NoAreaError, vector_outline
from steerseg.errors import SteerSegError
from steerseg.masks import RLE, decode_rle, encode_rle, merge_rles

MASK_TYPES = frozenset(
    kind + suffix for kind in ("brush", "bitmask", "polygon", "vector") for suffix in ("", "labels")
)
"""Types of results that are masks, in lower case."""

MAX_PAGE_PIXELS = 64_000_000
"""Pages larger than this are refused before anything is allocated for them."""
MAX_DECODED_PIXELS = 2**32
"""Most pixels of all brush and bitmask regions of one annotation together."""

_ONE_AT_A_TIME = threading.Lock()
"""Held while a region is decoded, so that the memory of one is all that any number of requests takes."""

MAX_CORNERS = 20_000
"""Corners of one polygon or vector, and points of one stroke; what has more is refused."""

MAX_FRAMES = 1_000_000
"""Frames of a track; a longer one is refused."""

MAX_KEYFRAMES = 100_000
"""Keyframes of a track; one with more is refused."""

PNG_URL = "data:image/png;base64,"
_DECODED = frozenset({"brush", "bitmask"})
_STROKE_BITS = 4  # of fractions of a pixel


class RegionError(SteerSegError):
    """A region cannot be read."""


@dataclass(frozen=True)
class PageMask:
    """One region of an annotation or prediction as a mask.

    Attributes:
        region_id: The region's id.
        page: Index of the page, from 0.
        rle: The (H, W) mask.
        control: Name of the control (``from_name``).
        labels: The region's labels.
        origin: ``prediction``, ``prediction-changed``, ``manual`` or ``""``.
        score: How certain a prediction is, in [0, 1]; ``None`` where it does not say.
    """

    region_id: str
    page: int
    rle: RLE = field(repr=False)
    control: str
    labels: tuple[str, ...]
    origin: str
    score: float | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The (H, W) mask, decoded anew at every call."""
        return decode_rle(self.rle)


def page_masks(results: Iterable[Mapping[str, Any]]) -> list[PageMask]:
    """Read the mask regions of an annotation, a prediction or a draft; other results are passed over.

    Brush masks count as foreground above 127, since Label Studio's editor smooths their edges.

    Raises:
        RegionError: A mask region is malformed, or a vector that is no area; the message names it.
    """
    results = list(results)
    pair_labels = {
        str(result.get("id")): region_labels(result)
        for result in results
        if str(result.get("type", "")).lower() == "labels"
    }
    masks = []
    pixels = 0
    for result in results:
        kind = str(result.get("type", "")).lower()
        if kind not in MASK_TYPES or is_label_of_text(result):
            continue
        region_id = str(result.get("id", ""))
        try:
            shape = kind.removesuffix("labels")
            height, width = _page_size(result)
            if shape in _DECODED:
                pixels += height * width
                if pixels > MAX_DECODED_PIXELS:
                    raise ValueError(
                        f"its annotation holds brush regions of more than {MAX_DECODED_PIXELS} pixels"
                    )
            with _ONE_AT_A_TIME:
                rle = _read_mask(shape, result["value"], height, width)
            page = int(result.get("item_index") or 0)
        except NoAreaError as error:
            raise RegionError(f"region {region_id!r} ({kind}) is no area: {error}") from error
        except (KeyError, TypeError, ValueError, IndexError, OSError, OverflowError) as error:
            raise RegionError(
                f"region {region_id!r} ({kind}) cannot be read: {error}; "
                "expected a value as Label Studio writes it"
            ) from error
        masks.append(
            PageMask(
                region_id=region_id,
                page=page,
                rle=rle,
                control=str(result.get("from_name", "")),
                labels=region_labels(result, kind) or pair_labels.get(region_id, ()),
                origin=str(result.get("origin", "")),
                score=_score(result.get("score")),
            )
        )
    return masks


def masks_by_page(masks: Iterable[PageMask]) -> dict[int, RLE]:
    """Join masks (several parts, several strokes) into one per page.

    Raises:
        RegionError: Two masks of one page differ in size.
    """
    pages: dict[int, list[RLE]] = {}
    for item in masks:
        parts = pages.setdefault(item.page, [])
        if parts and parts[0]["size"] != item.rle["size"]:
            raise RegionError(
                f"page {item.page} has masks of {parts[0]['size']} and {item.rle['size']} pixels; "
                "every mask of a page must have the page's own size"
            )
        parts.append(item.rle)
    return {page: merge_rles(parts) for page, parts in sorted(pages.items())}


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
        if not 0 <= total <= MAX_FRAMES:
            raise ValueError(f"framesCount is {total}, at most {MAX_FRAMES} are read")
        return interpolate(_bounded(value["sequence"], "keyframes", MAX_KEYFRAMES), total)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RegionError(
            f"track {result.get('id')!r} cannot be read: {error}; expected a videorectangle with a sequence"
        ) from error


def _score(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None


def _page_size(result: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a region's page."""
    height, width = int(result["original_height"]), int(result["original_width"])
    if not (height > 0 and width > 0 and height * width <= MAX_PAGE_PIXELS):
        raise ValueError(f"its page is {width} x {height} pixels")
    return height, width


def _read_mask(kind: str, value: Mapping[str, Any], height: int, width: int) -> RLE:
    if kind == "brush":
        return encode_rle(_read_brush(value, height, width))
    if kind == "bitmask":
        return encode_rle(_read_bitmask(value["imageDataURL"], height, width))
    if kind == "vector":
        _bounded(value["vertices"], "corners")
        return outlines_to_rle([vector_outline(value, height, width)], height, width)
    points = _bounded(value["points"], "corners")
    outline = np.asarray(points, dtype=np.float64).reshape(-1, 2) * (width, height) / 100
    if not np.isfinite(outline).all():
        raise ValueError("it has corners that are not numbers")
    return outlines_to_rle([outline], height, width)


def _bounded(items: Any, what: str, most: int = MAX_CORNERS) -> Sequence[Any]:
    """A list of the parts of one region.

    Raises:
        ValueError: It has too many.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ValueError(f"its {what} are no list")
    if len(items) > most:
        raise ValueError(f"it has {len(items)} {what}, at most {most} are read")
    return items


def _read_brush(value: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """A brush region: its run lengths and, in a draft, the strokes that were made over them since."""
    rle, strokes = value.get("rle"), value.get("touches") or ()
    if rle is None and not strokes:
        raise ValueError("it has no run lengths ('rle')")
    mask: NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
    if rle is not None:
        # The length stands first; checking it keeps a forged one from allocating gigabytes.
        declared = declared_values(rle)
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
    points = np.asarray(_bounded(stroke["relativePoints"], "points"), dtype=np.float64).reshape(-1, 2)
    thickness = float(stroke["relativeStrokeWidth"]) * width / 100
    if not (np.isfinite(points).all() and 0 <= thickness <= 4 * max(width, height)):
        raise ValueError("it has a stroke that is no line of points")
    corners = (points * (width, height) / 100 * (1 << _STROKE_BITS)).round().astype(np.int32)
    colour = 0 if stroke.get("type") == "eraser" else 1
    cv2.polylines(mask, [corners], False, colour, max(1, round(thickness)), cv2.LINE_8, _STROKE_BITS)


def _read_bitmask(url: str, height: int, width: int) -> NDArray[np.bool_]:
    if not url.startswith(PNG_URL):
        raise ValueError(f"its image is not a data URL that starts with {PNG_URL}")
    try:
        data = base64.b64decode(url[len(PNG_URL) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its image is not base64 ({error})") from None
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.size != (width, height):
            raise ValueError(f"its image is {image.size[0]} x {image.size[1]}, its page {width} x {height}")
        return np.asarray(image.convert("RGBA").getchannel("A")) > 127
