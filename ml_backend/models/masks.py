"""In the model process: boxes become masks, and decided masks are propagated to the other frames, by the segmenter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.models.geometry import MAX_CONDITIONING, Box, box_iou, spread, upright_box
from ml_backend.models.messages import MaskAnswer, MaskRequest, PropagatedFrame
from ml_backend.models.reporter import Reporter, yielding_progress
from steerseg.masks import RLE, decode_rle, encode_rle, mask_box
from steerseg.tracking import EncodedVideo, Prompt, Tracker
from steerseg.tracking.packed_masks import mask_at_size
from steerseg.video import Progress, Video

MIN_FIT = 0.5
"""Least overlap (IoU, in [0, 1]) of a mask's own box with the drawn one. Below it, the mask is not the object that
was meant (our choice)."""

_MARGIN = 1.0
"""How far the threshold of the mask logits is moved to see how much the mask changes, as SAM's own generator of
masks does for its stability score."""


def answer_masks(
    tracker: Tracker, video: Video, encoded: EncodedVideo, request: MaskRequest, reporter: Reporter
) -> MaskAnswer:
    """Answer a request.

    Args:
        tracker: The tracker over the segmenter.
        video: The decoded media.
        encoded: The same, opened by the tracker.
        request: The request. Frames beyond the end of the video are passed over.
        reporter: Called with the stages ``boxes`` and ``propagating``.

    Raises:
        YieldRequested: Something more urgent waits.
        Cancelled: The job was cancelled.
    """
    progress = yielding_progress(reporter)
    size = video.height, video.width
    upright = {
        frame: tuple(upright_box(box, *size) for box in boxes)
        for frame, boxes in request.boxes.items()
        if frame < len(video)
    }
    boxed: dict[int, RLE] = {}
    for done, (frame, boxes) in enumerate(sorted(upright.items())):
        progress("boxes", done / len(upright))
        mask = np.zeros(size, dtype=bool)
        for box in boxes:
            mask |= _mask_in_box(tracker, encoded, frame, box)
        if mask.any():
            boxed[frame] = encode_rle(mask)
    # What a mask claims decides no memory. The server refuses those of another size once it knows the video's.
    fitting = {frame: rle for frame, rle in request.masks.items() if rle["size"] == list(size)}
    known = {frame: rle for frame, rle in fitting.items() if frame < len(video)} | boxed
    decided = known.keys() | upright.keys() | request.hidden
    wanted = sorted(set(range(len(video))) - decided)
    propagated: dict[int, PropagatedFrame] = {}
    if request.propagate and wanted and known:
        propagated = _propagate(tracker, encoded, known, wanted, progress)
    return MaskAnswer(len(video), *size, boxed, upright, propagated)


def _mask_in_box(tracker: Tracker, encoded: EncodedVideo, frame: int, box: Box) -> NDArray[np.bool_]:
    """The segmenter's mask of one box; empty where it does not fill the box."""
    nothing = np.zeros((encoded.height, encoded.width), dtype=bool)
    if box[2] * encoded.width < 1 or box[3] * encoded.height < 1:
        return nothing
    started = tracker.start(encoded, [Prompt(frame=frame, box=box)])
    mask = tracker.propagate(encoded, [started], frames=[frame]).masks(0)[0]
    bounds = mask_box(mask)
    if bounds is None:
        return nothing
    height, width = mask.shape
    fractions = (bounds[0] / width, bounds[1] / height, bounds[2] / width, bounds[3] / height)
    return mask if box_iou(fractions, box) >= MIN_FIT else nothing


def _propagate(
    tracker: Tracker,
    encoded: EncodedVideo,
    known: Mapping[int, RLE],
    wanted: Sequence[int],
    progress: Progress,
) -> dict[int, PropagatedFrame]:
    progress("propagating", 0.0)
    chosen = spread(sorted(known), MAX_CONDITIONING)
    started = tracker.start(encoded, [Prompt(frame=frame, mask=decode_rle(known[frame])) for frame in chosen])
    sink = _ConfidenceSink(frozenset(wanted), encoded.height, encoded.width)
    tracker.follow(encoded, [started], [sink], progress=lambda fraction: progress("propagating", fraction))
    return dict(sorted(sink.frames.items()))


class _ConfidenceSink:
    """Measures the wanted frames as they come, so that a long video's logits are never all in memory.

    Attributes:
        frames: The wanted frames so far.
    """

    def __init__(self, wanted: Collection[int], height: int, width: int) -> None:
        self._wanted = wanted
        self._size = (height, width)
        self.frames: dict[int, PropagatedFrame] = {}

    def put(self, frame: int, logits: torch.Tensor, presence: float) -> None:
        """Take one frame from the tracker; see :class:`steerseg.tracking.host_transfer.MaskSink`."""
        if frame in self._wanted:
            self.frames[frame] = _measured(mask_at_size(logits, *self._size), presence, logits)


def _measured(mask: NDArray[np.bool_], presence: float, logits: torch.Tensor) -> PropagatedFrame:
    """A propagated mask with the segmenter's certainty times the mask's stability; see :class:`PropagatedFrame`."""
    if not mask.any():
        return PropagatedFrame(None, 1.0 - presence)
    wide, narrow = int((logits > -_MARGIN).sum()), int((logits > _MARGIN).sum())
    return PropagatedFrame(encode_rle(mask), presence * (narrow / wide if wide else 0.0))
