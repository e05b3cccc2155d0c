"""Train the embedded SAM 2 from scratch on rendered clips: ``python -m tools.demo_models.train_sam2 --out DIR``.

Still images first (different clicks in one picture must give different masks), then clips through SAM 2's own
memory. The schedule follows the clock: ``--minutes`` is this run, ``--total-minutes`` the whole training, of
which ``--resume`` continues where the earlier run's exported folder ended. That folder alone is enough to
resume: averaged weights, configuration and training state, below 16 MiB together.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from steerseg.demo.sam2 import WEIGHTS_NAME, Sam2Size, build_sam2, save_sam2
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import VARIED_SIZES, Scene, WorldSpec, collate, render, sample_scene
from tools.demo_models.sam2_objective import (
    Losses,
    LossWeights,
    Mode,
    Targets,
    choose_objects,
    decode,
    draw_prompts,
    encode_images,
    enlarge,
    image_losses,
    mask_iou,
    normalise_images,
    track,
    video_losses,
    weighted_mean,
)

STATE_NAME = "train_state.json"
LOG_NAME = "log.jsonl"
PREVIEW_NAME = "preview.png"

_IMAGE_MODES: tuple[Mode, ...] = ("box", "clicks", "box+click")
_VIDEO_MODES: tuple[Mode, ...] = ("click", "click", "click", "click", "box", "mask")


TRAINING_WORLD = WorldSpec(
    sizes=VARIED_SIZES, objects=(2, 6), lookalike=0.5, same_object=0.6, overlap=0.45, pan=0.25, photos=0.35
)
"""More crowded and more often crossing than the clips that it is tested on."""
_MOST_OBJECTS = TRAINING_WORLD.objects[1]
_RENDER_SIZE = (270, 480)

_WHOLE_CHANGES = ("images", "objects", "clips", "clip_frames")
_REAL_CHANGES = ("video_from", "peak_lr", "ema")


@dataclass(frozen=True)
class Recipe:
    """The choices of one training, in steps of what a GPU of 80 GB holds.

    Attributes:
        images: Pictures of an image step.
        objects: Objects prompted in each picture of an image step.
        clips: Clips of a video step.
        clip_objects: Objects tracked in each clip.
        clip_frames: Frames of a clip in a video step; half as many, in twice as many clips, at first.
        short_until: Share of the video stage with such short clips.
        reuse: Steps that share a rendering, each mirrored and disturbed anew, with other prompts: drawing
            takes about as long as learning.
        strides: Steps between a clip's frames that are drawn from; long ones prepare for keyframes.
        video_from: Share of the total time after which clips take part.
        image_every: In the video stage one step in so many is an image step.
        peak_lr: Highest learning rate.
        floor_lr: Learning rate at the very end, relative to the peak.
        warmup: Steps until the peak, in every run (a resumed run has fresh optimizer moments).
        weight_decay: On matrices.
        ema: Decay of the weight average.
        lengths: Frames of the sampled scenes, one drawn per batch.
    """

    images: int = 96
    objects: int = 4
    clips: int = 48
    clip_objects: int = 2
    clip_frames: int = 8
    short_until: float = 0.3
    reuse: int = 2
    strides: tuple[int, ...] = (1, 1, 2, 3, 4, 6)
    video_from: float = 0.4
    image_every: int = 3
    peak_lr: float = 8e-4
    floor_lr: float = 0.02
    warmup: int = 150
    weight_decay: float = 0.05
    ema: float = 0.998
    lengths: tuple[int, ...] = (24, 32, 48, 64, 96)


class SceneStream(IterableDataset):
    """Endless batches of sampled scenes; the sampling happens in worker processes, without tensors.

    All scenes of a batch have one length, drawn from ``lengths``: a scene's whole motion fits into its
    length, so short ones are fast.
    """

    def __init__(self, seed: int, batch: int, lengths: tuple[int, ...]) -> None:
        self.seed, self.batch, self.lengths = seed, batch, lengths

    def __iter__(self) -> Iterator[list[Scene]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            length = int(rng.choice(self.lengths))
            spec = replace(TRAINING_WORLD, frames=(length, length))
            yield [sample_scene(rng, spec) for _ in range(self.batch)]


def scene_batches(seed: int, recipe: Recipe, workers: int) -> Iterator[list[Scene]]:
    """Batches of scenes from ``workers`` processes; from this process with 0."""
    loader = DataLoader(
        SceneStream(seed, recipe.images, recipe.lengths),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
        # Scenes are arrays: they travel through pipes as they are, not through shared memory.
        collate_fn=_as_they_are,
    )
    return iter(loader)


def _as_they_are(scenes: list[Scene]) -> list[Scene]:
    return scenes


class Renderer:
    """Scenes -> square pictures as the model sees them, with the topmost object of every pixel."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.atlas = load_atlas()

    @torch.no_grad()
    def __call__(
        self, scenes: Sequence[Scene], frames: Sequence[int], render_size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Render the same ``frames`` of every scene.

        Args:
            scenes: B scenes of one length.
            frames: T frame indices.
            render_size: Height and width at which to draw before the picture is resized to the model's
                square, as it is with real videos; the square itself if left out.

        Returns:
            (B, T, 3, S, S) float in [0, 1] and (B, T, S, S) uint8 ids, 0 for background.
        """
        square = (self.size, self.size)
        images, ids = render(
            collate(list(scenes)), self.atlas, list(frames), size=render_size or square, device=self.device
        )
        # The renderer's tensors cannot take part in a backward pass; these new ones can.
        pixels = images.flatten(0, 1).float() / 255
        labels = ids.flatten(0, 1)[:, None].float()
        if render_size is not None:
            pixels = F.interpolate(pixels, size=square, mode="bilinear", antialias=True, align_corners=False)
            labels = F.interpolate(labels, size=square, mode="nearest-exact")
        shape = (len(scenes), len(frames))
        return pixels.unflatten(0, shape), labels[:, 0].to(torch.uint8).unflatten(0, shape)


def disturb(clips: Tensor) -> Tensor:
    """Vary exposure and contrast per clip and add noise, as cameras do: (B, T, 3, S, S) in [0, 1]."""
    shape = (len(clips), 1, 1, 1, 1)
    contrast = 1 + 0.2 * (2 * torch.rand(shape, device=clips.device) - 1)
    exposure = 0.1 * (2 * torch.rand(shape, device=clips.device) - 1)
    noise = 0.03 * torch.rand(shape, device=clips.device)
    clips = (clips - 0.5) * contrast + 0.5 + exposure + noise * torch.randn_like(clips)
    return clips.clamp(0, 1)


def clip_indices(rng: random.Random, length: int, count: int, stride: int) -> list[int]:
    """``count`` frames of a scene at one stride, forwards or backwards in time, at a random position."""
    stride = max(1, min(stride, (length - 1) // max(count - 1, 1)))
    start = rng.randrange(length - (count - 1) * stride)
    frames = list(range(start, start + count * stride, stride))[:count]
    return frames if rng.random() < 0.5 else frames[::-1]


class Schedule:
    """Stage and learning rate of the training, by the clock."""

    def __init__(self, recipe: Recipe, before: float, run: float, total: float) -> None:
        self.recipe, self.before, self.run, self.total = recipe, before, run, max(total, 1e-9)
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of this run."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the whole training that is done, in [0, 1]."""
        return min(1.0, (self.before + self.spent) / self.total)

    @property
    def over(self) -> bool:
        """Whether this run's time is used up."""
        return self.spent >= self.run

    def learning_rate(self, step_of_run: int) -> float:
        """Cosine over the whole training, with a warm-up in every run."""
        recipe = self.recipe
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        level = recipe.floor_lr + (1 - recipe.floor_lr) * cosine
        return recipe.peak_lr * level * min(1.0, (step_of_run + 1) / recipe.warmup)

    def video(self, step: int) -> bool:
        """Whether this step takes clips."""
        in_stage = self.progress >= self.recipe.video_from
        return in_stage and step % self.recipe.image_every != 0

    def clip_shape(self, recipe: Recipe) -> tuple[int, int]:
        """Clips and frames of a video step: many short clips at first, then fewer long ones."""
        share = (self.progress - recipe.video_from) / max(1 - recipe.video_from, 1e-9)
        if share < recipe.short_until and recipe.clip_frames >= 6:
            return min(2 * recipe.clips, recipe.images), recipe.clip_frames // 2
        return recipe.clips, recipe.clip_frames


class WeightAverage:
    """Exponential moving average of a model's parameters, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's current weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into ``model``."""
        for parameter, average in zip(model.parameters(), self.average, strict=True):
            parameter.copy_(average)


def full_precision_positions(model: Any) -> None:
    """Compute the encodings of clicks and positions in float32 even under autocast.

    In bfloat16 the phase of a click's sines would be off by up to a pixel's worth.
    """
    layer = model.sam_prompt_encoder.pe_layer
    encode: Callable[[Tensor], Tensor] = layer._pe_encoding

    def exact(coordinates: Tensor) -> Tensor:
        with torch.autocast(coordinates.device.type, enabled=False):
            return encode(coordinates.float())

    layer._pe_encoding = exact


def compile_trunk(model: Any, log: Callable[..., None]) -> None:
    """Compile the image trunk, which has constant shapes; on any failure go on without."""
    trunk = model.image_encoder.trunk
    eager = trunk.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(sample: Tensor) -> list[Tensor]:
        try:
            return compiled(sample)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler's failures have no common type
            log(event="compile_failed", error=f"{type(error).__name__}: {error}"[:500])
            trunk.forward = eager
            return eager(sample)

    trunk.forward = forward


@dataclass(frozen=True)
class StepReport:
    """Numbers of a step for the log; tensors stay on the device until they are written."""

    loss: Tensor
    terms: dict[str, Tensor]
    overlap: Tensor
    norm: float


class Trainer:
    """One run: builds or resumes the model, steps until the time is over, validates, exports."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.cuda = self.device.type == "cuda"
        self.out = Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.size = size_from(arguments)
        self.recipe = recipe_from(arguments)
        self.measured: dict[str, float] = {}
        self.stop = False
        resumed = read_state(arguments.resume)
        self.step, before = int(resumed["step"]), resumed["seconds"]
        # Worker processes are forked before the device is touched.
        seed = arguments.seed * 1_000_003 + self.step
        self.scenes = scene_batches(seed, self.recipe, arguments.workers)

        torch.manual_seed(arguments.seed)
        model = build_sam2(self.size)
        if arguments.resume:
            folder = Path(arguments.resume)
            model.load_state_dict(load_file(folder / WEIGHTS_NAME))
            old_log = folder / LOG_NAME
            if old_log.exists() and old_log.resolve() != (self.out / LOG_NAME).resolve():
                (self.out / LOG_NAME).write_bytes(old_log.read_bytes())
        self.log_file = (self.out / LOG_NAME).open("a", encoding="utf-8")
        self.model: Any = model.to(self.device).train()
        full_precision_positions(self.model)
        self.reference: Any = build_sam2(self.size).to(self.device).eval().requires_grad_(False)
        self.reference.load_state_dict(self.model.state_dict())
        full_precision_positions(self.reference)
        self.average = WeightAverage(self.model, self.recipe.ema)
        self.optimizer = self._optimizer()
        total = arguments.total_minutes or (before / 60 + arguments.minutes)
        self.schedule = Schedule(self.recipe, before, 60 * arguments.minutes, 60 * total)
        self.weights = LossWeights()
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.renderer = Renderer(self.size.image_size, self.device)
        self._drawn: dict[str, tuple[int, Tensor | None, Tensor | None]] = {}
        if arguments.compile:
            compile_trunk(self.model, self.log)
        if self.cuda:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=self.recipe.peak_lr,
            betas=(0.9, 0.98),
            fused=self.cuda,
        )

    def log(self, **entry: Any) -> None:
        """One line of JSON, on the standard output and in the log file."""
        entry = {key: round(value, 5) if isinstance(value, float) else value for key, value in entry.items()}
        line = json.dumps(entry)
        print(line, flush=True)
        self.log_file.write(line + "\n")
        self.log_file.flush()

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU; on a CPU everything stays float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda)

    def _targets(self, ids: Tensor, objects: int) -> Targets:
        return choose_objects(ids, objects, most=_MOST_OBJECTS)

    def _pictures(
        self, kind: str, frames: Callable[[int], Sequence[int]], count: int
    ) -> tuple[Tensor, Tensor]:
        """Normalised pictures and ids of ``count`` scenes, drawn anew every ``reuse`` steps.

        Half of the drawings are resized as those of a real video are.
        """
        used, images, ids = self._drawn.get(kind, (self.recipe.reuse, None, None))
        if images is None or ids is None or used >= self.recipe.reuse or len(images) != count:
            scenes = next(self.scenes)
            size = _RENDER_SIZE if self.rng.random() < 0.5 else None
            images, ids = self.renderer(scenes[:count], frames(scenes[0].num_frames), size)
            used = 0
        else:
            images, ids = images.flip(-1), ids.flip(-1)
        self._drawn[kind] = (used + 1, images, ids)
        return normalise_images(disturb(images)), ids

    def image_step(self) -> tuple[Losses, Tensor]:
        """Forward pass of an image step: losses, mean overlap of one click."""
        images, ids = self._pictures("image", lambda length: [self.rng.randrange(length)], self.recipe.images)
        with self.autocast():
            return image_losses(
                self.model,
                images[:, 0],
                self._targets(ids, self.recipe.objects),
                self.rng.choice(_IMAGE_MODES),
                self.weights,
                chunk=self.recipe.images,
            )

    def video_step(self) -> tuple[Losses, Tensor]:
        """Forward pass of a video step: losses, mean overlap on the frames after the prompt."""
        recipe = self.recipe
        clips, count = self.schedule.clip_shape(recipe)

        def frames(length: int) -> list[int]:
            return clip_indices(self.rng, length, count, self.rng.choice(recipe.strides))

        images, ids = self._pictures("video", frames, clips)
        correct_at = self.rng.randrange(1, count) if self.rng.random() < 0.25 else None
        with self.autocast():
            return video_losses(
                self.model,
                images,
                self._targets(ids, recipe.clip_objects),
                self.rng.choice(_VIDEO_MODES),
                self.weights,
                chunk=recipe.images,
                correct_at=correct_at,
            )

    def one_step(self, kind: str, step_of_run: int) -> StepReport:
        """Forward and backward pass and optimizer step; one with a gradient that is not finite is dropped."""
        losses, overlap = self.video_step() if kind == "video" else self.image_step()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(step_of_run)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).item()
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.model)
        else:
            self.log(event="dropped_step", step=self.step, norm=str(norm))
        return StepReport(losses.total.detach(), losses.terms, overlap.detach(), norm)

    def run(self) -> None:
        """Train until the time is over or a signal asks to stop; always exports."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self.log(
            event="start",
            step=self.step,
            device=torch.cuda.get_device_name() if self.cuda else "cpu",
            torch=torch.__version__,
            parameters=sum(p.numel() for p in self.model.parameters()),
            total_minutes=self.schedule.total / 60,
            recipe=asdict(self.recipe),
            size=asdict(self.size),
        )
        last_log = last_save = last_check = time.monotonic()
        overlaps: dict[str, list[Tensor]] = {"image": [], "video": []}
        step_of_run = failures = 0
        while not self.schedule.over and not self.stop and step_of_run < self.arguments.max_steps:
            kind = "video" if self.schedule.video(self.step) else "image"
            try:
                report = self.one_step(kind, step_of_run)
            except torch.cuda.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                self._shrink(kind)
                continue
            except RuntimeError:
                # One bad step must not cost the run; three in a row are no accident.
                failures += 1
                self.log(event="failed_step", step=self.step, error=traceback.format_exc()[-1500:])
                if failures >= 3:
                    self.export()
                    raise
                continue
            failures = 0
            overlaps[kind].append(report.overlap)
            self.step += 1
            step_of_run += 1
            now = time.monotonic()
            if now - last_log >= self.arguments.log_seconds or step_of_run == 1:
                self._log_steps(kind, report, overlaps, seconds=now - last_log)
                last_log = now
            if now - last_check >= self.arguments.validate_seconds:
                self.validate()
                last_check = time.monotonic()
            if now - last_save >= self.arguments.save_seconds:
                self.export()
                last_save = time.monotonic()
        if step_of_run:
            self.validate(preview=True)
        self.export()
        self.log(event="end", step=self.step, minutes=(self.schedule.before + self.schedule.spent) / 60)

    def _log_steps(
        self, kind: str, report: StepReport, overlaps: dict[str, list[Tensor]], *, seconds: float
    ) -> None:
        """Log the last step and the overlaps of all steps since the last line; these are cleared."""
        entry: dict[str, Any] = {
            "step": self.step,
            "minutes": (self.schedule.before + self.schedule.spent) / 60,
            "kind": kind,
            "loss": report.loss.item(),
            **{name: value.item() for name, value in report.terms.items()},
            "norm": report.norm,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        for name, values in overlaps.items():
            if values:
                entry[f"{name}_iou"] = torch.stack(values).mean().item()
            entry[f"{name}_steps"] = len(values)
            values.clear()
        entry["seconds"] = seconds
        if self.cuda:
            entry["gpu_gib"] = torch.cuda.max_memory_reserved() / 2**30
        self.log(**entry)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _shrink(self, kind: str) -> None:
        """Out of memory: take fewer clips, or fewer objects a picture, and go on."""
        if kind == "video" and self.recipe.clips > 4:
            self.recipe = replace(self.recipe, clips=self.recipe.clips * 3 // 4)
        elif kind == "image" and self.recipe.objects > 2:
            self.recipe = replace(self.recipe, objects=self.recipe.objects - 1)
        else:
            raise RuntimeError(f"out of memory with the smallest {kind} step; pass a smaller --images")
        self.log(event="out_of_memory", kind=kind, clips=self.recipe.clips, objects=self.recipe.objects)

    @torch.no_grad()
    def validate(self, preview: bool = False) -> None:
        """Overlap of the averaged weights on fixed scenes: one click on an image, a tracked clip."""
        self.average.copy_to(self.reference)
        rng = np.random.default_rng(20_240_807)
        # Clips as users see them, each with an object that training never shows.
        spec = WorldSpec(frames=(48, 48), split="heldout", photos=0.3, photo_half="heldout")
        scenes = [sample_scene(rng, spec) for _ in range(self.arguments.validation_scenes)]
        cpu_state, cuda_state = torch.get_rng_state(), torch.cuda.get_rng_state() if self.cuda else None
        torch.manual_seed(0)
        images, ids = self.renderer(scenes, range(0, 48, 4), _RENDER_SIZE)
        result: dict[str, float] = {}
        with self.autocast():
            targets = self._targets(ids, 2)
            images = normalise_images(images)
            result["click_j"], drawn = self._click_overlap(images[:, 0], targets)
            per_frame: list[Tensor] = []
            presence: list[Tensor] = []
            answers = track(self.reference, images, targets, "click", chunk=self.recipe.images)
            for t, answer in enumerate(answers[1:], start=1):
                predicted = enlarge(answer, self.size.image_size) > 0
                truth = targets.masks[:, t]
                per_frame.append(weighted_mean(mask_iou(predicted, truth), targets.valid))
                right = predicted.flatten(1).any(1) == truth.flatten(1).any(1)
                presence.append(weighted_mean(right.float(), targets.valid))
            result["track_j"] = torch.stack(per_frame).mean().item()
            result["track_j_last"] = per_frame[-1].item()
            result["presence"] = torch.stack(presence).mean().item()
        if preview or not (self.out / PREVIEW_NAME).exists() or self.arguments.preview:
            draw_preview(images, targets, drawn, answers, self.out / PREVIEW_NAME)
        torch.set_rng_state(cpu_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)
        self.measured = result
        self.log(event="validation", step=self.step, **result)

    def _click_overlap(self, images: Tensor, targets: Targets) -> tuple[float, Tensor]:
        sequences, _, sizes = encode_images(self.reference, images, chunk=self.recipe.images)
        sequences[-1] = sequences[-1] + self.reference.no_mem_embed
        features = [
            level.permute(1, 2, 0).unflatten(2, size)[targets.picture]
            for level, size in zip(sequences, sizes, strict=True)
        ]
        points, labels = draw_prompts(targets.masks[:, 0], "click")
        answer = decode(self.reference, features, points, labels)
        overlap = mask_iou(enlarge(answer.logits, self.size.image_size) > 0, targets.masks[:, 0])
        return weighted_mean(overlap, targets.valid).item(), points[:, 0]

    def export(self) -> None:
        """Write the averaged weights, the configuration and the training state."""
        self.average.copy_to(self.reference)
        seconds = self.schedule.before + self.schedule.spent
        save_sam2(
            self.reference.state_dict(), self.size, self.out, step=self.step, seconds=seconds, **self.measured
        )
        state = self.out / (STATE_NAME + ".part")
        state.write_text(
            json.dumps({"step": self.step, "seconds": seconds, **self.measured}), encoding="utf-8"
        )
        state.replace(self.out / STATE_NAME)


def draw_preview(images: Tensor, targets: Targets, clicks: Tensor, answers: list[Tensor], path: Path) -> None:
    """Rows of clips with the tracked mask in green over the truth in red; a cross marks the click."""
    columns = list(range(0, images.shape[1], max(1, images.shape[1] // 6)))
    rows = torch.nonzero(targets.valid).flatten()[:6].tolist()
    mean = images.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    side = images.shape[-1]
    sheet = Image.new("RGB", (side * len(columns), side * max(len(rows), 1)))
    for r, row in enumerate(rows):
        for c, t in enumerate(columns):
            picture = (images[targets.picture[row], t] * std + mean).clamp(0, 1).float()
            predicted = enlarge(answers[t][row : row + 1], side)[0] > 0
            tint = torch.stack([targets.masks[row, t], predicted, torch.zeros_like(predicted)]).float()
            marked = tint.amax(0, keepdim=True) * 0.5
            pixels = (picture * (1 - marked) + tint * marked).mul(255).byte().permute(1, 2, 0).cpu().numpy()
            tile = Image.fromarray(pixels)
            if t == 0:
                x, y = clicks[row].tolist()
                pen = ImageDraw.Draw(tile)
                pen.line([(x - 6, y), (x + 6, y)], fill="white", width=2)
                pen.line([(x, y - 6), (x, y + 6)], fill="white", width=2)
            sheet.paste(tile, (c * side, r * side))
    sheet.thumbnail((1920, 1920))
    sheet.save(path)


def read_state(folder: str | None) -> dict[str, float]:
    """Steps and seconds of an earlier run's folder; zeros where there is none."""
    if folder is None:
        return {"step": 0, "seconds": 0.0}
    state: dict[str, float] = json.loads((Path(folder) / STATE_NAME).read_text(encoding="utf-8"))
    return state


def size_from(arguments: argparse.Namespace) -> Sam2Size:
    """The shipped size, or a small one for a quick look on a CPU."""
    if not arguments.tiny:
        return Sam2Size()
    return Sam2Size(
        image_size=128, width=16, stages=(1, 1, 2, 1), windows=(8, 4, 8, 4), global_blocks=(), channels=64,
        memory_channels=16, memory_layers=1,
    )  # fmt: skip


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes."""
    changes = {
        name: getattr(arguments, name)
        for name in (
            "images",
            "objects",
            "clips",
            "clip_frames",
            "video_from",
            "peak_lr",
            "scene_frames",
            "ema",
        )
        if getattr(arguments, name) is not None
    }
    return replace(Recipe(), **changes)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for weights, configuration, state and log")
    parser.add_argument("--minutes", type=float, required=True, help="length of this run")
    parser.add_argument("--total-minutes", type=float, help="of the whole training, earlier runs included")
    parser.add_argument("--resume", help="the folder that an earlier run wrote")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=12, help="processes that sample scenes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--compile", action="store_true", help="compile the image trunk: about a minute, repaid by a long run"
    )
    parser.add_argument("--tiny", action="store_true", help="a much smaller model, to try the training")
    parser.add_argument("--max-steps", type=float, default=math.inf)
    parser.add_argument("--validation-scenes", type=int, default=48)
    parser.add_argument("--validate-seconds", type=float, default=75)
    parser.add_argument("--save-seconds", type=float, default=110)
    parser.add_argument("--log-seconds", type=float, default=10)
    parser.add_argument("--preview", action="store_true", help="draw the preview at every validation")
    for name, kind in (
        ("images", int),
        ("objects", int),
        ("clips", int),
        ("clip_frames", int),
        ("scene_frames", int),
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    for name in ("video_from", "peak_lr", "ema"):
        parser.add_argument("--" + name.replace("_", "-"), type=float)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m tools.demo_models.train_sam2``."""
    Trainer(parser().parse_args(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
