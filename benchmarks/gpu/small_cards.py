"""``python -m benchmarks.gpu.small_cards -o DIR [--cards 8 12 16] [--presets ...]``: small presets as on small cards.

Each preset runs in a process of its own, which is given no more memory than the card has. Weights are random, in full
size. A card of 8 GB leaves PyTorch 8e9 bytes of its 8 GiB; the rest is about what the driver takes. Proposals are timed
once memory runs out no more: until then, parts of them are done twice. ``--segments expandable fixed`` measures both
ways in which PyTorch's allocator takes memory from a card; a server's processes take the first.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.layouts import LAYOUTS
from benchmarks.gpu.models import (
    TRAINING,
    Size,
    limit_memory,
    make_lvlm,
    make_preset,
    make_prompts,
    make_sample,
    make_tracker,
    make_video,
    quantise,
)
from benchmarks.gpu.records import Records
from steerseg import SteerSeg
from steerseg.lvlm import LVLM
from steerseg.training.trainer import SoftPromptTrainer

PRESETS = ("qwen3-vl-4b", "qwen3-vl-2b", "qwen2.5-vl-3b", "internvl3-2b")
CARDS = (12.0, 8.0, 16.0)
_COLD = "the block that stays behind"
_SETTLING = "the block on the left"
_FURTHER = ("the red one", "a small block that stays behind", "anything that moves")
SEGMENTS = {"expandable": "expandable_segments:True", "fixed": "expandable_segments:False"}
_SECONDS = 300.0  # of one process


class SmallCard:
    """One preset on one card.

    Args:
        records: Where the numbers go.
        preset: Name of the preset.
        gigabytes: The card's memory.
        size: Of the models.
        bits: 4 for a text model of 4 bits; 16 for weights as they are.
    """

    def __init__(self, records: Records, preset: str, gigabytes: float, size: Size, bits: int) -> None:
        self.records, self.preset, self.gigabytes, self.size, self.bits = (
            records,
            preset,
            gigabytes,
            size,
            bits,
        )
        self.device = records.device
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.video = make_video(80 if size == "full" else 6, size)

    def measure(self) -> None:
        """Weights, warm-up, cold and further proposals, and a step of a refinement, each as far as it fits."""
        made: list[SteerSeg] = []
        self.records.attempt("weights", lambda: made.append(self._load()))
        if not made:
            return
        (steerseg,) = made
        timed = self.records.timed
        self.records.attempt(
            "warm-up", lambda: timed("warm-up: the first proposal", lambda: self._propose(steerseg, _COLD))
        )

        def cold() -> None:
            steerseg.forget()
            self._propose(steerseg, _COLD)

        further = self._further()
        self.records.attempt("settling", lambda: self._settle(steerseg, cold))
        self.records.attempt("cold", lambda: timed("cold: propose", cold, repeat=3))
        self.records.attempt(
            "further",
            lambda: timed("further: propose", lambda: self._propose(steerseg, next(further)), repeat=3),
        )
        if self.on_gpu:
            self.records.attempt("peaks", lambda: self._peaks(steerseg))
        self.records.attempt("refinement", lambda: self._refine(steerseg))

    def _settle(self, steerseg: SteerSeg, cold: Callable[[], None]) -> None:
        """Propose until budgets of memory are halved no more."""
        before = -1
        while steerseg.room.halvings != before:
            before = steerseg.room.halvings
            cold()
            self._propose(steerseg, _SETTLING)
        self.records.put("settled", halvings=before)

    def _propose(self, steerseg: SteerSeg, expression: str) -> None:
        steerseg.propose(self.video, expression)

    def _peaks(self, steerseg: SteerSeg) -> None:
        """The most memory of each stage of a cold proposal, and its seconds."""
        steerseg.forget()
        peaks: dict[str, float] = {}
        seconds: dict[str, float] = {}
        stages, begun = [""], [time.perf_counter()]

        def note(stage: str, fraction: float) -> None:
            if stage != stages[-1]:
                torch.cuda.synchronize(self.device)
                peaks[stages[-1]] = torch.cuda.max_memory_allocated(self.device) / 1e9
                torch.cuda.reset_peak_memory_stats(self.device)
                seconds[stages[-1]] = time.perf_counter() - begun[-1]
                stages.append(stage)
                begun.append(time.perf_counter())

        torch.cuda.reset_peak_memory_stats(self.device)
        steerseg.propose(self.video, _COLD, progress=note)
        note("", 1.0)
        self.records.put(
            "peak by stage",
            halvings=steerseg.room.halvings,
            **{f"{stage}_gb": peak for stage, peak in peaks.items() if stage},
            **{f"{stage}_s": taken for stage, taken in seconds.items() if stage},
        )

    def _further(self) -> Iterator[str]:
        yield from _FURTHER

    def _load(self) -> SteerSeg:
        if self.on_gpu and self.bits == 16:
            limit_memory(self.device, self.gigabytes)
        preset = make_preset(self.size, self.preset)
        lvlm = self._lvlm()
        if self.on_gpu and self.bits != 16:
            gc.collect()
            limit_memory(self.device, self.gigabytes)
        tracker = make_tracker(
            self.size,
            self.device,
            self.dtype,
            preset.segmenter_source,
            preset.segmenter_config,
        )
        if self.on_gpu:
            self.records.put("weights", gb=torch.cuda.memory_allocated(self.device) / 1e9)
        return SteerSeg(lvlm, tracker, preset, make_prompts(lvlm, self.size))

    def _lvlm(self) -> LVLM:
        lvlm = make_lvlm(self.size, self.device, self.dtype, self.preset)
        if self.bits == 4:
            quantise(lvlm)
        return lvlm

    def _refine(self, steerseg: SteerSeg) -> None:
        steerseg.forget()
        prompts = steerseg.soft_prompts
        assert prompts is not None
        sample = make_sample(steerseg, self.video)
        trainer = SoftPromptTrainer(steerseg.lvlm, steerseg.layers, prompts, TRAINING)
        rng = np.random.default_rng(0)
        trainer.step([sample], rng, frames_per_sample=2)
        self.records.timed(
            "refinement, a sample", lambda: trainer.step([sample], rng, frames_per_sample=2), repeat=3
        )


def summarise(folder: Path) -> str:
    """One row for each process: what fits, and what it takes."""
    rows = [
        "| card | preset | text model | segments | weights (GB) | cold (s) | further (s) | peak (GB) "
        "| refinement (s, GB) | halvings |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    about = ""
    for file in sorted(folder.glob("*/results.jsonl"), key=lambda path: _order(path.parent.name)):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if not lines:
            continue
        known = {line["name"]: line for line in lines}
        first = lines[0]
        about = f"Measured on {first['device']}, torch {first['torch']}; random weights ({first['size']})."
        peak = max((line["peak_gb"] for line in lines if line["name"] in _PROPOSALS), default=None)
        refinement = known.get("refinement, a sample", {})
        bits = "bfloat16" if first["bits"] == 16 else f"{first['bits']} bits"
        cells = [
            f"{first['memory_gb']:g} GB",
            f"`{first['preset']}`",
            bits,
            first["segments"],
            _cell(known.get("weights"), "gb", "{:.1f}"),
            _cell(known.get("cold: propose", known.get("cold")), "seconds", "{:.2f}"),
            _cell(known.get("further: propose", known.get("further")), "seconds", "{:.2f}"),
            "" if peak is None else f"{peak:.1f}",
            f"{refinement['seconds']:.2f}, {refinement['peak_gb']:.1f}"
            if refinement
            else _cell(known.get("refinement"), "seconds", "{:.2f}"),
            _cell(known.get("settled", known.get("settling")), "halvings", "{}"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([about, "", *rows]) + "\n"


_PROPOSALS = ("warm-up: the first proposal", "cold: propose", "further: propose")


def _cell(line: dict[str, Any] | None, key: str, form: str) -> str:
    """A number; why there is none where it failed."""
    if line is None:
        return "not measured"
    if "failed" in line:
        return "does not fit" if "OutOfMemory" in line["failed"] else "failed"
    return form.format(line[key]) if key in line else "not measured"


def _order(name: str) -> tuple[float, str]:
    preset, card, *others = name.rsplit("-", 3)
    return float(card.removesuffix("GB")), "-".join([preset, *others])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every preset on every card; 0 where all processes ended by themselves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.small_cards", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of small-cards.md")
    parser.add_argument("--cards", type=float, nargs="+", default=CARDS, help="their memory in GB")
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=tuple(LAYOUTS))
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[16], choices=(4, 16), help="of the text model"
    )
    parser.add_argument(
        "--segments", nargs="+", choices=SEGMENTS, default=["expandable"], help="of the allocator"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    parser.add_argument("--here", action="store_true", help="one preset on one card, in this process")
    given = parser.parse_args(arguments)
    if given.here:
        records = Records(given.output, torch.device(given.device), _SECONDS)
        (preset,), (card,), (bits,), (segments,) = given.presets, given.cards, given.bits, given.segments
        records.put_environment(given.size, preset=preset, memory_gb=card, bits=bits, segments=segments)
        SmallCard(records, preset, card, given.size, bits).measure()
        return 0
    failed = 0
    for card, preset, bits, segments in itertools.product(
        given.cards, given.presets, given.bits, given.segments
    ):
        folder = given.output / f"{preset}-{card:g}GB-{bits}-{segments}"
        command = [sys.executable, "-m", "benchmarks.gpu.small_cards", "--here", "-o", str(folder)]
        command += ["--cards", str(card), "--presets", preset, "--bits", str(bits), "--segments", segments]
        command += ["--device", given.device, "--size", given.size]
        done = subprocess.run(
            command, env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": SEGMENTS[segments]}, check=False
        )
        failed += done.returncode != 0
        (given.output / "small-cards.md").write_text(summarise(given.output))
    print((given.output / "small-cards.md").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
