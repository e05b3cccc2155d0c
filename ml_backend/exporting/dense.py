"""Masks for every frame of a video of which annotators saw only every so many: SAM 2 fills the frames between pages.

The video is read once and in windows from page to page, so that memory does not grow with its length. In each
window the pages' masks condition SAM 2, and what it makes of the frames between them counts where it is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.exporting.labelled import ExportedMask, LabelledSequence, Provenance
from ml_backend.exporting.pictures import Pictures
from ml_backend.models.geometry import MAX_CONDITIONING
from ml_backend.models.masks import answer_masks
from ml_backend.models.messages import MaskRequest
from ml_backend.models.reporter import SilentReporter
from steerseg.errors import VideoError
from steerseg.masks import RLE
from steerseg.video import video_from_frames

if TYPE_CHECKING:  # it comes with torch
    from steerseg.tracking import Tracker

_WINDOW = 96
"""Most frames of a window, unless two pages are farther apart: bounds memory, and saves SAM 2 from drifting."""

_SAME = 12.0
"""Largest mean difference of small grey pictures (of 255) of a page and its frame: compression makes some."""

_SMALL = (48, 32)

Progress = Callable[[float], None]


def densify(
    sequence: LabelledSequence,
    pages: Pictures,
    video: Pictures,
    tracker: Tracker,
    confidence: float,
    progress: Progress = lambda fraction: None,
) -> LabelledSequence:
    """The same sequence with a frame for every frame of the original video.

    Args:
        sequence: Of pages, ``stride`` frames apart.
        pages: The pages, to see that the video is theirs.
        video: The original.
        tracker: SAM 2.
        confidence: Least confidence in [0, 1] of a mask that is kept; others leave their frame undecided.
        progress: Called with the fraction in [0, 1] of the pages that are done.

    Raises:
        VideoError: The video is not the one that the pages come from.
    """
    stride = sequence.stride
    masks = [{page * stride: mask for page, mask in object_.masks.items()} for object_ in sequence.objects]
    rejected = [{page * stride for page in object_.rejected} for object_ in sequence.objects]
    total = 0
    for start, frames in _windows(_checked(video.frames(), pages.frames(), stride, sequence), stride):
        total = start + len(frames)
        clip = video_from_frames(np.stack(frames), sequence.fps * stride)
        encoded = tracker.open(clip)
        for known, refused in zip(masks, rejected, strict=True):
            window = _Window.of(known, start, len(frames), stride)
            for index in window.between:
                known[start + index] = ExportedMask(None, Provenance.PROPAGATED, 1.0)
            if not window.shown:
                continue
            answer = answer_masks(tracker, clip, encoded, window.request, SilentReporter())
            for index, frame in answer.propagated.items():
                if frame.confidence >= confidence and start + index not in refused:
                    known[start + index] = ExportedMask(frame.rle, Provenance.PROPAGATED, frame.confidence)
        progress(min(1.0, total / (sequence.num_frames * stride)))
    return replace(
        sequence,
        num_frames=total,
        fps=sequence.fps * stride,
        stride=1,
        objects=tuple(
            replace(object_, masks=dict(sorted(known.items())), rejected=frozenset(refused))
            for object_, known, refused in zip(sequence.objects, masks, rejected, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Window:
    """What is known of one object in a window; frames count from its start.

    Attributes:
        shown: Masks of the pages that show it.
        gone: Pages that do not show it.
        between: Frames between two such pages: it is not looked for there.
    """

    shown: Mapping[int, RLE] = field(repr=False)
    gone: frozenset[int]
    between: frozenset[int]

    @classmethod
    def of(cls, known: Mapping[int, ExportedMask], start: int, length: int, stride: int) -> _Window:
        """Of the ``length`` frames from ``start`` on."""
        pages = {index: known.get(start + index) for index in range(0, length, stride)}
        gone = frozenset(index for index, mask in pages.items() if mask is not None and not mask.visible)
        return cls(
            shown={
                index: mask.rle
                for index, mask in pages.items()
                if mask is not None and mask.rle is not None and mask.visible
            },
            gone=gone,
            between=frozenset(
                frame
                for index in gone
                if index + stride in gone
                for frame in range(index + 1, index + stride)
            ),
        )

    @property
    def request(self) -> MaskRequest:
        """What SAM 2 is asked for."""
        return MaskRequest(
            media=Path(),  # the frames are at hand
            fps=None,
            masks=self.shown,
            boxes={},
            hidden=self.gone | self.between,
            propagate=True,
        )


def _windows(
    frames: Iterator[NDArray[np.uint8]], stride: int
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Runs of frames from page to page; each begins with the page that the one before ends with.

    Yields:
        The index of the first frame in the video, and the frames.
    """
    # Every page of a window conditions SAM 2.
    intervals = max(1, min(MAX_CONDITIONING - 1, _WINDOW // stride))
    start = 0
    window: list[NDArray[np.uint8]] = []
    for frame in frames:
        if len(window) > intervals * stride:
            yield start, window
            start, window = start + intervals * stride, window[-1:]
        window.append(frame)
    if len(window) > 1 or start == 0:
        yield start, window


def _checked(
    frames: Iterator[NDArray[np.uint8]],
    pages: Iterator[NDArray[np.uint8]],
    stride: int,
    sequence: LabelledSequence,
) -> Iterator[NDArray[np.uint8]]:
    """The frames, as long as each page looks like its frame."""
    found = 0
    for index, frame in enumerate(frames):
        if index % stride == 0:
            page = next(pages, None)
            if page is None:
                raise VideoError(_another(f"it has more than {sequence.num_frames} pages at this stride"))
            if page.shape != frame.shape:
                raise VideoError(_another(f"its frames are {frame.shape[1]} x {frame.shape[0]}"))
            if _difference(page, frame) > _SAME:
                raise VideoError(_another(f"frame {index} looks different from page {found + 1}"))
            found += 1
        yield frame
    if found != sequence.num_frames:
        raise VideoError(_another(f"it has {found} pages at this stride, the task {sequence.num_frames}"))


def _another(reason: str) -> str:
    return f"the video is not the one that the pages come from: {reason}; name the original's folder"


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean difference in [0, 255] of two pictures, seen small and grey."""
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize(_SMALL, Image.Resampling.BOX), dtype=np.float32)
        for image in (a, b)
    ]
    return float(np.abs(small[0] - small[1]).mean())
