"""``python -m benchmarks.gpu.objects -o DIR [--counts 1 4 16 64 128]``: many objects in one video.

Frames are encoded and all objects are tracked, in a video that the model has not seen. Masks of random weights are
noise, which takes a host five times as long to encode as an object's. So the host encodes discs in their place.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.models import Size, make_tracker, make_video
from benchmarks.gpu.records import Records
from benchmarks.gpu.report import write_report
from benchmarks.gpu.segmenters import LARGE
from steerseg.tracking import Candidate, EncodedVideo, Prompt, Tracker, packed_masks, tracklets
from steerseg.tracking.packed_masks import PackedTrack

COUNTS = (1, 4, 16, 64, 128)
_TINY_COUNTS = (1, 3)
_SECONDS = 480.0


class _Discs:
    """Encodes a disc for every mask that comes, as one of an object's is encoded.

    Args:
        packed: Where the discs go.
        side: Of the segmenter's grid of logits.
    """

    def __init__(self, packed: PackedTrack, side: int) -> None:
        self._packed = packed
        self._logits = disc(side)

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame."""
        self._packed.put(frame, self._logits, presence)


def disc(side: int) -> Tensor:
    """(side, side) mask logits of a disc in the middle."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    middle = side / 2
    return (side / 8) - ((rows - middle) ** 2 + (columns - middle) ** 2).float().sqrt()


@contextmanager
def discs_encoded(side: int) -> Iterator[None]:
    """Inside, the host encodes a disc in place of each mask of a proposal, which of random weights is noise."""
    logits, encode = disc(side), packed_masks.mask_at_size

    def mask_of_disc(_: Tensor, height: int, width: int) -> NDArray[np.bool_]:
        return encode(logits, height, width)

    with (
        mock.patch.object(packed_masks, "mask_at_size", mask_of_disc),
        mock.patch.object(tracklets, "mask_at_size", mask_of_disc),
    ):
        yield


class _Nothing:
    """Lets masks go: what is left is the work of the device."""

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame."""


def click_grid(count: int) -> list[Prompt]:
    """As many clicks on the first frame, in rows and columns."""
    columns = math.ceil(math.sqrt(count * 16 / 9))
    rows = math.ceil(count / columns)
    return [
        Prompt(0, (((index % columns + 0.5) / columns, (index // columns + 0.5) / rows),), (True,))
        for index in range(count)
    ]


def measure_objects(records: Records, tracker: Tracker, size: Size, counts: Sequence[int]) -> None:
    """Frames a second and memory by the number of objects."""
    video = make_video(80 if size == "full" else 6, size)
    side = tracker.segmenter.logits_side

    def follow(prompts: Sequence[Prompt], *, encode: bool) -> None:
        encoded: EncodedVideo = tracker.open(video)
        started: list[Candidate] = [tracker.start(encoded, [prompt]) for prompt in prompts]
        sinks: list[Any] = [
            _Discs(PackedTrack(len(video), video.height, video.width), side) if encode else _Nothing()
            for _ in prompts
        ]
        tracker.follow(encoded, started, sinks)

    def measured(count: int) -> None:
        prompts = click_grid(count)
        for _ in range(2):  # kernels and captured steps of this many objects
            follow(prompts, encode=False)
        for name, encode in (("on the device", False), ("with encoded masks", True)):
            label = f"{count} objects, {name}"
            _, seconds = records.timed(
                label,
                functools.partial(follow, prompts, encode=encode),
                repeat=3 if count <= 16 else 2,
                objects=count,
            )
            records.put(f"{label}, rate", frames_a_second=len(video) / seconds, objects=count)

    for count in counts:
        records.attempt(f"{count} objects", functools.partial(measured, count))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.objects", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of results.jsonl and report.md"
    )
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of objects")
    parser.add_argument("--segmenter", default=LARGE, help="hub id of a SAM 2, or edgetam")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    records = Records(given.output, device, _SECONDS)
    records.put_environment(given.size, segmenter=given.segmenter)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tracker = make_tracker(given.size, device, dtype, given.segmenter)
    measure_objects(
        records, tracker, given.size, given.counts or (COUNTS if given.size == "full" else _TINY_COUNTS)
    )
    write_report(given.output)
    return 1 if records.failures else 0


if __name__ == "__main__":
    sys.exit(main())
