"""``python -m benchmarks.gpu.objects -o DIR [--counts 1 4 16 64 128] [--measures]``: many objects in one video.

Frames are encoded and all objects are tracked, in a video that the model has not seen. Masks of random weights are
noise, which takes a host five times as long to encode as an object's. So the host encodes discs in their place.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.changes import attribute
from benchmarks.gpu.models import Size, make_tracker, make_video
from benchmarks.gpu.object_measures import measure_measures
from benchmarks.gpu.profiles import profile
from benchmarks.gpu.records import Records
from benchmarks.gpu.report import write_report
from benchmarks.gpu.sam2_ways import measure_depthwise, measure_memory_attention
from benchmarks.gpu.segmenters import LARGE
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Candidate, EncodedVideo, Prompt, Tracker
from steerseg.tracking.packed_masks import PackedTrack
from steerseg.video import Video

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
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        middle = side / 2
        self._logits = (side / 8) - ((rows - middle) ** 2 + (columns - middle) ** 2).float().sqrt()

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame."""
        self._packed.put(frame, self._logits, presence)


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


class Objects:
    """Tracks clicked objects through a video.

    Args:
        records: Where the numbers go.
        tracker: The tracker.
        size: Of the models.
    """

    def __init__(self, records: Records, tracker: Tracker, size: Size) -> None:
        self.records, self.tracker = records, tracker
        self.video = make_video(80 if size == "full" else 6, size)
        self._short = make_video(24 if size == "full" else 4, size)

    def follow(self, video: Video, prompts: Sequence[Prompt], *, encode: bool = False) -> None:
        """Encode the frames and track the objects."""
        encoded, started = self._start(video, prompts)
        side = self.tracker.segmenter.logits_side
        sinks: list[Any] = [
            _Discs(PackedTrack(len(video), video.height, video.width), side) if encode else _Nothing()
            for _ in prompts
        ]
        self.tracker.follow(encoded, started, sinks)

    def _start(self, video: Video, prompts: Sequence[Prompt]) -> tuple[EncodedVideo, list[Candidate]]:
        encoded = self.tracker.open(video)
        return encoded, self.tracker.start_each(encoded, prompts)

    def measure(self, count: int) -> None:
        """Frames a second and memory."""
        prompts = click_grid(count)
        self.follow(self.video, prompts)  # kernels and captured steps of this many objects
        for name, encode in (("on the device", False), ("with encoded masks", True)):
            label = f"{count} objects, {name}"
            _, seconds = self.records.timed(
                label,
                functools.partial(self.follow, self.video, prompts, encode=encode),
                repeat=3 if count <= 16 else 2,
                objects=count,
            )
            rate = len(self.video) / seconds
            self.records.put(f"{label}, rate", frames_a_second=rate, objects=count)

    def measure_measures(self, count: int) -> None:
        """What single measures bring."""
        prompts = click_grid(count)

        def masks() -> Tensor:
            return self.tracker.propagate(*self._start(self._short, prompts)).logits

        follow = functools.partial(self.follow, self.video, prompts)
        measure_measures(self.records, self.tracker, follow, masks, len(self.video), count)

    def profile(self, count: int, path: Path) -> None:
        """Kernels and operators of a short video, step by step, not captured."""
        prompts = click_grid(count)
        segmenter = self.tracker.segmenter
        with attribute(segmenter, "captures", False):
            self.follow(self._short, prompts)
            name = f"profile, {count} objects"
            work = functools.partial(self.follow, self._short, prompts)
            self.records.attempt(name, lambda: profile(self.records, name, work, path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.objects", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of results.jsonl and report.md"
    )
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of objects")
    parser.add_argument("--segmenter", default=LARGE, help="hub id of a SAM 2, or edgetam")
    parser.add_argument(
        "--measures", action="store_true", help="also what single measures bring, at 16 objects"
    )
    parser.add_argument("--profile", action="store_true", help="also kernels of 16 objects, in profiles.txt")
    parser.add_argument("--ways", action="store_true", help="also ways to attend and to convolve, of SAM 2")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    records = Records(given.output, device, _SECONDS)
    records.put_environment(given.size, segmenter=given.segmenter)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tracker = make_tracker(given.size, device, dtype, given.segmenter)
    objects = Objects(records, tracker, given.size)
    full = given.size == "full"
    several = 16 if full else _TINY_COUNTS[-1]
    if given.profile:
        (given.output / "profiles.txt").write_text("")
        objects.profile(several, given.output / "profiles.txt")
    if given.ways and isinstance(tracker.segmenter, Sam2):
        measure_memory_attention(records, tracker, rows=8)
        measure_depthwise(records, tracker)
    for count in given.counts or (COUNTS if full else _TINY_COUNTS):
        records.attempt(f"{count} objects", functools.partial(objects.measure, count))
    if given.measures:
        objects.measure_measures(several)
    write_report(given.output)
    return 1 if records.failures else 0


if __name__ == "__main__":
    sys.exit(main())
