"""In the model process: boxes become masks, and decided masks are propagated to the other frames, by SAM 2."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend.corrections import Box, PropagatedFrame, TrackBox
from ml_backend.executor import Progress, should_yield
from steerseg.masks import RLE, decode_rle, encode_rle, iou, mask_area, mask_box

if TYPE_CHECKING:  # these come with torch, which only the model process loads
    import torch

    from steerseg.tracking import EncodedVideo, Tracker
    from steerseg.video import Video

MAX_CONDITIONING = 8
"""Most decided frames that propagation starts from, spread evenly: each further one costs attention on every
frame and tells little that is new."""

MIN_FIT = 0.5
"""A mask whose own box overlaps the drawn one by less is not the object that was meant (our choice)."""

_MARGIN = 1.0
"""How far the threshold of the mask logits is moved to see how much the mask changes, as SAM's own generator of
masks does for its stability score."""


@dataclass(frozen=True)
class MaskRequest:
    """Ask for masks on frames that have boxes only, and on those that nobody decided.

    Attributes:
        media: A video file, or a folder of frames.
        fps: Frames a second of a folder of frames.
        masks: Decided masks by frame, of the media's size and not empty.
        boxes: Decided boxes by frame, where there is no mask.
        hidden: Frames that are decided to be empty.
        propagate: Whether the frames that are none of these are wanted.
    """

    media: Path
    fps: float | None
    masks: Mapping[int, RLE] = field(repr=False)
    boxes: Mapping[int, tuple[TrackBox, ...]] = field(repr=False)
    hidden: frozenset[int] = field(repr=False)
    propagate: bool


@dataclass(frozen=True)
class MaskAnswer:
    """What SAM 2 made of it.

    Attributes:
        num_frames: T, as decoded.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        boxed: By frame, the mask of the boxes there. Frames are missing whose mask does not fill its box.
        upright: By frame, the upright boxes around the given ones.
        propagated: By frame, what was propagated.
    """

    num_frames: int
    height: int
    width: int
    boxed: Mapping[int, RLE] = field(repr=False)
    upright: Mapping[int, tuple[Box, ...]] = field(repr=False)
    propagated: Mapping[int, PropagatedFrame] = field(repr=False)


class PutDownError(Exception):
    """Something more urgent came; the work is to be begun again later."""


def answer_masks(
    tracker: Tracker, video: Video, encoded: EncodedVideo, request: MaskRequest, progress: Progress
) -> MaskAnswer:
    """Answer a request.

    Args:
        tracker: SAM 2.
        video: The decoded media.
        encoded: The same, opened by the tracker.
        request: What is asked for. Frames beyond the end of the video are passed over.
        progress: Told of the stages ``boxes`` and ``propagating``.

    Raises:
        PutDownError: Something more urgent waits.
        Cancelled: ``progress`` raised it.
    """
    size = video.height, video.width
    upright = {
        frame: tuple(upright_box(box, *size) for box in boxes)
        for frame, boxes in request.boxes.items()
        if frame < len(video)
    }
    boxed: dict[int, RLE] = {}
    for done, (frame, boxes) in enumerate(sorted(upright.items())):
        _tell(progress, "boxes", done / len(upright))
        mask = np.zeros(size, dtype=bool)
        for box in boxes:
            mask |= _mask_in_box(tracker, encoded, frame, box)
        if mask.any():
            boxed[frame] = encode_rle(mask)
    known = {frame: rle for frame, rle in request.masks.items() if frame < len(video)} | boxed
    decided = known.keys() | upright.keys() | request.hidden
    wanted = sorted(set(range(len(video))) - decided)
    propagated: dict[int, PropagatedFrame] = {}
    if request.propagate and wanted and known:
        propagated = _propagate(tracker, encoded, known, wanted, progress)
    return MaskAnswer(len(video), *size, boxed, upright, propagated)


def upright_box(box: TrackBox, height: int, width: int) -> Box:
    """The upright box around a rotated one, cut off at the frame's edges; all in fractions of the frame.

    Args:
        box: The box, rotated clockwise about its top left corner.
        height: Of the frame: rotation keeps lengths in pixels, not in fractions.
        width: Likewise.
    """
    x, y, w, h, degrees = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [
        (x * width + dx * cosine - dy * sine, y * height + dx * sine + dy * cosine)
        for dx in (0.0, w * width)
        for dy in (0.0, h * height)
    ]
    left, right = (min(max(edge(c[0] for c in corners) / width, 0.0), 1.0) for edge in (min, max))
    top, bottom = (min(max(edge(c[1] for c in corners) / height, 0.0), 1.0) for edge in (min, max))
    return left, top, right - left, bottom - top


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes in [0, 1]; 0 where either has no area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def box_of(rle: RLE) -> Box | None:
    """The box of a mask as fractions of the frame; ``None`` where it is empty."""
    box = mask_box(decode_rle(rle)) if mask_area(rle) else None
    if box is None:
        return None
    height, width = rle["size"]
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _mask_in_box(tracker: Tracker, encoded: EncodedVideo, frame: int, box: Box) -> NDArray[np.bool_]:
    """SAM 2's mask of one box; empty where it does not fill the box."""
    from steerseg.tracking import Prompt

    nothing = np.zeros((encoded.height, encoded.width), dtype=bool)
    if box[2] * encoded.width < 1 or box[3] * encoded.height < 1:
        return nothing
    started = tracker.start(encoded, [Prompt(frame=frame, box=box)])
    mask = tracker.propagate(encoded, [started], frames=[frame]).masks(0)[0]
    found = mask_box(mask)
    if found is None:
        return nothing
    height, width = mask.shape
    fractions = (found[0] / width, found[1] / height, found[2] / width, found[3] / height)
    return mask if box_iou(fractions, box) >= MIN_FIT else nothing


def _propagate(
    tracker: Tracker,
    encoded: EncodedVideo,
    known: Mapping[int, RLE],
    wanted: Sequence[int],
    progress: Progress,
) -> dict[int, PropagatedFrame]:
    from steerseg.tracking import Prompt

    _tell(progress, "propagating", 0.0)
    chosen = spread(sorted(known), MAX_CONDITIONING)
    started = tracker.start(encoded, [Prompt(frame=frame, mask=decode_rle(known[frame])) for frame in chosen])
    judges = _Judges(frozenset(wanted), encoded.height, encoded.width)
    tracker.follow(
        encoded, [started], [judges], progress=lambda fraction: _tell(progress, "propagating", fraction)
    )
    return dict(sorted(judges.judged.items()))


class _Judges:
    """Judges the wanted frames as they come, so that a long video's logits are never all in memory."""

    def __init__(self, wanted: Collection[int], height: int, width: int) -> None:
        self._wanted = wanted
        self._size = (height, width)
        self.judged: dict[int, PropagatedFrame] = {}

    def put(self, frame: int, logits: torch.Tensor, presence: float) -> None:
        """Take one frame from the tracker; see :class:`steerseg.delivery.Sink`."""
        from steerseg.packing import mask_at_size

        if frame in self._wanted:
            self.judged[frame] = _judged(mask_at_size(logits, *self._size), presence, logits)


def _judged(mask: NDArray[np.bool_], presence: float, logits: torch.Tensor) -> PropagatedFrame:
    """A propagated mask with SAM 2's certainty times the mask's stability; see :class:`PropagatedFrame`."""
    if not mask.any():
        return PropagatedFrame(None, 1.0 - presence)
    wide, narrow = int((logits > -_MARGIN).sum()), int((logits > _MARGIN).sum())
    return PropagatedFrame(encode_rle(mask), presence * (narrow / wide if wide else 0.0))


def spread(frames: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the frames, evenly over their order, first and last included."""
    if len(frames) <= count:
        return list(frames)
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def mask_iou(a: RLE | None, b: RLE | None) -> float:
    """Overlap in [0, 1] of two masks of one size, ``None`` being an empty one; 1 where both are empty."""
    empty_a, empty_b = (rle is None or mask_area(rle) == 0 for rle in (a, b))
    if empty_a or empty_b:
        return float(empty_a and empty_b)
    assert a is not None
    assert b is not None
    return iou(decode_rle(a), decode_rle(b))


def _tell(progress: Progress, stage: str, fraction: float) -> None:
    progress(stage, fraction)
    if should_yield(progress):
        raise PutDownError
