"""Mask regions of drafts, predictions and annotations, by instance and page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ml_backend.corrections.instances import belonging
from ml_backend.interactive.request import chosen_label
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.region_masks import MASK_TYPES, PageMask, masks_by_page, page_masks
from ml_backend.label_studio.results import ResultItem, instance_id, is_label_of_text
from steerseg.masks import RLE

_OWN_REGION = re.compile(r"(t\d+-[0-9a-f]{10})-f\d+(?:-\d+)?")
_LEAST_INSTANCES = 16  # whose ids are known, however few labels there are
_CACHED_MASKS = 2048
"""Decoded mask regions that are kept: a draft comes with every call, and few of its regions have changed."""


@dataclass(frozen=True)
class MaskRegions:
    """The mask regions of a draft, a prediction or an annotation.

    Attributes:
        instances: By index of the instance, the regions that this backend wrote: one mask per page.
        drawn: By label, the masks of all other regions, where a label names one instance.
        adopted: By index of the instance, the other regions that belong to it by where they lie, where labels are
            classes.
        expressions: By index of the instance, the expression in the note of its regions.
        labels: By index of the instance, the label of its regions.
        status: The text in the status field, which shows the backend's last message.
        chosen_label: The label of the instance that is chosen; empty where none is.
    """

    instances: Mapping[int, Mapping[int, RLE]] = field(default_factory=dict, repr=False)
    drawn: Mapping[str, Mapping[int, RLE]] = field(default_factory=dict, repr=False)
    adopted: Mapping[int, Mapping[int, RLE]] = field(default_factory=dict, repr=False)
    expressions: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    status: str = ""
    chosen_label: str = ""

    def drawn_for(self, index: int, label: str) -> Mapping[int, RLE]:
        """By page, what an annotator drew for an instance beside the backend's own regions."""
        return {**self.drawn.get(label, {}), **self.adopted.get(index, {})}


def read_mask_regions(results: Iterable[Mapping[str, Any]], side: FramesSide, task_id: int) -> MaskRegions:
    """Read the mask regions of a draft, a prediction or an annotation.

    Args:
        results: Its results.
        side: The frames side of the project.
        task_id: The task's id, from which the ids of this backend's regions follow.

    Raises:
        RegionError: A region is malformed, or two of one page differ in size.
    """
    items = [ResultItem(result) for result in results]
    controls = {control.name for control in side.masks}
    known = max(len(side.mask.labels), _LEAST_INSTANCES)
    indices = {instance_id(task_id, "", index): index for index in range(known)}
    instances: dict[int, dict[int, list[RLE]]] = {}
    drawn: dict[str, dict[int, list[RLE]]] = {}
    expressions: dict[int, str] = {}
    labels: dict[int, str] = {}
    for item in items:
        if item.control not in controls or item.type not in MASK_TYPES or is_label_of_text(item.raw):
            continue
        match = _OWN_REGION.fullmatch(item.id)
        index = None if match is None else indices.get(match.group(1))
        page = int(item.page)
        mask = _read_mask(json.dumps(item.raw, sort_keys=True))
        label = next(iter(item.labels(item.type)), "")
        if index is None:
            drawn.setdefault(label, {}).setdefault(page, []).append(mask)
            continue
        instances.setdefault(index, {}).setdefault(page, []).append(mask)
        if item.note:
            expressions.setdefault(index, item.note)
        if item.labels(item.type):
            labels.setdefault(index, label)
    known_masks = {index: _joined(pages) for index, pages in instances.items()}
    adopted: dict[int, dict[int, RLE]] = {}
    if not side.labels_name_instances:
        adopted, drawn = _adopted(known_masks, labels, drawn), {}
    return MaskRegions(
        instances=known_masks,
        drawn={label: _joined(pages) for label, pages in drawn.items()},
        adopted=adopted,
        expressions=expressions,
        labels=labels,
        status=_status(items, side),
        chosen_label=chosen_label(items, side) or "",
    )


def _adopted(
    instances: Mapping[int, Mapping[int, RLE]],
    labels: Mapping[int, str],
    drawn: Mapping[str, Mapping[int, Sequence[RLE]]],
) -> dict[int, dict[int, RLE]]:
    """What is drawn by hand, given to the instances of which it is a part, or which it continues.

    :mod:`ml_backend.corrections.instances` has the rules.
    Other regions are objects that the backend was never asked about: they stay as they are.
    """
    found: dict[int, dict[int, list[RLE]]] = {}
    for label, pages in drawn.items():
        own = {index: masks for index, masks in instances.items() if labels.get(index, "") == label and masks}
        for page, parts in pages.items():
            for mask in parts:
                fits = {index: belonging(mask, page, masks) for index, masks in own.items()}
                best = max(fits, key=fits.__getitem__, default=None)
                if best is not None and fits[best] > 0:
                    found.setdefault(best, {}).setdefault(page, []).append(mask)
    return {index: _joined(pages) for index, pages in found.items()}


def _status(items: Iterable[ResultItem], side: FramesSide) -> str:
    texts = [item.texts for item in items if item.is_from(side.task.status)]
    return " ".join(texts[-1]) if texts else ""


@lru_cache(_CACHED_MASKS)
def _read_mask(region: str) -> RLE:
    (mask,) = page_masks([json.loads(region)])
    return mask.rle


def _joined(pages: Mapping[int, list[RLE]]) -> dict[int, RLE]:
    """One mask per page, of however many parts."""
    return masks_by_page(
        PageMask("", page, part, "", (), "") for page, parts in pages.items() for part in parts
    )
