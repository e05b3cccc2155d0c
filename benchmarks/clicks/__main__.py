"""``python -m benchmarks.clicks -o FILE [--segmenters edgetam ...]``: clicks on a CPU, as on a laptop.

Random weights in full size. Times are as a clock shows them; ``work`` has those of the process's own work, which other
work on the machine changes less. ``native`` is what the presets take: bfloat16 on a CPU with instructions for it.
``int8`` shows what 8 bits in linear layers would bring.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.models import Size, make_tracker, make_video
from steerseg.presets import find_preset, load_preset
from steerseg.tracking import Prompt, Tracker
from steerseg.tracking.packed_masks import PackedTrack

PRESETS = ("clicks-edgetam", "clicks-sam2.1-tiny")


class Seconds(NamedTuple):
    """What something took: as a clock shows it, and of this process's work, all threads together."""

    elapsed: float
    work: float

    def each_of(self, parts: int) -> Seconds:
        """What one of so many equal parts took."""
        return Seconds(self.elapsed / parts, self.work / parts)


def seconds_of(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    """The result, and what it took."""
    start, worked = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - start, time.process_time() - worked)


def measure(tracker: Tracker, frames: int, size: Size) -> dict[str, Seconds]:
    """What a click on a new video takes, a further one, and each frame that follows it."""
    video = make_video(frames, size)
    click = Prompt(0, ((0.4, 0.5),), (True,))
    again = Prompt(0, ((0.4, 0.5), (0.6, 0.5)), (True, False))
    tracker.start(
        tracker.open(make_video(1, size, seed=1)), [click]
    )  # memory is taken, and kernels are chosen
    encoded = tracker.open(video)
    started, first = seconds_of(lambda: tracker.start(encoded, [click]))
    _, further = seconds_of(lambda: tracker.start(encoded, [again]))

    def follow() -> None:
        tracker.follow(encoded, [started], [PackedTrack(len(video), video.height, video.width)])

    _, following = seconds_of(follow)
    _, known = seconds_of(follow)
    return {
        "first_click": first,
        "further_click": further,
        "frame": following.each_of(frames - 1),
        "frame_encoded_before": known.each_of(frames - 1),
    }


def make_in_precision(preset: str, size: Size, precision: str) -> Tracker:
    """The tracker of a preset, with random weights, in a precision."""
    card = load_preset(find_preset(preset))
    config = replace(card.segmenter_config, cpu_precision="native" if precision == "native" else "float32")
    tracker = make_tracker(size, torch.device("cpu"), torch.float32, card.segmenter_source, config)
    if precision == "int8":
        from torch.ao.quantization import quantize_dynamic

        quantize_dynamic(tracker.segmenter.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    return tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one line of JSON for each preset and precision."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the results, one line each")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument(
        "--precisions", nargs="+", choices=("float32", "native", "int8"), default=["float32", "native"]
    )
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    given = parser.parse_args(arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with given.output.open("w") as file:
        for preset in given.presets:
            for precision in given.precisions:
                tracker = make_in_precision(preset, given.size, precision)
                with torch.inference_mode():
                    numbers = measure(tracker, given.frames, given.size)
                line = {
                    "preset": preset,
                    "precision": precision,
                    "threads": torch.get_num_threads(),
                    **{name: seconds.elapsed for name, seconds in numbers.items()},
                    "work": {name: seconds.work for name, seconds in numbers.items()},
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
