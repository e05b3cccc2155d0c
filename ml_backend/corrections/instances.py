"""The instances of an annotation: which of its regions are one object.

Regions are told apart by identity, never by their label alone. These are parts of one instance:

- regions whose ids share the name that this backend gave, or one stem with the page behind it (``car-p0``, ``car-p1``);
- regions that an annotator joined by a relation of Label Studio;
- regions of one label on one page of which one lies with half of its area or more on the other;
- a region drawn by hand, and the series of the same label that it continues: the one that it overlaps most on the
  nearest page, else the nearest one within reach.

All other regions are instances of their own, also where they touch. Where a label names one object (see
:attr:`~ml_backend.label_studio.controls.FramesSide.labels_name_instances`), all its masks are one instance. A box track
is always one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml_backend.corrections.records import DecidedFrame
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.region_masks import PageMask, masks_by_page, page_masks
from ml_backend.label_studio.results import ResultItem
from ml_backend.models.geometry import box_of, mask_iou
from steerseg.masks import RLE, mask_area

_OURS = re.compile(r"(t\d+-[0-9a-f]{10})(-f\d+(-\d+)?)?")
_PAGED = re.compile(r"(.+?)[-_.]?[pf]?0*(\d+)")
_EXACT = ("brush", "bitmask")
_PART = 0.5
"""A region of which this much lies on another one of its label and page is a part of the same instance."""


@dataclass(frozen=True)
class Instance:
    """The regions of one object on one side of a task.

    Attributes:
        name: Its name within the annotation: its label, numbered from the second one on.
        label: Its class.
        regions: The ids of its regions; where this backend gave them, without the page.
        text: The expression that was typed beside its regions.
        note: The expression in the note of a proposed region.
        ours: Whether a proposed region is among them.
        frames: By index, what is decided.
    """

    name: str
    label: str
    regions: frozenset[str]
    text: str | None
    note: str | None
    ours: bool
    frames: Mapping[int, DecidedFrame] = field(repr=False)


@dataclass
class _Series:
    """Masks that are known to be one instance.

    Attributes:
        masks: Its regions, in their order.
        pages: By page, each of its masks, encoded.
        fixed: Whether identity, and not geometry, says what belongs to it.
    """

    masks: list[PageMask]
    pages: dict[int, list[RLE]]
    fixed: bool

    @property
    def label(self) -> str:
        return _label(self.masks[0])

    def take(self, other: _Series) -> None:
        """Add all regions of another series."""
        self.masks += other.masks
        for page, masks in other.pages.items():
            self.pages.setdefault(page, []).extend(masks)
        self.fixed = self.fixed or other.fixed


def unique_names(names: Iterable[str]) -> Iterator[str]:
    """Names made different: the second ``car`` becomes ``car #2``."""
    used: set[str] = set()
    counts: Counter[str] = Counter()
    for name in names:
        counts[name] += 1
        unique = name if counts[name] == 1 else f"{name} #{counts[name]}"
        while unique in used:
            counts[name] += 1
            unique = f"{name} #{counts[name]}"
        used.add(unique)
        yield unique


def identity_of(region_id: str) -> str:
    """The id of a region; of one that this backend named, without its page and part."""
    match = _OURS.fullmatch(region_id)
    return region_id if match is None else match.group(1)


def relations(annotation: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Pairs of ids of regions that an annotator joined."""
    results = annotation.get("result")
    return tuple(
        (str(item.get("from_id")), str(item.get("to_id")))
        for item in (results if isinstance(results, list) else ())
        if isinstance(item, Mapping) and item.get("type") == "relation"
    )


def is_proposed(region_id: str, origin: str) -> bool:
    """Whether a region is of a proposal or an answer of this backend."""
    return origin.startswith("prediction") or _OURS.fullmatch(region_id) is not None


def proposal_notes(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By id, the expressions in the notes of proposed regions; annotators write notes of their own into others."""
    notes = {}
    for item in map(ResultItem, results):
        if is_proposed(item.id, str(item.raw.get("origin", ""))) and item.note.strip():
            notes[item.id] = item.note
    return notes


def masked_instances(
    results: Sequence[Mapping[str, Any]], side: FramesSide, joined: Sequence[tuple[str, str]] = ()
) -> list[Instance]:
    """The instances among the mask regions of a side, in the order of their first regions.

    Args:
        results: Of the annotation.
        side: The side.
        joined: See :func:`relations`.

    Raises:
        RegionError: A region is malformed, or two of one page differ in size.
    """
    masks = page_masks(r for r in results if r.get("to_name") in (side.name, None))
    notes = proposal_notes(results)
    kinds = {control.name: control.kind for control in side.masks}
    series = _by_identity(masks, joined, labels_name=side.labels_name_instances)
    if not side.labels_name_instances:
        series = _continued(_with_parts(series))
    names = unique_names(one.label for one in series)
    return [_instance(one, name, notes, kinds) for one, name in zip(series, names, strict=True)]


def _instance(series: _Series, name: str, notes: Mapping[str, str], kinds: Mapping[str, str]) -> Instance:
    changed: dict[int, bool | None] = {}
    confidences: dict[int, float] = {}
    for mask in series.masks:
        reported = _reported_change(mask.origin, kinds.get(mask.control, "") in _EXACT)
        # One changed region changes its page; one that nothing is known of leaves it open.
        changed[mask.page] = _any_changed(changed.get(mask.page, reported), reported)
        if mask.score is not None:
            confidences[mask.page] = min(mask.score, confidences.get(mask.page, 1.0))
    return Instance(
        name=name,
        label=series.label,
        regions=frozenset(identity_of(mask.region_id) for mask in series.masks),
        text=None,
        note=next((notes[mask.region_id] for mask in series.masks if mask.region_id in notes), None),
        ours=any(is_proposed(mask.region_id, mask.origin) for mask in series.masks),
        frames={
            page: DecidedFrame(
                rle=rle if mask_area(rle) else None,
                changed=changed.get(page, True),
                confidence=confidences.get(page),
            )
            for page, rle in masks_by_page(series.masks).items()
        },
    )


# --- identity


def _by_identity(
    masks: Sequence[PageMask], joined: Sequence[tuple[str, str]], *, labels_name: bool
) -> list[_Series]:
    """One series for each identity, with what relations join."""
    stems = {(mask.region_id, mask.page): _stem(mask) for mask in masks}
    shared = Counter((stems[mask.region_id, mask.page], _label(mask)) for mask in masks)
    found: dict[tuple[str, str], _Series] = {}
    of_region: dict[str, tuple[str, str]] = {}
    for mask in masks:
        label, stem = _label(mask), stems[mask.region_id, mask.page]
        ours = _OURS.fullmatch(mask.region_id) is not None
        key, fixed = ("region", mask.region_id), False
        if labels_name:
            key, fixed = ("label", label), True
        elif ours:
            key, fixed = ("ours", identity_of(mask.region_id)), True
        elif stem is not None and shared[stem, label] > 1:
            key, fixed = (f"stem of {label}", stem), True
        one = _Series([mask], {mask.page: [mask.rle]}, fixed)
        of_region[mask.region_id] = key
        if key in found:
            found[key].take(one)
        else:
            found[key] = one
    for first, second in joined:
        a, b = of_region.get(first), of_region.get(second)
        if a is None or b is None or found[a] is found[b]:
            continue
        taken = found[b]
        found[a].take(taken)
        for key in [key for key, one in found.items() if one is taken]:
            found[key] = found[a]
    return list({id(one): one for one in found.values()}.values())


def _stem(mask: PageMask) -> str | None:
    """The part of a region's id before the number of its page; ``None`` where it does not end with that."""
    match = _PAGED.fullmatch(mask.region_id)
    return match.group(1) if match is not None and int(match.group(2)) == mask.page else None


def _label(mask: PageMask) -> str:
    return mask.labels[0] if mask.labels else ""


# --- geometry


def _with_parts(series: list[_Series]) -> list[_Series]:
    """The series with what lies mostly on another region of its label and page taken in."""
    kept: list[_Series] = []
    for one in sorted(series, key=lambda one: not one.fixed):
        page = min(one.pages)
        whole = next((other for other in kept if not one.fixed and _is_part(one, other, page)), None)
        if whole is None:
            kept.append(one)
        else:
            whole.take(one)
    return [one for one in series if any(one is other for other in kept)]


def _is_part(one: _Series, other: _Series, page: int) -> bool:
    if one.label != other.label or len(one.pages) > 1:
        return False
    return any(_shared(a, b) >= _PART for a in one.pages[page] for b in other.pages.get(page, ()))


def _shared(a: RLE, b: RLE) -> float:
    """The fraction in [0, 1] of the smaller mask that lies on the other one."""
    least = min(mask_area(a), mask_area(b))
    if least == 0 or a["size"] != b["size"]:
        return 0.0
    overlap = mask_iou(a, b)
    return overlap / (1 + overlap) * (mask_area(a) + mask_area(b)) / least


def belonging(mask: RLE, page: int, masks: Mapping[int, RLE]) -> float:
    """How well a region that was drawn by hand fits an instance; 0 where it is none of it.

    Args:
        mask: The region.
        page: Its page.
        masks: The masks of the instance by page, at least one.
    """
    if page in masks:
        shared = _shared(mask, masks[page])
        return shared if shared >= _PART else 0.0
    nearest = masks[min(masks, key=lambda other: (abs(other - page), other))]
    return _closeness(mask, nearest)


def _continued(series: list[_Series]) -> list[_Series]:
    """The series, with those drawn by hand joined from page to page."""
    kept = [one for one in series if one.fixed]
    by_page: dict[int, list[_Series]] = {}
    for one in series:
        if not one.fixed:
            by_page.setdefault(min(one.pages), []).append(one)
    for page, new in sorted(by_page.items()):
        for one, other in _matches(new, kept, page):
            other.take(one)
            new = [rest for rest in new if rest is not one]
        kept += new
    order = {id(one.masks[0]): position for position, one in enumerate(series)}
    return sorted(kept, key=lambda one: min(order.get(id(mask), len(order)) for mask in one.masks))


def _matches(new: Sequence[_Series], known: Sequence[_Series], page: int) -> list[tuple[_Series, _Series]]:
    """Which new regions of a page continue which series: the closest first, each at most one."""
    pairs = [
        (_closeness(one.pages[page][0], _nearest(other, page)), one, other)
        for one in new
        for other in known
        if one.label == other.label and not other.pages.keys() & one.pages.keys()
    ]
    found: list[tuple[_Series, _Series]] = []
    taken: set[int] = set()
    for closeness, one, other in sorted(pairs, key=lambda pair: -pair[0]):
        if closeness > 0 and not {id(one), id(other)} & taken:
            taken |= {id(one), id(other)}
            found.append((one, other))
    return found


def _nearest(series: _Series, page: int) -> RLE:
    return series.pages[min(series.pages, key=lambda other: (abs(other - page), other))][0]


def _closeness(a: RLE, b: RLE) -> float:
    """Above 1 for masks that overlap, in (0, 1) for those whose centres are less than one mean diagonal apart."""
    first, second = box_of(a), box_of(b)
    if first is None or second is None or a["size"] != b["size"]:
        return 0.0
    overlap = mask_iou(a, b)
    if overlap > 0:
        return 1.0 + overlap
    height, width = a["size"]
    boxes = np.array([first, second]) * (width, height, width, height)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    reach = float(np.hypot(boxes[:, 2], boxes[:, 3]).mean())
    return max(0.0, 1.0 - float(np.hypot(*(centres[0] - centres[1]))) / reach) if reach > 0 else 0.0


def _reported_change(origin: str, exact: bool) -> bool | None:
    """What Label Studio says of a region; it notes changes of brush and bitmask regions alone."""
    if origin == "prediction-changed":
        return True
    return False if origin == "prediction" and exact else None


def _any_changed(one: bool | None, other: bool | None) -> bool | None:
    if one or other:
        return True
    return None if one is None or other is None else False
