"""Measure variants over a dataset, clip by clip, in one process or several, keeping every result as it comes."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerseg import __version__
from steerseg.errors import ConfigError
from steerseg.evaluation.results import Measured, Result, ResultFolder, Run, fingerprint
from steerseg.evaluation.sample import Sample, split_digest
from steerseg.evaluation.submission import MaskFolder
from steerseg.evaluation.variants import Variant
from steerseg.presets import Preset
from steerseg.runtime.distributed import Ranks

if TYPE_CHECKING:  # jobs are made and tables are written without loading torch's models
    from steerseg.evaluation.stages import ClipJob
    from steerseg.pipeline import SteerSeg

Progress = Callable[[str, float], None]
Work = Callable[[Sequence["ClipJob"]], Iterator[list[tuple[str, Result]]]]
"""Does jobs, in any order, and gives each one's results with their variants' names."""


@dataclass(frozen=True)
class Models:
    """Where the pipeline comes from, so that a process can load its own.

    Attributes:
        preset: Name, folder or preset.
        device: As of :meth:`SteerSeg.from_pretrained`.
    """

    preset: str | Preset
    device: str = "auto"

    @cached_property
    def steerseg(self) -> SteerSeg:
        """The pipeline, loaded when it is first asked for."""
        from steerseg.pipeline import SteerSeg

        return SteerSeg.from_pretrained(self.preset, device=self.device, remembered_bytes=0)


def describe_runs(
    dataset: str, split: str, samples: Sequence[Sample], preset: Preset, variants: Sequence[Variant]
) -> dict[str, Run]:
    """What identifies each variant's results: data, models and settings, by content and not by place."""
    common = {
        "dataset": Path(dataset).name,
        "split": split,
        "samples": len(samples),
        "content": split_digest(samples),
        "preset": preset.name,
        "lvlm": fingerprint(preset.lvlm) or preset.lvlm,
        "sam2": fingerprint(preset.sam2) or preset.sam2,
        **_if_given(quantise=preset.quantise, frame_tokens=preset.frame_tokens),
        "grounding": {
            "layers": preset.layers,
            "video_tokens": preset.video_tokens,
            "seconds_per_slice": preset.seconds_per_slice,
            "prompts": asdict(preset.texts),
        },
    }
    return {variant.name: {**common, **_describe(variant, preset)} for variant in variants}


def _if_given(**settings: object) -> dict[str, object]:
    """Those that are set, so that results from before a setting was made keep their identity."""
    return {name: value for name, value in settings.items() if value is not None}


def _describe(variant: Variant, preset: Preset) -> Run:
    prompts = variant.soft_prompts if variant.steered() else None
    described = None
    if prompts is not None:
        described = {
            "digest": prompts.digest,
            "tokens": prompts.frame.shape[0],
            "placement": prompts.placement,
        }
    config = asdict(variant.config(preset.config))
    if variant.click or not config["reasoning"] or not config["attribute_confidence"]:
        # It plays no part, and results from before there was one keep their identity.
        del config["attribute_confidence"]
    return {"variant": variant.name, "config": config, "soft_prompts": described}


def environment(device: str) -> dict[str, str]:
    """What computes: shown beside results, but not part of what identifies them."""
    import torch
    import transformers

    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "steerseg": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
    }


def processor() -> str:
    """The name of this machine's processor, with the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{cores()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clip_jobs(
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    done: Mapping[str, Collection[str]],
    masks: MaskFolder | None = None,
) -> list[ClipJob]:
    """What is still missing, a job a clip, in the samples' order."""
    from steerseg.evaluation.stages import ClipJob

    by_clip: dict[str, list[tuple[Sample, tuple[Variant, ...]]]] = {}
    for sample in samples:
        missing = tuple(variant for variant in variants if sample.id not in done[variant.name])
        if missing:
            by_clip.setdefault(sample.video, []).append((sample, missing))
    return [ClipJob(tuple(wanted), masks) for wanted in by_clip.values()]


def share_of(jobs: Sequence[ClipJob], ranks: Ranks) -> list[ClipJob]:
    """This process's part of jobs that all processes list alike: whole clips, with about the same work for all.

    The largest jobs are dealt first, each to whoever has least; a clip's work is taken as its frames times its
    expressions, one more for what is done once a clip.
    """
    loads = [0] * ranks.size
    mine = []
    sizes = [len(job.wanted[0][0].frames) * (job.size + 1) for job in jobs]
    for index in sorted(range(len(jobs)), key=lambda i: (-sizes[i], i)):
        lightest = loads.index(min(loads))
        loads[lightest] += sizes[index]
        if lightest == ranks.rank:
            mine.append(jobs[index])
    return mine


def evaluate(
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    runs: Mapping[str, Run],
    folder: str | Path,
    *,
    work: Work,
    made_by: Mapping[str, str],
    progress: Progress | None = None,
    masks: MaskFolder | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
) -> dict[str, Measured]:
    """Measure what ``folder`` does not hold yet.

    Args:
        samples: What to measure on; samples of one clip are taken together.
        variants: What to measure.
        runs: What identifies each variant's results.
        folder: Where results are kept; see :class:`ResultFolder`.
        work: Does the jobs, in any order; :func:`in_this_process` or :func:`in_processes`.
        made_by: Recorded with new results.
        progress: Called with "evaluate" and the fraction done, with several processes that of this one's share.
        masks: Where predicted masks are kept as well; what has a result but no masks is measured again.
        ranks: The processes that share the work; each has to call this, and all see one ``folder``.

    Returns:
        By variant, the results of these samples in their order; nothing in any process but the first.

    Raises:
        ConfigError: If there is no sample, one cannot be scored, the folder holds results of other settings, or
            not all processes see the same folder.
    """
    if not samples:
        raise ConfigError("no samples to evaluate; check the split and the limit")
    if any(variant.click for variant in variants) and any(sample.truth is None for sample in samples):
        raise ConfigError("the variant 'click' needs the true masks, which this split does not come with")
    tell = progress or (lambda stage, fraction: None)
    kept = ResultFolder(folder)
    # One process looks, so that all deal out the same jobs.
    done = ranks.from_first(lambda: _done(kept, samples, variants, runs, masks))
    jobs = clip_jobs(samples, variants, done, masks)
    if ranks.size > 1:
        jobs = share_of(jobs, ranks)
        total = sum(job.size for job in jobs)
        finished = 0
    else:
        total = len(samples) * len(variants)
        finished = total - sum(job.size for job in jobs)
    tell("evaluate", finished / max(total, 1))
    try:
        for results in work(jobs):
            for name, result in results:
                kept.append(runs[name], made_by, result)
                finished += 1
            tell("evaluate", finished / total)
    finally:
        kept.close()
    if ranks.size > 1:
        tell("others", 0.0)
    ranks.wait()
    if not ranks.first:
        return {}
    measured = kept.read()
    for name in runs:
        known = measured[name].results if name in measured else {}
        missing = [sample.id for sample in samples if sample.id not in known]
        if missing:
            raise ConfigError(
                f"{folder} lacks {len(missing)} results of {name} that other processes have written, for "
                f"instance of {missing[0]}; all of them must see the same folder"
            )
    return {
        name: Measured(
            measured[name].run,
            {sample.id: measured[name].results[sample.id] for sample in samples},
            measured[name].made_by,
        )
        for name in runs
    }


def _done(
    kept: ResultFolder,
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    runs: Mapping[str, Run],
    masks: MaskFolder | None,
) -> dict[str, set[str]]:
    """Ids of samples that need not be measured again, by variant."""
    done = {name: set(results) for name, results in kept.done(runs).items()}
    if masks is not None:
        for variant in variants:
            done[variant.name] -= {s.id for s in samples if not masks.holds(variant.name, s)}
    return done


def in_this_process(models: Models) -> Work:
    """Do jobs one after the other; the models are loaded if there is a job."""

    def work(jobs: Sequence[ClipJob]) -> Iterator[list[tuple[str, Result]]]:
        from steerseg.evaluation.stages import measure_clip

        for job in jobs:
            yield measure_clip(models.steerseg, job)

    return work


def in_processes(models: Models, processes: int) -> Work:
    """Do jobs in several processes, each with models and a share of the cores of its own.

    With the device "cuda" (or "auto" where there is a GPU) the processes take the GPUs by turns.
    """

    def work(jobs: Sequence[ClipJob]) -> Iterator[list[tuple[str, Result]]]:
        count = min(processes, len(jobs))
        if not count:
            return
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in _devices(models.device, count):
            devices.put(device)
        threads = max(1, cores() // count)
        pool = ProcessPoolExecutor(count, context, _begin, (models.preset, devices, threads))
        try:
            for future in as_completed([pool.submit(_work, job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    return work


def _devices(device: str, count: int) -> list[str]:
    import torch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [f"cuda:{i % gpus}" if gpus else device for i in range(count)]


_steerseg: SteerSeg | None = None  # a worker process's own


def _begin(preset: str | Preset, devices: Any, threads: int) -> None:
    """Start a worker process."""
    import torch

    global _steerseg
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)  # nobody is left to take results, and a pool's worker would wait for ever

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _steerseg = Models(preset, devices.get()).steerseg


def _work(job: ClipJob) -> list[tuple[str, Result]]:
    from steerseg.evaluation.stages import measure_clip

    assert _steerseg is not None
    return measure_clip(_steerseg, job)
