"""Tracks with the annotator's own pages in them."""

from __future__ import annotations

from ml_backend.interactive.state import EMPTY_MASK, InstanceState, mask_digest
from ml_backend.models.messages import AGREEMENT
from steerseg.masks import RLE, empty_rle, rle_iou


def paint_agrees(instance: InstanceState) -> bool:
    """Whether painted pages show the object of the expression, by their mean overlap with the track."""
    if not instance.track:
        return True
    overlaps = [
        rle_iou(painted, tracked) if tracked is not None else AGREEMENT
        for page, painted in instance.painted_masks.items()
        if page < len(instance.track)
        for tracked in (instance.track[page],)
        if tracked is None or tracked["size"] == painted["size"]
    ]
    return not overlaps or sum(overlaps) / len(overlaps) >= AGREEMENT


def track_with_paint(instance: InstanceState) -> tuple[RLE, ...]:
    """The track with the annotator's own pages in it; empty where no page has a mask."""
    masks = [instance.painted.get(page, mask) for page, mask in enumerate(instance.track)]
    return filled(masks, instance.track, tuple(instance.painted.values()))


def filled(masks: list[RLE | None], *known: tuple[RLE | None, ...]) -> tuple[RLE, ...]:
    """Masks with an empty one where there is none.

    Args:
        masks: One a page.
        known: Masks from which the size is read.

    Returns:
        One mask a page; none where no size is known.
    """
    sized = next((mask for group in (masks, *known) for mask in group if mask is not None), None)
    if sized is None:
        return ()
    empty = empty_rle(*sized["size"])
    return tuple(empty if mask is None else mask for mask in masks)


def mask_or_none(mask: RLE) -> RLE | None:
    """The mask; ``None`` for an empty one."""
    return None if mask_digest(mask) == EMPTY_MASK else mask
