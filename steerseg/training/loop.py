"""The training loop: batches in a fixed order, shared among processes, interrupted and resumed at any step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerseg.config import PipelineConfig, TrainingConfig, TrainingRecipe
from steerseg.errors import ConfigError
from steerseg.evaluation.results import fingerprint
from steerseg.evaluation.sample import Sample, split_digest
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.runtime.artefacts import write_json
from steerseg.runtime.distributed import Ranks
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.batches import BatchPlan
from steerseg.training.examples import Examples
from steerseg.training.log import TrainingLog
from steerseg.training.preset import refuse_other_preset
from steerseg.training.sample import TrainingSample
from steerseg.training.trainer import STATE_FILE, SoftPromptTrainer

RUN_FILE = "run.json"
STATE_FOLDER = "training"

_INPUTS = {
    name: getattr(PipelineConfig(), name)
    for name in ("seconds_per_slice", "grid", "enlarge", "expression_form")
}
"""Settings of what the model is shown and asked, with our own choices."""

Progress = Callable[[str, float], None]


def train(
    lvlm: LVLM,
    preset: Preset,
    samples: Sequence[Sample],
    recipe: TrainingRecipe,
    folder: Path,
    *,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    cache_bytes: int = 8 * 2**30,
    save_every: int = 50,
    log_every: int = 10,
    progress: Progress | None = None,
) -> SoftPrompts:
    """Train a pair of soft prompts, or go on with a training that was interrupted.

    Args:
        lvlm: The frozen model.
        preset: Layers, budgets and questions.
        samples: The dataset's, with their truth.
        recipe: The choices of the training.
        folder: The preset that is made; ``training/`` in it has state and log.
        ranks: The processes that share every batch; each has to call this, and all see one ``folder``.
        cache_bytes: Memory of each process for visual tokens.
        save_every: Steps between two states on disk.
        log_every: Steps between two lines of the log.
        progress: Called with "train" and the fraction done.

    Returns:
        The prompts, with a card of how they were made. All processes have the same.

    Raises:
        ConfigError: No sample, a training of other settings in ``folder``, or a loss that is not a number.
        VideoError: A frame is missing or cannot be read.
    """
    if not samples:
        raise ConfigError("no samples to train on; check the split and the limit")
    plan = BatchPlan([sample.video for sample in samples], recipe, ranks)
    schedule = _schedule(recipe, preset, plan.steps)
    state = folder / STATE_FOLDER
    run = _describe(lvlm, preset, samples, recipe, schedule, plan.size)
    ranks.from_first(lambda: _begin(folder, run))
    layers = lvlm.rollout_layers(preset.layers, preset.name)
    trainer = SoftPromptTrainer(lvlm, layers, _start(lvlm, recipe), schedule, add_up=ranks.add_up)
    if ranks.from_first((state / STATE_FILE).is_file):
        trainer.load_state(state)
    examples = Examples.of(recipe, lvlm, preset, samples, cache_bytes)
    report = progress or (lambda stage, fraction: None)
    report("train", trainer.step_count / plan.steps)
    with _StepLog(state, trainer, plan.size) if ranks.first else nullcontext() as log:
        for files, epoch in plan.read_ahead(examples, trainer.step_count):
            _step(trainer, [examples.make(one, epoch) for one in files], recipe, ranks)
            done = trainer.step_count
            last = done == plan.steps
            if log is not None and (done % log_every == 0 or last):
                log.write()
            if ranks.first and (done % save_every == 0 or last):
                trainer.save_state(state)
            report("train", done / plan.steps)
    ranks.wait()  # nobody goes on before the last state is on disk
    return replace(trainer.prompts, card=_card(trainer, run))


def _schedule(recipe: TrainingRecipe, preset: Preset, steps: int) -> TrainingConfig:
    """The recipe's schedule over so many steps, on maps as the preset makes them."""
    config = preset.config
    return replace(recipe.schedule, steps=steps, heads=config.heads, borders=config.borders)


def _step(
    trainer: SoftPromptTrainer, batch: Sequence[TrainingSample], recipe: TrainingRecipe, ranks: Ranks
) -> None:
    """One step of all processes; one without anything to learn from only counts."""
    teaching = torch.tensor([sum(sample.teaches for sample in batch)])
    ranks.add_up(teaching)
    if not teaching.item():
        trainer.skip_step()
        return
    rng = np.random.default_rng(recipe.seed)  # has nothing to choose: samples come with the frames they use
    if not math.isfinite(trainer.step(batch, rng, frames_per_sample=recipe.frames_per_sample)):
        raise ConfigError(
            f"the loss is not a number at step {trainer.step_count}; begin anew in another -o with a "
            "lower learning rate"
        )


class _StepLog:
    """Writes the log: each line is about the steps since the one before.

    Args:
        folder: Of state and log.
        trainer: Its steps and losses are logged.
        batch: Expressions of a step.
    """

    def __init__(self, folder: Path, trainer: SoftPromptTrainer, batch: int) -> None:
        self._log = TrainingLog(folder, trainer.step_count)
        self._trainer = trainer
        self._batch = batch
        self._steps = trainer.step_count
        self._losses = len(trainer.losses)

    def __enter__(self) -> _StepLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def write(self) -> None:
        """Write a line, where any step since the last one had something to learn from."""
        trainer = self._trainer
        losses = trainer.losses[self._losses :]
        if not losses:
            return
        expressions = (trainer.step_count - self._steps) * self._batch
        numbers = {
            "loss": round(float(np.mean(losses)), 5),
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "expressions_per_second": round(expressions / max(self._log.lap(), 1e-9), 3),
        }
        if trainer.lvlm.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(trainer.lvlm.device)
            numbers["peak_memory_gib"] = round(peak / 2**30, 2)
        self._log.write(trainer.step_count, **numbers)
        self._steps, self._losses = trainer.step_count, len(trainer.losses)


def _start(lvlm: LVLM, recipe: TrainingRecipe) -> SoftPrompts:
    if recipe.beginning == "words":
        return SoftPrompts.from_vocabulary(
            lvlm.embeddings.weight, recipe.tokens, seed=recipe.seed, placement=recipe.placement
        )
    return SoftPrompts.from_embedding(
        lvlm.line_break, recipe.tokens, seed=recipe.seed, placement=recipe.placement
    )


def _describe(
    lvlm: LVLM,
    preset: Preset,
    samples: Sequence[Sample],
    recipe: TrainingRecipe,
    schedule: TrainingConfig,
    batch: int,
) -> dict[str, Any]:
    """Identity of a training, in JSON types; the number of processes is free as long as batches are alike."""
    choices = {key: value for key, value in asdict(recipe).items() if key not in ("batch", "schedule")}
    described = {
        "samples": len(samples),
        "content": split_digest(samples),
        "lvlm": fingerprint(lvlm.name) or lvlm.name,
        "layers": preset.layers,
        "keyframes": preset.keyframes,
        "video_tokens": preset.video_tokens,
        "frame_tokens": preset.frame_tokens,
        "inputs": {name: getattr(preset.config, name) for name in _INPUTS},
        "quantise": preset.quantise,
        "prompts": preset.texts.described(background=False),
        "batch": batch,
        "recipe": choices,
        "schedule": asdict(schedule),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _begin(folder: Path, run: dict[str, Any]) -> None:
    """Record what is trained; refuse a folder whose training has other settings."""
    path = folder / STATE_FOLDER / RUN_FILE
    if not path.is_file():
        refuse_other_preset(folder)
        write_json(path, run)
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    # Trainings from before there was a choice: what they had then.
    known = {"inputs": {**_INPUTS, "seconds_per_slice": run["inputs"]["seconds_per_slice"]}, **known}
    known["schedule"] = {"borders": "normalised", **known["schedule"]}
    different = sorted(key for key in {*run, *known} if run.get(key) != known.get(key))
    if different:
        raise ConfigError(
            f"{path.parent} holds a training of other settings ({', '.join(different)}); give those, or choose "
            "another -o"
        )


def _card(trainer: SoftPromptTrainer, run: dict[str, Any]) -> dict[str, Any]:
    losses = trainer.losses
    return {
        "trained_on": {key: run[key] for key in ("samples", "content", "batch")},
        "recipe": run["recipe"],
        "steps": trainer.step_count,
        "loss_first": round(float(np.mean(losses[:20])), 4) if losses else None,
        "loss_last": round(float(np.mean(losses[-20:])), 4) if losses else None,
    }
