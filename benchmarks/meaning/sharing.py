"""Clips that are shared among processes: each has a pipeline of its own, and the GPUs of a machine take turns."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel

from benchmarks.meaning.answers import ClipQuestions
from steerseg.demo.dataset import ClipEntry, Manifest
from steerseg.pipeline import SteerSeg
from steerseg.runtime.cores import usable_cores

Measure = Callable[[SteerSeg, ClipQuestions], Sequence[BaseModel]]
"""What is measured about one clip: the pipeline and the clip -> its rows."""

Draw = Callable[[Manifest, ClipEntry], ClipQuestions]
"""How a clip of a split is drawn."""


def measure_clips(
    measure: Measure,
    manifest: Manifest,
    entries: Sequence[ClipEntry],
    device: str = "cpu",
    processes: int = 1,
    draw: Draw = ClipQuestions.of,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[BaseModel]:
    """The rows of clips, in the clips' order.

    Args:
        measure: What is measured; a function of a module, so that another process can import it.
        manifest: The split that the clips are of.
        entries: The clips.
        device: ``cpu``, ``cuda``, ``auto`` or ``cuda:N``. With ``cuda`` the processes take the GPUs by turns.
        processes: Processes that work at once.
        draw: How clips are drawn; a function of a module as well.
        config: Switches of the pipeline in place of the preset's.
    """
    count = min(processes, len(entries))
    if count <= 1:
        torch.set_num_threads(1)
        steerseg = _load(device, config)
        for entry in entries:
            yield from _rows(measure, steerseg, draw(manifest, entry))
        return
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    for i in range(count):
        devices.put(f"cuda:{i % gpus}" if gpus else device)
    threads = max(1, usable_cores() // count)
    with ProcessPoolExecutor(count, context, _begin, (devices, threads, dict(config))) as pool:
        for rows in pool.map(partial(_work, measure, manifest, draw), entries):
            yield from rows


_steerseg: SteerSeg | None = None  # a worker process's own


def _begin(devices: Any, threads: int, config: Mapping[str, Any]) -> None:
    global _steerseg
    torch.set_num_threads(threads)
    _steerseg = _load(devices.get(), config)


def _load(device: str, config: Mapping[str, Any]) -> SteerSeg:
    steerseg = SteerSeg.from_pretrained("demo", device=device)
    steerseg.config = replace(steerseg.config, **config)
    return steerseg


def _work(measure: Measure, manifest: Manifest, draw: Draw, entry: ClipEntry) -> list[BaseModel]:
    assert _steerseg is not None
    return _rows(measure, _steerseg, draw(manifest, entry))


def _rows(measure: Measure, steerseg: SteerSeg, one: ClipQuestions) -> list[BaseModel]:
    rows = list(measure(steerseg, one))
    steerseg.forget()
    return rows
