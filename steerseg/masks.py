"""Binary masks: COCO run-length encoding, overlap, boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12


class RLE(TypedDict):
    """A mask in COCO's compressed run-length encoding, JSON-ready."""

    size: list[int]  # [height, width]
    counts: str


def encode_rle(mask: NDArray[np.bool_]) -> RLE:
    """Encode one (H, W) mask. Non-zero is foreground."""
    columns = cv2.transpose(np.ascontiguousarray(mask, dtype=np.uint8))  # numpy's own takes much longer
    encoded = coco_mask.encode(columns.T)
    return RLE(size=[int(n) for n in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def decode_rle(rle: RLE) -> NDArray[np.bool_]:
    """Decode to an (H, W) bool mask."""
    mask: NDArray[np.uint8] = coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")})
    return mask.astype(bool)


def empty_rle(height: int, width: int) -> RLE:
    """An encoded (height, width) mask without foreground."""
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return RLE(size=[height, width], counts=encoded["counts"].decode("ascii"))


def merge_rles(rles: Sequence[RLE]) -> RLE:
    """The union of at least one encoded mask, all of one size, without decoding any."""
    if len(rles) == 1:
        return rles[0]
    parts = [{"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in rles]
    return RLE(size=list(rles[0]["size"]), counts=coco_mask.merge(parts)["counts"].decode("ascii"))


def mask_area(rle: RLE) -> int:
    """Foreground pixels of an encoded mask."""
    return int(coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode("ascii")}))


def rle_iou(a: RLE, b: RLE) -> float:
    """Intersection over union in [0, 1] of two encoded masks of one size, not decoded; 1 for two empty ones."""
    if mask_area(a) == mask_area(b) == 0:
        return 1.0
    first, second = ({"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in (a, b))
    return float(coco_mask.iou([first], [second], [0])[0, 0])


def mask_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """The tight box of an (H, W) mask as (x, y, width, height) in pixels; ``None`` where it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union in [0, 1]; 1 where both are empty."""
    union = np.logical_or(a, b).sum()
    return 1.0 if union == 0 else float(np.logical_and(a, b).sum() / union)
