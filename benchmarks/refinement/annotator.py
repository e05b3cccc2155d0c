"""Someone who knows the true masks and works as people do: good proposals are accepted, bad ones corrected."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray

from ml_backend.label_studio.controls import FramesSide, choose_label
from ml_backend.label_studio.region_masks import masks_by_page, page_masks
from steerseg.errors import ConfigError
from steerseg.evaluation import region_iou
from steerseg.masks import decode_rle

Result = dict[str, Any]

ACCEPT = "accept"
"""The choice that a submitted task carries."""

# Time that the work takes a person; nothing is measured by it, but every annotation tells its own.
_SECONDS_TO_LOOK = 5.0
_SECONDS_A_PAGE = 4.0


@dataclass(frozen=True)
class Habits:
    """How an annotator decides.

    Attributes:
        accept: A proposal whose mean IoU over all frames is at least this is accepted as it is.
        keep: In a task that is corrected, a page's mask with at least this IoU is left as it is.
    """

    accept: float = 0.75
    keep: float = 0.9


@dataclass(frozen=True)
class Work:
    """What an annotator did with a task.

    Attributes:
        iou: Mean IoU in [0, 1] of the proposal over all frames; 0 without one.
        accepted: Whether it was submitted as it was.
        pages: How many pages were painted or emptied.
        annotation: What the browser would send.
    """

    iou: float
    accepted: bool
    pages: int
    annotation: dict[str, Any] = field(repr=False)


def working_seconds(pages: int) -> float:
    """How long a task takes whose annotator paints or empties some pages: an assumption, not a measurement."""
    return _SECONDS_TO_LOOK + _SECONDS_A_PAGE * pages


def work_on(
    predictions: Sequence[Mapping[str, Any]],
    expression: str,
    truth: NDArray[np.bool_],
    side: FramesSide,
    habits: Habits = Habits(),
) -> Work:
    """Accept or correct a task's proposal.

    Args:
        predictions: The task's predictions as Label Studio has them. The one that was stored last is what a
            task opens with.
        expression: What the task asks for.
        truth: (T, H, W) the true masks, a page each.
        side: The frames side of the project.
        habits: When a proposal is good enough.

    Raises:
        ConfigError: The truth shows nothing, or the project has no brush or no verdict.
    """
    if not truth.any():
        raise ConfigError(f"the truth of {expression!r} shows nothing on any page")
    verdict = side.task.verdict
    if side.mask.result_type != "brushlabels" or verdict is None or ACCEPT not in verdict.choices:
        raise ConfigError(
            f"the annotator paints with BrushLabels and chooses the verdict {ACCEPT!r}; use "
            "label_config/frames.xml"
        )
    shown = max(predictions, key=lambda prediction: int(prediction["id"]), default=None)
    regions = [] if shown is None else [{**region, "origin": "prediction"} for region in shown["result"]]
    proposed = masks_by_page(page_masks(regions))
    empty = np.zeros(truth.shape[1:], dtype=bool)
    overlaps = [
        region_iou(decode_rle(proposed[page]) if page in proposed else empty, true)
        for page, true in enumerate(truth)
    ]
    iou = float(np.mean(overlaps))
    accepted = iou >= habits.accept
    result, pages = regions, 0
    if not accepted:
        result, pages = _corrected(regions, expression, truth, overlaps, side, habits.keep)
    result = [*result, _verdict(verdict.name, side.name, expression)]
    seconds = working_seconds(pages)
    annotation = {
        "lead_time": seconds,
        "result": result,
        "draft_id": 0,
        "parent_prediction": None if shown is None else int(shown["id"]),
        "parent_annotation": None,
        "started_at": (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(),
    }
    return Work(iou, accepted, pages, annotation)


def _corrected(
    regions: Sequence[Result],
    expression: str,
    truth: NDArray[np.bool_],
    overlaps: Sequence[float],
    side: FramesSide,
    keep: float,
) -> tuple[list[Result], int]:
    """The regions with true masks where they differ, and on how many pages they do."""
    masks = [region for region in regions if region["type"] == side.mask.result_type]
    kept = [region for region in regions if region["type"] != side.mask.result_type]  # the texts
    by_page = {int(region["item_index"]): region for region in masks}
    changed = 0
    for page, true in enumerate(truth):
        region = by_page.get(page)
        if overlaps[page] >= keep:
            if region is not None:
                kept.append(region)
            continue
        changed += 1
        if not true.any():
            continue  # the region is deleted
        if region is None:
            kept.append(_painted(true, page, expression, side))
        else:
            value = {**region["value"], "rle": _rle(true)}
            kept.append({**region, "value": value, "origin": "prediction-changed"})
    return kept, changed


def _painted(mask: NDArray[np.bool_], page: int, expression: str, side: FramesSide) -> Result:
    control = side.mask
    return {
        "id": _region_id(expression, page),
        "from_name": control.name,
        "to_name": side.name,
        "type": control.result_type,
        "origin": "manual",
        "item_index": page,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": _rle(mask),
            control.result_type: [choose_label(control.labels, expression)],
        },
    }


def _verdict(control: str, to_name: str, expression: str) -> Result:
    return {
        "id": _region_id(expression, -1),
        "from_name": control,
        "to_name": to_name,
        "type": "choices",
        "origin": "manual",
        "value": {"choices": [ACCEPT]},
    }


def _rle(mask: NDArray[np.bool_]) -> list[int]:
    rle: list[int] = mask2rle(mask.astype(np.uint8) * 255)
    return rle


def _region_id(expression: str, page: int) -> str:
    """Ten characters, as the editor gives regions; the same for the same page of the same task."""
    return hashlib.sha256(f"{expression}\x1f{page}".encode()).hexdigest()[:10]
