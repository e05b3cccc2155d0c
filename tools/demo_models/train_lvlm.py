"""Train the demo's vision-language model from scratch, within a time budget, on one GPU.

``python -m tools.demo_models.train_lvlm --out DIR --minutes 9`` trains and writes ``model-*.safetensors``
(float32, shards of at most 13 MiB), ``heads-*.safetensors`` (the auxiliary heads) and ``log.jsonl`` into DIR.
A further run with ``--resume DIR`` goes on from there, with fresh optimisers; where DIR holds no heads, fresh ones
learn for a while before the model follows them. ``--state FOLDER`` keeps weights
and optimisers in another folder and goes on from it whenever it holds some. Afterwards ``python -m
tools.demo_models.lvlm export --weights DIR`` makes the preset's weights.

Processes sample clips and questions, the GPU draws them (:mod:`steerseg.demo.render`), so nothing is stored.
The first minutes train the vision tower alone, by the dense objectives; then everything, with the dense
objectives fading. Attention itself is never trained: it stays what answering needs, and soft prompts have
something to improve.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerseg.demo.colours import COLOURS
from steerseg.demo.sprites import Atlas, load_atlas
from steerseg.demo.world import SceneBatch, render
from tools.demo_models.lvlm import (
    PRESET_FOLDER,
    build_model,
    load_config,
    load_into,
    load_weights,
    own_state,
    save_weights,
)
from tools.demo_models.lvlm_data import MOST_OBJECTS, TASKS, Batch, BatchMaker, Vocabulary, training_spec
from tools.demo_models.lvlm_dense import DenseHeads, DenseTargets, cell_shares, dense_targets
from tools.demo_models.lvlm_fast import FastLVLM, Layout
from tools.demo_models.lvlm_validate import Validation, validate, validation_sets
from tools.demo_models.muon import Muon

OPTIMISERS = "optimisers.pt"
MOST_SOFT_TOKENS = 64
HEADS_ALONE_STEPS = 400
"""Steps in which fresh auxiliary heads learn from a resumed model before it learns from them."""

COMPILED_TOKENS = 60
"""Geometries with this many tokens a frame pair run compiled; rarer ones are not worth a compilation."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run; every field is a command line option."""

    out: Path
    minutes: float = 9.0
    resume: Path | None = None
    preset: Path = PRESET_FOLDER
    device: str = "cuda"
    rows: int = field(default=128, metadata={"help": "clips a step"})
    length: int = field(default=512, metadata={"help": "tokens a row: visual prefix and questions"})
    workers: int = field(default=15, metadata={"help": "processes that sample clips"})
    optimiser: str = field(default="muon", metadata={"help": "muon or adamw"})
    lr: float = field(default=5e-3, metadata={"help": "of matrices under Muon, of everything under AdamW"})
    lr_vector: float = field(default=1.5e-3, metadata={"help": "of the rest under Muon (AdamW)"})
    lr_begin: float = field(default=1.0, metadata={"help": "factor of the rates after the warm-up"})
    lr_end: float = field(default=0.1, metadata={"help": "factor at the end; a cosine between"})
    warmup: int = field(default=100, metadata={"help": "steps"})
    weight_decay: float = 0.02
    dense_seconds: float = field(default=90.0, metadata={"help": "vision tower alone at first"})
    dense_begin: float = field(default=1.0, metadata={"help": "weight of the dense objectives, first"})
    dense_end: float = field(default=0.25, metadata={"help": "weight of the dense objectives, last"})
    native_share: float = field(default=0.3, metadata={"help": "videos drawn at native size and scaled"})
    log_every: float = field(default=15.0, metadata={"help": "seconds"})
    save_every: float = field(default=120.0, metadata={"help": "seconds"})
    validate_every: float = field(default=120.0, metadata={"help": "seconds"})
    validation_clips: int = 128
    steps: int = field(default=0, metadata={"help": "stop after so many steps; 0: by time alone"})
    seed: int = 0
    compile: bool = True
    save_type: str = field(default="float32", metadata={"help": "of the weight files: float32 or bfloat16"})
    state: Path | None = None


class Log:
    """One JSON object a line, in a file and on the terminal."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._start = time.monotonic()

    def __call__(self, event: str, **values: Any) -> None:
        """Write one event."""
        row = {"event": event, "seconds": round(time.monotonic() - self._start, 1)}
        row |= {key: round(v, 5) if isinstance(v, float) else v for key, v in values.items()}
        line = json.dumps(row, default=str)
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()


def _produce(maker: BatchMaker, seed: int, output: Any, quiet: Any) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    try:
        for batch in maker.stream(seed):
            output.put(batch)
    except (KeyboardInterrupt, BrokenPipeError):
        return
    except Exception:
        if not quiet.is_set():
            output.put(traceback.format_exc())
        raise


class Feeder:
    """Batches from worker processes; without workers they are made in place.

    Workers hand over pickled numpy arrays through a pipe: a few MB a step, and no shared memory to run out.
    """

    def __init__(self, maker: BatchMaker, workers: int, seed: int) -> None:
        self._local = maker.stream(seed) if workers == 0 else None
        self._processes: list[Any] = []
        if workers:
            context = multiprocessing.get_context("fork")
            self._quiet = context.Event()
            # One queue each: a single one would be one lock and one pipe for all.
            self._queues = [context.Queue(maxsize=3) for _ in range(workers)]
            for number, output in enumerate(self._queues):
                process = context.Process(
                    target=_produce, args=(maker, seed * 1000 + number, output, self._quiet), daemon=True
                )
                process.start()
                self._processes.append(process)
            self._turn = 0

    def next(self) -> Batch:
        """The next batch that is ready."""
        if self._local is not None:
            return next(self._local)
        waited = time.monotonic()
        while True:
            for _ in self._queues:
                self._turn = (self._turn + 1) % len(self._queues)
                try:
                    batch = self._queues[self._turn].get_nowait()
                except queue.Empty:
                    continue
                if isinstance(batch, str):
                    raise RuntimeError(f"a worker process failed:\n{batch}")
                return batch
            if not any(process.is_alive() for process in self._processes):
                raise RuntimeError("all worker processes are gone; see their output above")
            if time.monotonic() - waited > 300:
                raise RuntimeError("no batch came in 300 seconds; see the worker processes' output above")
            time.sleep(0.002)

    def close(self) -> None:
        """Stop the workers."""
        if self._processes:
            self._quiet.set()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(timeout=5)


@dataclass(frozen=True)
class Loaded:
    """A batch on the device, its pictures drawn."""

    layout: Layout
    frames: Tensor  # (B, T, 3, H, W) normalised
    targets: DenseTargets
    ids: Tensor
    segments: Tensor
    offsets: Tensor
    spots: Tensor  # (M,) index into the flattened (B, N) of every label
    labels: Tensor  # (M,)
    weights: Tensor  # (M,)
    tasks: Tensor  # (M,)


class Painter:
    """Draws batches on the device.

    Args:
        atlas: Pictures of the objects.
        mean: The processor's mean RGB.
        std: Its deviation.
        device: Device that draws.
        native_share: Share of videos that are drawn at their native size and then scaled down, as the product
            does; drawing at the final size is several times cheaper and nearly the same.
    """

    def __init__(
        self, atlas: Atlas, mean: list[float], std: list[float], device: torch.device, native_share: float
    ) -> None:
        self.atlas, self.device, self.native_share = atlas, device, native_share
        self._mean = torch.tensor(mean, device=device).view(1, 1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 1, 3, 1, 1)

    def draw(self, batch: Batch, *, native: bool) -> tuple[Tensor, Tensor]:
        """Pictures (B, T, 3, H, W) float in [0, 255] at the layout's size, ids (B, T, 8 rows, 8 columns)."""
        layout = batch.layout
        scenes = SceneBatch(**{name: torch.from_numpy(array) for name, array in batch.scenes.items()})
        scenes = scenes.to(self.device)
        count = scenes.centre.shape[2]
        size = batch.native if native else (layout.height, layout.width)
        images, ids = render(scenes, self.atlas, range(count), size, self.device)
        pixels = images.flatten(0, 1).float()
        if native:
            pixels = F.interpolate(pixels, (layout.height, layout.width), mode="bicubic", antialias=True)
            pixels = pixels.clamp(0, 255)
        grid = (8 * layout.rows, 8 * layout.columns)
        small = F.interpolate(ids.flatten(0, 1)[:, None].float(), grid, mode="nearest-exact")[:, 0]
        shape = images.shape[:2]
        return pixels.unflatten(0, shape), small.to(torch.uint8).unflatten(0, shape)

    def vary(self, pixels: Tensor) -> Tensor:
        """Change some of the clips as cameras and codecs do: contrast, light, colour cast, blur, noise."""
        batch, _, _, height, width = pixels.shape
        device = pixels.device

        def some(share: float) -> Tensor:
            return (torch.rand(batch, 1, 1, 1, 1, device=device) < share).float()

        x = pixels / 255
        contrast = 1 + some(0.5) * (torch.rand(batch, 1, 1, 1, 1, device=device) * 0.5 - 0.25)
        light = some(0.5) * (torch.rand(batch, 1, 1, 1, 1, device=device) * 0.2 - 0.1)
        cast = 1 + some(0.3) * (torch.rand(batch, 1, 3, 1, 1, device=device) * 0.12 - 0.06)
        x = ((x - 0.5) * contrast + 0.5 + light) * cast
        flat = x.flatten(0, 1)
        soft = F.interpolate(flat, (height * 5 // 8, width * 5 // 8), mode="bilinear", antialias=True)
        soft = F.interpolate(soft, (height, width), mode="bilinear").view_as(x)
        x = torch.lerp(x, soft, some(0.35) * torch.rand(batch, 1, 1, 1, 1, device=device))
        noise = some(0.35) * torch.rand(batch, 1, 1, 1, 1, device=device) * 0.05
        return (x + noise * torch.randn_like(x)).clamp(0, 1) * 255

    def normalise(self, pixels: Tensor) -> Tensor:
        """As the processor does."""
        return (pixels / 255 - self._mean) / self._std

    def load(self, batch: Batch, *, rng: np.random.Generator | None) -> Loaded:
        """Draw a batch, with variations if there is a source of chance."""
        layout = batch.layout
        native = not layout.video or (rng is not None and rng.random() < self.native_share) or rng is None
        with torch.no_grad():
            pixels, ids = self.draw(batch, native=native)
            if rng is not None:
                pixels = self.vary(pixels)
            frames = self.normalise(pixels)
            shares = cell_shares(ids, layout, MOST_OBJECTS)
            facts = (batch.names, batch.colours, batch.centres, batch.sizes)
            targets = dense_targets(
                shares, layout, *(torch.from_numpy(fact).to(self.device) for fact in facts)
            )
        spots = np.flatnonzero(batch.labels.ravel() >= 0)

        def moved(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        return Loaded(
            layout=layout,
            frames=frames,
            targets=targets,
            ids=moved(batch.ids).long(),
            segments=moved(batch.segments),
            offsets=moved(batch.offsets).long(),
            spots=moved(spots),
            labels=moved(batch.labels.ravel()[spots]).long(),
            weights=moved(batch.weights.ravel()[spots]),
            tasks=moved(batch.tasks.ravel()[spots]).long(),
        )


EYE_WEIGHTS = {"name": 1.0, "colour": 0.3, "cover": 0.5, "offset": 0.5}
MIND_WEIGHTS = {"name": 0.5, "colour": 0.2, "place": 1.0, "size": 0.3, "motion": 1.0}


def losses(
    fast: FastLVLM,
    heads: DenseHeads,
    loaded: Loaded,
    *,
    dense: float,
    language: bool,
    gap: int = 0,
    heads_alone: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of one batch, and its parts (detached) for the log.

    Args:
        fast: The model.
        heads: The auxiliary heads.
        loaded: The batch.
        dense: Weight of the dense objectives.
        language: Whether questions are asked; otherwise the vision tower is trained alone.
        gap: Positions left free where soft prompts will stand.
        heads_alone: Whether only the heads learn from the dense objectives.
    """
    layout = loaded.layout
    plain = layout.rows * layout.columns != COMPILED_TOKENS * (1 if layout.video else 4)
    kind = "video" if layout.video else "frame"
    visual = fast.see(loaded.frames, layout, plain=plain)
    eye = heads.eye_loss(visual.detach() if heads_alone else visual, loaded.targets, fast.dtype)
    total = dense * _sum(eye, EYE_WEIGHTS)
    parts = {f"{kind}/eye_{name}": value.detach() for name, value in eye.items()}
    if not language:
        return total, parts
    embeddings = fast.embed(visual, loaded.ids)
    middle = len(fast.language.layers) // 2
    hidden, between = fast.think(embeddings, layout, loaded.offsets, loaded.segments, middle=middle, gap=gap)
    start = layout.prefix - 1 - layout.tokens
    between = between[:, start : start + layout.tokens]
    mind = heads.mind_loss(between.detach() if heads_alone else between, loaded.targets, fast.dtype)
    if not layout.video:
        mind.pop("motion")
    total = total + 0.5 * dense * _sum(mind, MIND_WEIGHTS)
    parts |= {f"{kind}/mind_{name}": value.detach() for name, value in mind.items()}
    said = hidden[:, layout.prefix :].flatten(0, 1).index_select(0, loaded.spots)
    logits = fast.logits(said)
    wrong = F.cross_entropy(logits, loaded.labels, reduction="none")
    answers = (wrong * loaded.weights).sum() / loaded.weights.sum()
    total = total + answers
    parts[f"{kind}/answers"] = answers.detach()
    with torch.no_grad():
        right = (logits.argmax(-1) == loaded.labels).float()
        count = torch.zeros(len(TASKS), device=wrong.device).index_add_(
            0, loaded.tasks, torch.ones_like(right)
        )
        count = count.clamp(min=1)
        for name, values in (("loss", wrong.detach()), ("right", right)):
            by_task = torch.zeros_like(count).index_add_(0, loaded.tasks, values) / count
            asked = [task for task in TASKS if layout.video or task != "reason"]
            parts |= {f"{kind}/{task}_{name}": by_task[TASKS.index(task)] for task in asked}
    return total, parts


def _sum(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    terms = [weight * parts[name] for name, weight in weights.items() if name in parts]
    return torch.stack(terms).sum()


def optimisers(model: nn.Module, heads: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks and AdamW for the rest; or AdamW for all."""
    matrices, stacked, decayed, plain = [], {}, [], []
    for name, parameter in model.named_parameters():
        inside = ".blocks." in name or ".layers." in name or ".merger.mlp." in name
        if settings.optimiser == "muon" and parameter.ndim == 2 and inside:
            matrices.append(parameter)
            if name.endswith("attn.qkv.weight"):
                stacked[id(parameter)] = 3
        elif parameter.ndim >= 2 and inside:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    plain += list(heads.parameters())
    rate = settings.lr_vector if settings.optimiser == "muon" else settings.lr
    groups = [{"params": plain, "weight_decay": 0.0}]
    if decayed:
        groups.append({"params": decayed, "weight_decay": settings.weight_decay})
    fused = settings.device.startswith("cuda")
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-9, fused=fused)
    ]
    if matrices:
        found.append(
            Muon(matrices, lr=settings.lr, momentum=0.95, weight_decay=settings.weight_decay, stacked=stacked)
        )
    for optimiser in found:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return found


def rate_factor(done: float, step: int, settings: Settings) -> float:
    """Factor of the learning rates.

    Args:
        done: Share in [0, 1] of the time that has passed.
        step: Steps made in this run.
        settings: The run's.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
    factor = settings.lr_end + (settings.lr_begin - settings.lr_end) * cosine
    return factor * min(1.0, (step + 1) / max(settings.warmup, 1))


class Run:
    """One training run: model, optimisers, feeding, logging, saving.

    Args:
        settings: The settings of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = Log(settings.out / "log.jsonl")
        maker = BatchMaker(settings.preset, settings.rows, settings.length, training_spec())
        # Workers are forked before anything touches the GPU.
        self.feeder = Feeder(maker, settings.workers, settings.seed + 1)
        self.device = torch.device(settings.device)
        cuda = self.device.type == "cuda"
        dtype = torch.bfloat16 if cuda else torch.float32
        if cuda:
            # cuDNN plans anew for every shape, and brings nothing at these sizes.
            torch.backends.cuda.enable_cudnn_sdp(False)
        config = load_config(settings.preset)
        self.model = build_model(config, settings.seed)
        atlas = load_atlas()
        self.heads = DenseHeads(config.text_config.hidden_size, len(atlas.names), len(COLOURS))
        source = settings.resume
        if settings.state is not None and (settings.state / OPTIMISERS).is_file():
            source = settings.state  # newer than anything that was carried here, and with its optimisers
        self.heads_alone_steps = 0
        if source is not None:
            self._restore(source)
        self.model.to(self.device)
        self.heads.to(self.device)
        self.fast = FastLVLM(self.model, dtype, compiled=settings.compile and cuda)
        vocabulary = Vocabulary(settings.preset)
        self.fast.set_header(vocabulary.header)
        self.optimisers = optimisers(self.model, self.heads, settings)
        if source is not None and source == settings.state:
            self._load_optimisers(source / OPTIMISERS)
        processing = json.loads((settings.preset / "processor_config.json").read_text())["image_processor"]
        self.painter = Painter(
            atlas, processing["image_mean"], processing["image_std"], self.device, settings.native_share
        )
        self.rng = np.random.default_rng(settings.seed + 77)
        self.rows = settings.rows
        self.calm = 1.0  # factor of the learning rates, lowered after a failure
        self.step = 0
        self.sums: dict[str, list[Tensor]] = defaultdict(list)
        unseen_places = replace(training_spec(), photo_half="heldout")
        self.validation: list[Validation] = validation_sets(
            BatchMaker(settings.preset, settings.validation_clips, settings.length, unseen_places),
            settings.validation_clips,
        )
        self.vocabulary = vocabulary
        self.log(
            "start",
            settings={key: str(value) for key, value in asdict(settings).items()},
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            torch=torch.__version__,
            device=torch.cuda.get_device_name(self.device) if cuda else "cpu",
            source=source,
        )

    def _restore(self, folder: Path) -> None:
        load_into(self.model, load_weights(folder), source=folder)
        if any(folder.glob("heads-*.safetensors")):
            load_into(self.heads, load_weights(folder, stem="heads"), source=folder)
        else:
            self.heads_alone_steps = HEADS_ALONE_STEPS

    def _load_optimisers(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        for optimiser, state in zip(self.optimisers, saved, strict=True):
            peaks = [group["peak"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["peak"] = peak  # this run's rates, not the last one's

    def _save_weights(self, folder: Path, dtype: torch.dtype) -> None:
        save_weights(own_state(self.model), folder, dtype, index=False)
        save_weights(own_state(self.heads), folder, dtype, stem="heads", index=False)

    def save(self) -> None:
        """Write weights and heads; where a state folder is wanted, into it too, with the optimisers."""
        self._save_weights(self.settings.out, getattr(torch, self.settings.save_type))
        if self.settings.state is not None:
            self._save_weights(self.settings.state, torch.float32)
            path = self.settings.state / OPTIMISERS
            partial = path.with_suffix(".partial")
            torch.save([optimiser.state_dict() for optimiser in self.optimisers], partial)
            partial.replace(path)

    def warm_up(self) -> None:
        """Compile on one batch of each pass; go on without compilation if that fails."""
        if not self.fast.compiled:
            return
        began = time.monotonic()
        try:
            for batch in self._one_of_each():
                total, _ = losses(
                    self.fast, self.heads, self.painter.load(batch, rng=self.rng), dense=1.0, language=True
                )
                total.backward()
            torch.cuda.synchronize(self.device)
        except Exception:
            # The plain blocks compute the same, whatever fails in the compiler.
            self.log(
                "note", text="compilation failed; going on without", error=traceback.format_exc()[-3000:]
            )
            torch._dynamo.reset()
            self.fast.uncompile()
        self._clear_gradients()
        self.log("compiled", seconds_taken=time.monotonic() - began, compiled=self.fast.compiled)

    def _one_of_each(self) -> Iterator[Batch]:
        wanted = {True, False}
        while wanted:
            batch = self.feeder.next()
            layout = batch.layout
            if layout.video in wanted and layout.rows * layout.columns == COMPILED_TOKENS * (
                1 if layout.video else 4
            ):
                wanted.remove(layout.video)
                yield batch.part(slice(self.rows))

    def _clear_gradients(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def train(self) -> None:
        """Train until the time or the steps are used up."""
        settings = self.settings
        self.warm_up()
        good = Path(tempfile.mkdtemp(prefix="steerseg-lvlm-"))
        self._save_weights(good, torch.float32)
        began = last_log = last_save = last_validation = time.monotonic()
        budget = 60 * settings.minutes - self.setup_seconds()
        failures = 0
        clips = waited = 0.0
        while True:
            now = time.monotonic()
            elapsed = now - began
            if elapsed >= budget or (settings.steps and self.step >= settings.steps):
                break
            batch = self.feeder.next().part(slice(self.rows))
            waited += time.monotonic() - now
            language = elapsed >= settings.dense_seconds
            try:
                self._one_step(batch, elapsed / budget, language=language)
                failures = 0
            except torch.OutOfMemoryError:
                failures += 1
                self._free_memory(failures)
                if failures > 8:
                    raise
                continue
            clips += len(batch)
            now = time.monotonic()
            if now - last_log >= settings.log_every or self.step == 1:
                means = self._means()
                healthy = all(math.isfinite(value) for value in means.values())
                self.log(
                    "train",
                    step=self.step,
                    phase="all" if language else "dense",
                    clips_a_second=clips / (now - last_log),
                    waited=waited / (now - last_log),
                    rate=rate_factor(elapsed / budget, self.step, settings) * self.calm,
                    memory=self._memory(),
                    **means,
                )
                clips = waited = 0.0
                last_log = now
                if not healthy:
                    self._recover(good)
                elif now - last_save >= settings.save_every:
                    self.save()
                    self._save_weights(good, torch.float32)
                    last_save = now
            if now - last_validation >= settings.validate_every and language:
                self.validate()
                last_validation = time.monotonic()
        self.save()
        shutil.rmtree(good)
        self.validate()
        self.log("end", step=self.step)

    def _free_memory(self, failures: int) -> None:
        """Skip a batch that did not fit, and from the second failure in a row on take smaller ones."""
        self._clear_gradients()
        torch.cuda.empty_cache()
        self.log("note", text="out of memory; the batch is skipped", rows=self.rows)
        if failures >= 2:
            self.rows = max(1, self.rows * 3 // 4 // 8 * 8)

    def setup_seconds(self) -> float:
        """Seconds from the process's start, which the budget includes."""
        return time.monotonic() - _STARTED

    def _one_step(self, batch: Batch, done: float, *, language: bool) -> None:
        settings = self.settings
        loaded = self.painter.load(batch, rng=self.rng)
        fade = settings.dense_begin + (settings.dense_end - settings.dense_begin) * done
        # Soft prompts will move the picture away from the chat's beginning: be used to that.
        gap = int(self.rng.integers(1, MOST_SOFT_TOKENS + 1)) if self.rng.random() < 0.4 else 0
        dense = fade if language else 1.0
        heads_alone = self.step < self.heads_alone_steps
        total, parts = losses(
            self.fast, self.heads, loaded, dense=dense, language=language, gap=gap, heads_alone=heads_alone
        )
        total.backward()
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        norm = nn.utils.clip_grad_norm_(parameters, 2.0)
        factor = rate_factor(done, self.step, settings) * self.calm
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            optimiser.step()
        self._clear_gradients()
        self.step += 1
        for name, value in (parts | {"norm": norm.detach(), "total": total.detach()}).items():
            self.sums[name].append(value)

    def _means(self) -> dict[str, float]:
        means = {
            name: float(torch.stack(values).float().mean()) for name, values in sorted(self.sums.items())
        }
        self.sums.clear()
        return means

    def _memory(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else 0.0

    def _recover(self, good: Path) -> None:
        """Go back to the last good weights, with lower learning rates."""
        self._restore(good)
        for optimiser in self.optimisers:
            optimiser.state.clear()
        self.calm *= 0.5
        self.log("note", text="not finite; back to the last good weights", calm=self.calm)

    def validate(self) -> None:
        """Answer and point on the validation clips. A failure is logged: it must not cost the training."""
        began = time.monotonic()
        try:
            for part in self.validation:
                results = validate(self.fast, self.painter, self.vocabulary, part)
                self.log("validation", step=self.step, mode=part.mode, **results)
        except Exception:
            self.log("note", text="validation failed", error=traceback.format_exc()[-3000:])
        self.log("validated", seconds_taken=time.monotonic() - began)


_STARTED = time.monotonic()


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--preset", type=Path, default=PRESET_FOLDER)
    parser.add_argument("--state", type=Path, help="folder for a full checkpoint; resumed from if it has one")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    for name, item in Settings.__dataclass_fields__.items():
        if name in ("out", "resume", "preset", "state", "compile"):
            continue
        kind = type(item.default)
        text = f"{item.metadata.get('help', '')} (default {item.default})".strip()
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=item.default, help=text)
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> None:
    """Train as the command line says."""
    run = Run(parse(arguments))
    try:
        run.train()
    finally:
        run.feeder.close()


if __name__ == "__main__":
    main(sys.argv[1:])
