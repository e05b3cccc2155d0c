"""The training loop: batches in a fixed order, shared among processes, put down and taken up at any step."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerseg.config import TrainingConfig, TrainingRecipe
from steerseg.errors import ConfigError
from steerseg.evaluation.results import fingerprint
from steerseg.evaluation.sample import Sample, split_digest
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.runtime.artefacts import write_json
from steerseg.runtime.distributed import Ranks
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.examples import Examples, Opened, data_order
from steerseg.training.preset import refuse_other_preset
from steerseg.training.record import Record
from steerseg.training.trainer import STATE_FILE, SoftPromptTrainer

RUN_FILE = "run.json"
STATE_FOLDER = "training"
_READERS = 4  # threads that read files; decoding of pictures lets others work

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
        recipe: What is trained and how.
        folder: The preset that is made; ``training/`` in it has state and log.
        ranks: The processes that share every batch; each has to call this, and all see one ``folder``.
        cache_bytes: Memory of each process for visual tokens.
        save_every: Steps between two states on disk.
        log_every: Steps between two lines of the log.
        progress: Told of "train" and the fraction done.

    Returns:
        The prompts, with a card of how they were made. All processes have the same.

    Raises:
        ConfigError: No sample, a training of other settings in ``folder``, or a loss that is not a number.
        VideoError: A frame is missing or cannot be read.
    """
    if not samples:
        raise ConfigError("no samples to train on; check the split and the limit")
    batches = _Batches([sample.video for sample in samples], recipe, ranks)
    schedule = replace(recipe.schedule, steps=batches.steps, heads=preset.config.heads)
    state = folder / STATE_FOLDER
    run = _describe(lvlm, preset, samples, recipe, schedule, batches.size)
    ranks.from_first(lambda: _begin(folder, run))
    layers = preset.layers or tuple(range(lvlm.num_layers // 2, lvlm.num_layers))
    trainer = SoftPromptTrainer(lvlm, layers, _start(lvlm, recipe), schedule, add_up=ranks.add_up)
    if ranks.from_first((state / STATE_FILE).is_file):
        trainer.load_state(state)
    examples = Examples(
        lvlm,
        preset,
        samples,
        seed=recipe.seed,
        pictures=recipe.pictures,
        frames_per_sample=recipe.frames_per_sample,
        attributes=recipe.attributes,
        cache_bytes=cache_bytes,
    )
    tell = progress or (lambda stage, fraction: None)
    record = Record(state, trainer.step_count) if ranks.first else None
    rng = np.random.default_rng(recipe.seed)  # has nothing to choose: samples come with the frames they use
    told = trainer.step_count
    since = len(trainer.losses)
    try:
        tell("train", trainer.step_count / batches.steps)
        for opened, epoch in batches.opened(examples, trainer.step_count):
            batch = [examples.make(one, epoch) for one in opened]
            teaching = torch.tensor([sum(sample.teaches for sample in batch)])
            ranks.add_up(teaching)
            if not teaching.item():
                trainer.pass_over()
            elif not math.isfinite(trainer.step(batch, rng, frames_per_sample=recipe.frames_per_sample)):
                raise ConfigError(
                    f"the loss is not a number at step {trainer.step_count}; begin anew in another -o with a "
                    "lower learning rate"
                )
            done = trainer.step_count
            last = done == batches.steps
            if record is not None and (done % log_every == 0 or last) and len(trainer.losses) > since:
                record.write(done, **_numbers(trainer, since, (done - told) * batches.size, record.lap()))
                told, since = done, len(trainer.losses)
            if ranks.first and (done % save_every == 0 or last):
                trainer.save_state(state)
            tell("train", done / batches.steps)
    finally:
        if record is not None:
            record.close()
    ranks.wait()  # nobody goes on before the last state is on disk
    return replace(trainer.prompts, card=_card(trainer, run))


class _Batches:
    """Which samples each step takes, and which of them are this process's.

    Attributes:
        size: Expressions of a step, of all processes together.
        steps: Of the whole training.
    """

    def __init__(self, videos: Sequence[str], recipe: TrainingRecipe, ranks: Ranks) -> None:
        self._videos = videos
        self._recipe = recipe
        self._ranks = ranks
        self.size = recipe.batch * ranks.size
        self._per_epoch = -(-len(videos) // self.size)
        self.steps = recipe.epochs * self._per_epoch

    def plan(self, done: int) -> Iterator[tuple[list[int], int]]:
        """This process's samples and the epoch, of every step that is left."""
        order: list[int] = []
        planned = -1
        for step in range(done, self.steps):
            epoch, place = divmod(step, self._per_epoch)
            if epoch != planned:
                order = data_order(
                    self._videos, seed=self._recipe.seed, epoch=epoch, window=self._recipe.window
                )
                planned = epoch
            batch = order[place * self.size : (place + 1) * self.size]
            yield self._shares(batch)[self._ranks.rank], epoch

    def _shares(self, batch: Sequence[int]) -> list[list[int]]:
        """As many samples for each process, and those of a clip for the one that has its visual tokens, if they can."""
        count = self._ranks.size
        shares: list[list[int]] = [[] for _ in range(count)]
        quotas = [len(batch[rank::count]) for rank in range(count)]
        left = []
        for index in batch:
            home = zlib.crc32(self._videos[index].encode()) % count
            if len(shares[home]) < quotas[home]:
                shares[home].append(index)
            else:
                left.append(index)
        for share, quota in zip(shares, quotas, strict=True):
            while len(share) < quota:
                share.append(left.pop())
        return shares

    def opened(self, examples: Examples, done: int) -> Iterator[tuple[list[Opened], int]]:
        """The same with their files read, one step ahead."""
        with ThreadPoolExecutor(_READERS) as readers:

            def read(indices: list[int]) -> list[Future[Opened]]:
                return [readers.submit(examples.open, index) for index in indices]

            waiting: tuple[list[Future[Opened]], int] | None = None
            try:
                for indices, epoch in self.plan(done):
                    following = (read(indices), epoch)
                    if waiting is not None:
                        yield [future.result() for future in waiting[0]], waiting[1]
                    waiting = following
                if waiting is not None:
                    yield [future.result() for future in waiting[0]], waiting[1]
            finally:
                readers.shutdown(wait=False, cancel_futures=True)


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
    """What identifies a training, in JSON types; the number of processes is free as long as batches are alike."""
    told = {key: value for key, value in asdict(recipe).items() if key not in ("batch", "schedule")}
    described = {
        "samples": len(samples),
        "content": split_digest(samples),
        "lvlm": fingerprint(lvlm.name) or lvlm.name,
        "layers": preset.layers,
        "keyframes": preset.keyframes,
        "video_tokens": preset.video_tokens,
        "frame_tokens": preset.frame_tokens,
        "quantise": preset.quantise,
        "prompts": asdict(preset.texts),
        "batch": batch,
        "recipe": told,
        "schedule": asdict(schedule),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _begin(folder: Path, run: dict[str, Any]) -> None:
    """Note what is trained, or find out that it is what was begun here."""
    path = folder / STATE_FOLDER / RUN_FILE
    if not path.is_file():
        refuse_other_preset(folder)
        write_json(path, run)
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    different = sorted(key for key in {*run, *known} if run.get(key) != known.get(key))
    if different:
        raise ConfigError(
            f"{path.parent} holds a training of other settings ({', '.join(different)}); give those, or choose "
            "another -o"
        )


def _numbers(trainer: SoftPromptTrainer, since: int, seen: int, seconds: float) -> dict[str, float]:
    """What the log tells of the steps since the last line."""
    numbers = {
        "loss": round(float(np.mean(trainer.losses[since:])), 5),
        "learning_rate": trainer.optimizer.param_groups[0]["lr"],
        "expressions_per_second": round(seen / max(seconds, 1e-9), 3),
    }
    if trainer.lvlm.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(trainer.lvlm.device)
        numbers["peak_memory_gib"] = round(peak / 2**30, 2)
    return numbers


def _card(trainer: SoftPromptTrainer, run: dict[str, Any]) -> dict[str, Any]:
    losses = trainer.losses
    return {
        "trained_on": {key: run[key] for key in ("samples", "content", "batch")},
        "recipe": run["recipe"],
        "steps": trainer.step_count,
        "loss_first": round(float(np.mean(losses[:20])), 4) if losses else None,
        "loss_last": round(float(np.mean(losses[-20:])), 4) if losses else None,
    }
