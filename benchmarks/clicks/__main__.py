"""``python -m benchmarks.clicks -o FILE [--segmenters edgetam ...]``: clicks on a CPU, as on a laptop.

Random weights in full size. Times are those of the process's own work, so that other work on the machine counts less;
with one thread, they are seconds of one core. ``bfloat16`` and ``int8`` show what fewer bits would bring.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import Size, make_tracker, make_video
from steerseg.config import SegmenterConfig
from steerseg.presets import find_preset, load_preset
from steerseg.tracking import Prompt, Tracker
from steerseg.tracking.packed_masks import PackedTrack

PRESETS = ("clicks-edgetam", "clicks-sam2.1-tiny")


def seconds_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds that this process has worked for it, all threads together."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def measure(tracker: Tracker, frames: int, size: Size) -> dict[str, float]:
    """Seconds of a click on a new video, of a further one, and of each frame that follows it."""
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
        "frame": following / (frames - 1),
        "frame_encoded_before": known / (frames - 1),
    }


def in_precision(tracker: Tracker, precision: str) -> AbstractContextManager[Any]:
    """Inside, a tracker computes in this precision; 8 bits change its linear layers for good."""
    if precision == "int8":
        from torch.ao.quantization import quantize_dynamic

        quantize_dynamic(tracker.segmenter.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    if precision == "bfloat16":
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one line of JSON for each preset and precision."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the results, one line each")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument(
        "--precisions", nargs="+", choices=("float32", "bfloat16", "int8"), default=["float32"]
    )
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    given = parser.parse_args(arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with given.output.open("w") as file:
        for preset in given.presets:
            for precision in given.precisions:
                card = load_preset(find_preset(preset))
                config: SegmenterConfig = card.segmenter_config
                device = torch.device("cpu")
                tracker = make_tracker(given.size, device, torch.float32, card.segmenter_source, config)
                with torch.inference_mode(), in_precision(tracker, precision):
                    numbers = measure(tracker, given.frames, given.size)
                line = {
                    "preset": preset,
                    "precision": precision,
                    "threads": torch.get_num_threads(),
                    **numbers,
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
