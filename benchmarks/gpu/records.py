"""Measured numbers, one line of JSON each, written as soon as they are there."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from steerseg.runtime.machine import installed_version

_Result = TypeVar("_Result")


class Records:
    """Writes ``results.jsonl`` and prints what it writes.

    Args:
        folder: Where the file goes; begun anew.
        device: What is measured.
        seconds: Time after which no further measurement is begun.

    Attributes:
        failures: How many measurements have failed.
    """

    def __init__(self, folder: Path, device: torch.device, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"
        self.path.write_text("")
        self.device = device
        self._begun = time.perf_counter()
        self._seconds = seconds
        self.failures = 0

    @property
    def left(self) -> float:
        """Seconds until no further measurement is begun."""
        return self._seconds - (time.perf_counter() - self._begun)

    def put_environment(self, size: str, **known: Any) -> None:
        """The first line: the machine, the versions and what is measured."""
        named = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        self.put(
            "environment",
            device=named or platform.processor() or "cpu",
            torch=torch.__version__,
            transformers=installed_version("transformers"),
            triton=installed_version("triton"),
            size=size,
            **known,
        )

    def put(self, name: str, **values: Any) -> None:
        """One line."""
        line = {"name": name, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in values.items()
        )
        print(f"[{time.perf_counter() - self._begun:6.1f} s] {name}: {told}", flush=True)

    def timed(
        self, name: str, work: Callable[[], _Result], *, repeat: int = 1, **known: Any
    ) -> tuple[_Result, float]:
        """Run, and record the median time and the memory; returns the last result and the time.

        Memory is the most that tensors had, and what PyTorch held for them, for captured steps and for later use.

        Args:
            name: Of the line.
            work: What is measured.
            repeat: How often.
            **known: Further fields of the line, such as a floor.
        """
        result, times, peak = measure(work, self.device, repeat)
        middle = sorted(times)[len(times) // 2]
        held = torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0
        self.put(name, seconds=middle, peak_gb=peak / 1e9, held_gb=held / 1e9, **known)
        return result, middle

    def attempt(self, name: str, work: Callable[[], object]) -> None:
        """Run a measurement; its failure is recorded, and the others go on."""
        if self.left <= 0:
            self.put(name, not_measured="no time was left")
            return
        try:
            work()
        except Exception as error:  # of whatever kind: the other measurements are worth having
            self.failures += 1
            self.put(name, failed=f"{type(error).__name__}: {error}", where=traceback.format_exc()[-1500:])
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def measure(
    work: Callable[[], _Result], device: torch.device, repeat: int
) -> tuple[_Result, list[float], int]:
    """The last result, and each run's seconds with the highest allocated bytes of all."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) if cuda else 0
    return result, times, peak
