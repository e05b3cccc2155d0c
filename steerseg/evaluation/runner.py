"""Measure variants over a dataset, clip by clip, in one process or several, keeping every result as it comes."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerseg import __version__
from steerseg.config import PipelineConfig, SegmenterConfig
from steerseg.errors import ConfigError, ModelError
from steerseg.evaluation.results import (
    PromptsIdentity,
    Result,
    ResultFolder,
    Run,
    VariantResults,
    fingerprint,
)
from steerseg.evaluation.sample import Sample, split_digest
from steerseg.evaluation.submission import MaskFolder
from steerseg.evaluation.variants import Variant
from steerseg.presets import Preset
from steerseg.runtime.cores import usable_cores
from steerseg.runtime.distributed import Ranks

if TYPE_CHECKING:  # jobs are made and tables are written without loading torch's models
    from steerseg.evaluation.stages import ClipJob
    from steerseg.pipeline import SteerSeg

Progress = Callable[[str, float], None]
JobRunner = Callable[[Sequence["ClipJob"]], Iterator[list[tuple[str, Result]]]]
"""Does jobs, in any order, and yields each one's results with their variants' names."""


@dataclass(frozen=True)
class Models:
    """Preset and device of a pipeline, so that a process can load its own.

    Attributes:
        preset: Name, folder or preset.
        device: As of :meth:`SteerSeg.from_pretrained`.
    """

    preset: str | Preset
    device: str = "auto"

    @cached_property
    def steerseg(self) -> SteerSeg:
        """The pipeline, loaded when it is first asked for.

        Raises:
            ModelError: A model is missing.
        """
        from steerseg.pipeline import SteerSeg

        steerseg = SteerSeg.from_pretrained(self.preset, device=self.device, remembered_bytes=0)
        if steerseg.switched_off:  # results would bear the name of what they were not made by
            raise ModelError(steerseg.switched_off)
        return steerseg


def describe_runs(
    dataset: str, split: str, samples: Sequence[Sample], preset: Preset, variants: Sequence[Variant]
) -> dict[str, Run]:
    """Identity of each variant's results: data, models and settings, by content and not by path."""
    common = {
        "dataset": Path(dataset).name,
        "split": split,
        "samples": len(samples),
        "content": split_digest(samples),
        "preset": preset.name,
        "lvlm": fingerprint(preset.language_model) or preset.language_model,
        "sam2": fingerprint(preset.segmenter_source) or preset.segmenter_source,
        "grounding": {
            "layers": preset.layers,
            "video_tokens": preset.video_tokens,
            "seconds_per_slice": preset.config.seconds_per_slice,
            "prompts": preset.texts.described(background=False),
        },
    }
    # Only where they are set, so that results from before these settings were made keep their identity.
    for name in ("quantise", "frame_tokens"):
        if getattr(preset, name) is not None:
            common[name] = getattr(preset, name)
    if preset.segmenter_config != SegmenterConfig():
        segmenter = asdict(preset.segmenter_config)
        for name, only in (("cpu_precision", "float32"), ("mask_memory", "mask")):
            if segmenter[name] == only:  # as all were before there was a choice
                del segmenter[name]
        common["segmenter"] = segmenter
    return {variant.name: _describe(common, variant, preset) for variant in variants}


def _describe(common: Mapping[str, Any], variant: Variant, preset: Preset) -> Run:
    prompts = variant.soft_prompts if variant.steered() else None
    described = None
    if prompts is not None:
        described = PromptsIdentity(
            digest=prompts.digest, tokens=prompts.frame.shape[0], placement=prompts.placement
        )
    config = asdict(variant.config(preset.config))
    # What plays no part is left out: results from before there was such a setting keep their identity.
    if variant.click or not config["reasoning"] or not config["attribute_confidence"]:
        del config["attribute_confidence"]
    # Of annotators' clicks and requests, which datasets have none of; told under "grounding"; and what only whole
    # proposals do.
    del config["correction"], config["wording"], config["presence"], config["seconds_per_slice"]
    del config["added_keyframes"], config["seek_returns"], config["instances"]
    _leave_out_defaults(config, preset)
    if config["localisation"]:
        config["localisation"] = preset.texts.localisation
    else:
        del config["localisation"], config["localisation_weight"]
    if not config["motion"]:
        del config["motion"], config["motion_weight"]
    if config["reasoning_steps"] == 1:
        del config["reasoning_steps"]
    else:
        config["whereabouts"] = preset.texts.whereabouts
    if config["verification"] == "off":
        del config["verification"]
    elif config["verification"] == "ask":
        config["verification"] = preset.texts.verification
    if config["background"]:
        config["background"] = preset.texts.background
    else:
        del config["background"]
    return Run(**common, variant=variant.name, config=config, soft_prompts=described)


def _leave_out_defaults(config: dict[str, Any], preset: Preset) -> None:
    """Take away the choices that are as they always were; concepts are named by their weights."""
    for name in ("grid", "enlarge", "borders", "expression_form", "conditioning", "candidates"):
        if config[name] == getattr(PipelineConfig(), name):
            del config[name]
    if "candidates" in config:
        config["candidates"] = fingerprint(preset.concepts) or preset.concepts


def environment(device: str) -> dict[str, str]:
    """Versions and device: shown beside results, but no part of their identity."""
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
    return f"{usable_cores()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def clip_jobs(
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    done: Mapping[str, Collection[str]],
    masks: MaskFolder | None = None,
) -> list[ClipJob]:
    """A job for each clip with missing results, in the samples' order.

    Expressions with other frames of one clip get a job of their own.
    """
    from steerseg.evaluation.stages import ClipJob

    by_clip: dict[Hashable, list[tuple[Sample, tuple[Variant, ...]]]] = {}
    for sample in samples:
        missing = tuple(variant for variant in variants if sample.id not in done[variant.name])
        if missing:
            by_clip.setdefault(sample.clip, []).append((sample, missing))
    return [ClipJob(tuple(wanted), masks) for wanted in by_clip.values()]


def share_of(jobs: Sequence[ClipJob], ranks: Ranks) -> list[ClipJob]:
    """This process's part of jobs that all processes list alike: whole clips, with about the same work for all.

    The largest jobs are dealt first, each to the process with least; a clip's work is estimated as its frames times
    its expressions, plus one for the stages that run once a clip.
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
    work: JobRunner,
    made_by: Mapping[str, str],
    progress: Progress | None = None,
    masks: MaskFolder | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
) -> dict[str, VariantResults]:
    """Measure the variants on the samples, where ``folder`` does not hold the results yet.

    Args:
        samples: The samples; those of one clip are measured together.
        variants: The variants.
        runs: Identity of each variant's results.
        folder: Folder of results; see :class:`ResultFolder`.
        work: Does the jobs, in any order; :func:`in_this_process` or :func:`in_processes`.
        made_by: Recorded with new results.
        progress: Called with "evaluate" and the fraction done, with several processes that of this one's share.
        masks: Keeps predicted masks as well; a sample with a result but no masks is measured again.
        ranks: The processes that share the work; each has to call this, and all see one ``folder``.

    Returns:
        By variant, the results of these samples in their order; nothing in any process but the first.

    Raises:
        ConfigError: If there is no sample, one cannot be scored, the folder holds results of other settings, or
            not all processes see the same folder.
    """
    _check(samples, variants)
    store = ResultFolder(folder)
    # One process looks, so that all deal out the same jobs.
    done = ranks.from_first(lambda: _done(store, samples, variants, runs, masks))
    jobs = clip_jobs(samples, variants, done, masks)
    total = len(samples) * len(variants)
    if ranks.size > 1:
        jobs = share_of(jobs, ranks)
        total = sum(job.size for job in jobs)
    report = progress or (lambda stage, fraction: None)
    _run(jobs, total, store, runs, work=work, made_by=made_by, report=report)
    if ranks.size > 1:
        report("others", 0.0)
    ranks.wait()
    return _collect(store, samples, runs) if ranks.first else {}


def _check(samples: Sequence[Sample], variants: Sequence[Variant]) -> None:
    if not samples:
        raise ConfigError("no samples to evaluate; check the split and the limit")
    if any(variant.click for variant in variants) and any(sample.truth is None for sample in samples):
        raise ConfigError("the variant 'click' needs the true masks, which this split does not come with")


def _run(
    jobs: Sequence[ClipJob],
    total: int,
    store: ResultFolder,
    runs: Mapping[str, Run],
    *,
    work: JobRunner,
    made_by: Mapping[str, str],
    report: Progress,
) -> None:
    """Do the jobs and keep each result as it comes; ``total`` counts those of earlier runs as well."""
    finished = total - sum(job.size for job in jobs)
    report("evaluate", finished / max(total, 1))
    try:
        for results in work(jobs):
            for name, result in results:
                store.append(runs[name], made_by, result)
                finished += 1
            report("evaluate", finished / total)
    finally:
        store.close()


def _collect(
    store: ResultFolder, samples: Sequence[Sample], runs: Mapping[str, Run]
) -> dict[str, VariantResults]:
    """By variant, the results of these samples in their order."""
    collected = {}
    stored = store.read()
    for name in runs:
        results = stored[name].results if name in stored else {}
        missing = [sample.id for sample in samples if sample.id not in results]
        if missing:
            raise ConfigError(
                f"{store.folder} lacks {len(missing)} results of {name} that other processes have written, for "
                f"instance of {missing[0]}; all of them must see the same folder"
            )
        in_order = {sample.id: results[sample.id] for sample in samples}
        collected[name] = replace(stored[name], results=in_order)
    return collected


def _done(
    store: ResultFolder,
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    runs: Mapping[str, Run],
    masks: MaskFolder | None,
) -> dict[str, set[str]]:
    """Ids of samples that need not be measured again, by variant."""
    done = {name: set(results) for name, results in store.done(runs).items()}
    if masks is not None:
        for variant in variants:
            done[variant.name] -= {s.id for s in samples if not masks.holds(variant.name, s)}
    return done


def in_this_process(models: Models) -> JobRunner:
    """Do jobs one after the other; the models are loaded if there is a job."""

    def work(jobs: Sequence[ClipJob]) -> Iterator[list[tuple[str, Result]]]:
        from steerseg.evaluation.stages import measure_clip

        for job in jobs:
            yield measure_clip(models.steerseg, job)

    return work


def in_processes(models: Models, processes: int) -> JobRunner:
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
        threads = max(1, usable_cores() // count)
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
