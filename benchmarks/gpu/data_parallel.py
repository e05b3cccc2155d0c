"""``torchrun --nproc-per-node N -m benchmarks.gpu.data_parallel -o DIR``: how fast soft prompts are trained.

The loop of ``steerseg train`` on random weights of full size, each process with its own GPU and as many expressions
as any other. Run it for several N with one DIR: each adds a line to ``DIR/data-parallel.jsonl``, and the last one
tells all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.models import Size, make_lvlm, make_preset, make_video
from steerseg.config import TrainingRecipe
from steerseg.evaluation.sample import Sample
from steerseg.evaluation.truth import Palette
from steerseg.runtime.distributed import Ranks
from steerseg.training.loop import STATE_FOLDER, train

_BATCH = 8  # expressions of a step in each process
_EXPRESSIONS = 4  # of a clip, as datasets have several
_FRAMES = 16


def write_clips(folder: Path, count: int, size: Size) -> list[Sample]:
    """Clips of moving blocks as JPEG, one block's masks as PNG, and some expressions of each."""
    names = tuple(f"{index:05}" for index in range(_FRAMES))
    samples = []
    for clip in range(count):
        place = folder / str(clip)
        place.mkdir(parents=True)
        frames = make_video(_FRAMES, size, seed=clip).frames
        mask = np.zeros(frames.shape[1:3], dtype=np.uint8)
        mask[len(mask) // 4 : len(mask) // 2, : len(mask)] = 1
        for name, frame in zip(names, frames, strict=True):
            Image.fromarray(frame).save(place / f"{name}.jpg")
            Image.fromarray(mask).save(place / f"{name}.png")
        truth = Palette(place, names, (1,))
        samples += [
            Sample(f"{clip}/{number}", str(clip), place, names, 6.0, f"block number {number}", truth)
            for number in range(_EXPRESSIONS)
        ]
    return samples


def measure(ranks: Ranks, device: torch.device, size: Size, steps: int, folder: Path) -> dict[str, Any]:
    """Train for some steps; the first, in which kernels are compiled, does not count.

    Returns:
        The numbers, in the first process.
    """
    clips = steps * _BATCH * ranks.size // _EXPRESSIONS
    samples = write_clips(folder / f"clips-{ranks.rank}", clips, size)
    lvlm = make_lvlm(size, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    out = ranks.from_first(lambda: folder / "preset")  # one for all
    train(lvlm, make_preset(size), samples, TrainingRecipe(batch=_BATCH), out, ranks=ranks, log_every=1)
    if not ranks.first:
        return {}
    log = [json.loads(line) for line in (out / STATE_FOLDER / "log.jsonl").read_text().splitlines()]
    pace = sorted(line["expressions_per_second"] for line in log[1:])
    return {
        "processes": ranks.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "expressions_per_second": pace[len(pace) // 2],
        "steps": len(pace),
        "peak_memory_gib": log[-1].get("peak_memory_gib"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one number of processes and tell all that were measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.data_parallel", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args(arguments)
    ranks = Ranks.from_environment()
    device = ranks.device(given.device)
    with ranks.joined(device), TemporaryDirectory() as own:
        measured = measure(ranks, torch.device(device), given.size, given.steps, Path(own))
    if not ranks.first:
        return 0
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "data-parallel.jsonl"
    with file.open("a") as lines:
        lines.write(json.dumps(measured) + "\n")
    results = [json.loads(line) for line in file.read_text().splitlines()]
    for result in results:
        ratio = result["expressions_per_second"] / results[0]["expressions_per_second"]
        print(f"{json.dumps(result)}  {ratio:.2f} times the first", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
