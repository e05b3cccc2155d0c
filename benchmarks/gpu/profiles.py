"""Where stages spend their time: kernels, launches and waits, by ``torch.profiler``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.models import TRAINING, make_sample
from benchmarks.gpu.records import Records
from benchmarks.gpu.sam2_ways import encoded_whole
from steerseg import SteerSeg
from steerseg.training.trainer import SoftPromptTrainer
from steerseg.video import Video

_EXPRESSION = "the thing that turns"
_ATTRIBUTES = ("red", "on the left")
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def profile_stages(records: Records, steerseg: SteerSeg, video: Video, path: Path) -> None:
    """Each stage of a further expression, and seeing, once: tables into ``path``, sums as records."""
    config = steerseg.config
    seen = steerseg.encode(video, config)
    reason = functools.partial(steerseg.reason, seen, _EXPRESSION, config)
    ground = functools.partial(steerseg.ground, seen, _EXPRESSION, _ATTRIBUTES, config, steerseg.soft_prompts)
    maps = ground()
    found = steerseg.find_candidates(seen, maps, config)
    ranking = steerseg.rank(found, maps, config)
    stages: dict[str, Callable[[], Any]] = {
        "see": lambda: steerseg.encode_keyframes(video, config),
        "further reason": reason,
        "cold ground": lambda: _cold(steerseg, ground),
        "further ground": ground,
        "encode": lambda: encoded_whole(steerseg.tracker, video),
        "further find": lambda: steerseg.find_candidates(seen, maps, config),
        "further track": lambda: steerseg.track(seen, found, ranking),
    }
    if steerseg.soft_prompts is not None:
        stages["refinement"] = _refinement(steerseg, video)
    path.write_text("")
    for name, work in stages.items():
        work()
        records.attempt(f"profile, {name}", functools.partial(_profile, records, name, work, path))


def _cold(steerseg: SteerSeg, ground: Callable[[], Any]) -> Any:
    steerseg._prefixes.clear()
    return ground()


def _refinement(steerseg: SteerSeg, video: Video) -> Callable[[], Any]:
    """One training step of one sample, as ``refinement, a sample`` is measured."""
    assert steerseg.soft_prompts is not None
    sample = make_sample(steerseg, video)
    trainer = SoftPromptTrainer(steerseg.lvlm, steerseg.layers, steerseg.soft_prompts, TRAINING)
    rng = np.random.default_rng(0)
    return lambda: trainer.step([sample], rng, frames_per_sample=2)


def _profile(records: Records, name: str, work: Callable[[], Any], path: Path) -> None:
    cuda = records.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize(records.device)
    events = profiler.key_averages()
    counts = {event.key: event.count for event in events}
    # Kernels themselves: what launched them is told their time, too.
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    device = sum(event.self_device_time_total for event in kernels) / 1e6
    records.put(
        f"profile, {name}",
        operators=sum(count for key, count in counts.items() if key.startswith("aten::")),
        launches=sum(counts.get(key, 0) for key in _LAUNCHES),
        graphs=counts.get("cudaGraphLaunch", 0),
        copies=counts.get("cudaMemcpyAsync", 0),
        waits=sum(counts.get(key, 0) for key in _WAITS),
        device_seconds=device,
        host_seconds=sum(event.self_cpu_time_total for event in events) / 1e6,
    )
    orders = ("self_device_time_total", "self_cpu_time_total") if cuda else ("self_cpu_time_total",)
    with path.open("a") as file:
        for order in orders:
            table = events.table(sort_by=order, row_limit=30, max_name_column_width=70)
            file.write(f"==== {name}, by {order}\n{table}\n")
