"""In the model process: soft prompts are trained, some steps at a time or in shares of one step.

Whatever a slice or a step achieves is on disk when it ends, and none depends on what this process remembers: any
worker goes on where another one was.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.models.batches import batch_of
from ml_backend.models.messages import (
    SoftPromptsRef,
    StepRequest,
    TrainingProgress,
    TrainingStep,
    TrainRequest,
)
from ml_backend.models.reporter import Reporter
from ml_backend.models.sample_files import SampleReader, sample_path
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.models.step_messages import (
    GradientRequest,
    GradientShare,
    PromptMatrices,
    StepGradients,
    StepRow,
)
from steerseg.config import RefinementRecipe
from steerseg.errors import ConfigError, ModelError
from steerseg.pipeline import SteerSeg
from steerseg.runtime.devices import native_products
from steerseg.runtime.lru import LruCache
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.sample import ChosenRow, Row, TrainingSample, choose_rows
from steerseg.training.trainer import NOTHING_VISIBLE, STATE_FILE, Gradients, RowCounts, SoftPromptTrainer
from steerseg.words.glossary import Glossary

_TRAINERS = 4  # trainings whose state stays in memory between slices


@dataclass(frozen=True)
class _KeptTrainer:
    """A trainer in memory, and the time of the state file that it agrees with."""

    state_ns: int
    trainer: SoftPromptTrainer


@dataclass(frozen=True)
class _StepData:
    """What a step is computed from.

    Attributes:
        keys: Key of each sample.
        samples: The samples.
        rng: Chooses the frames. By seed and step, so that an interrupted training draws what it would have drawn.
    """

    keys: list[str]
    samples: list[TrainingSample]
    rng: np.random.Generator


class Trainings:
    """Trains soft prompts with a loaded :class:`~steerseg.pipeline.SteerSeg`.

    Args:
        steerseg: The frozen models.
        soft_prompts: Soft prompts that are loaded already.
        reader: Reads prepared examples.
    """

    def __init__(self, steerseg: SteerSeg, soft_prompts: SoftPromptCache, reader: SampleReader) -> None:
        self._steerseg = steerseg
        self._recipe: RefinementRecipe = steerseg.preset.recipe
        self._soft_prompts = soft_prompts
        self._reader = reader
        self._trainers: LruCache[Path, _KeptTrainer] = LruCache(_TRAINERS)

    # --- alone

    def train(self, request: TrainRequest, reporter: Reporter) -> TrainingProgress:
        """Train until the slice ends, all steps are done, or something more urgent waits.

        Raises:
            ModelError: The loss is not a number.
            ArtefactError: The disk is full; the state of the slice before is still there.
        """
        end = time.monotonic() + request.seconds
        trainer = self._trainer(request)
        steps = trainer.config.steps
        with self._keeping(request, trainer), native_products():
            while trainer.step_count < steps:
                reporter.progress("training", trainer.step_count / steps)
                data = self._data(request, trainer.step_count)
                loss = trainer.step(data.samples, data.rng, frames_per_sample=self._recipe.frames_per_sample)
                _check(loss, trainer.step_count)
                if reporter.should_yield or time.monotonic() >= end:
                    break
        return self._progress(request, trainer)

    # --- together

    def step(self, request: StepRequest, reporter: Reporter) -> TrainingStep:
        """Apply the gradients of a step, unless that was done before, and plan the next step.

        Raises:
            ModelError: The loss is not a number.
            ArtefactError: The disk is full; the state of before is still there.
            ConfigError: No mask of the next step's batch shows anything.
        """
        training, gradients = request.training, request.gradients
        trainer = self._trainer(training)
        reporter.progress("training", trainer.step_count / trainer.config.steps)
        if gradients is not None and gradients.step == trainer.step_count:
            with self._keeping(training, trainer):
                _check(trainer.apply(_tensors(gradients)), trainer.step_count)
        progress = self._progress(training, trainer)
        if progress.digest is not None:
            return TrainingStep(progress, None, ())
        data = self._data(training, trainer.step_count)
        chosen = choose_rows(data.samples, data.rng, self._recipe.frames_per_sample)
        if not chosen:
            raise ConfigError(NOTHING_VISIBLE)
        rows = tuple(
            StepRow(data.keys[one.sample], one.image, one.row(data.samples).vision.tokens.shape[1])
            for one in chosen
        )
        matrices = PromptMatrices(_array(trainer.frame), _array(trainer.video), trainer.placement)
        return TrainingStep(progress, matrices, rows)

    def gradients(self, request: GradientRequest, reporter: Reporter) -> GradientShare:
        """Compute a share of a step's gradients; what is not done when something more urgent waits is given back.

        Raises:
            ModelError: A prepared example cannot be read.
        """
        given = request.prompts
        trainer = self._new_trainer(
            SoftPrompts(torch.tensor(given.frame), torch.tensor(given.video), given.placement)
        )
        rows = [self._row(request, one) for one in request.rows]
        names = {id(row): one for row, one in zip(rows, request.rows, strict=True)}
        left = list(request.rows)
        seconds: dict[tuple[bool, int], list[float]] = {}
        total, began = 0.0, time.monotonic()
        with native_products():
            for done, loss in trainer.backward(rows, RowCounts(request.videos, request.images)):
                total += loss.item()  # waits for the device, so that the time is the pass's own
                ended = time.monotonic()
                for row in done:
                    left.remove(names[id(row)])
                seconds.setdefault(names[id(done[0])].shape, []).append((ended - began) / len(done))
                began = ended
                reporter.progress("training", 1 - len(left) / len(rows))
                if reporter.should_yield:
                    break
        return GradientShare(
            frame=None if trainer.frame.grad is None else _array(trainer.frame.grad),
            video=None if trainer.video.grad is None else _array(trainer.video.grad),
            loss=total,
            left=tuple(left),
            seconds={shape: min(times) for shape, times in seconds.items()},
        )

    def _row(self, request: GradientRequest, wanted: StepRow) -> Row:
        sample = self._reader.sample(sample_path(request.folder, wanted.key), request.features)
        return ChosenRow(0, wanted.image).row([sample])

    # --- both

    def _data(self, request: TrainRequest, step: int) -> _StepData:
        seed = (self._recipe.seed, int.from_bytes(hashlib.sha256(request.name.encode()).digest()[:4], "big"))
        keys = batch_of(request.pools, step, self._recipe, seed)
        samples = [self._reader.sample(sample_path(request.folder, key), request.features) for key in keys]
        return _StepData(keys, samples, np.random.default_rng((*seed, step)))

    @contextmanager
    def _keeping(self, request: TrainRequest, trainer: SoftPromptTrainer) -> Iterator[None]:
        """Afterwards, what was trained inside is on disk; where that fails, the state of before is all there is."""
        folder = request.folder / request.name
        try:
            yield
            trainer.save_state(folder)
        except BaseException:
            self._trainers.pop(folder)  # what is in memory is not what is on disk
            raise
        self._trainers.put(folder, _KeptTrainer((folder / STATE_FILE).stat().st_mtime_ns, trainer))

    def _progress(self, request: TrainRequest, trainer: SoftPromptTrainer) -> TrainingProgress:
        """How far a training is; once all steps are done, its result is written."""
        steps = trainer.config.steps
        if trainer.step_count < steps:
            return TrainingProgress(trainer.step_count, steps, None, ())
        prompts = trainer.prompts.averaged(self._start(request.start), self._recipe.champion_share)
        prompts.save(request.folder / request.name)
        return TrainingProgress(
            steps, steps, prompts.digest, tuple(round(loss, 6) for loss in trainer.losses)
        )

    def _trainer(self, request: TrainRequest) -> SoftPromptTrainer:
        """The trainer of a training: from memory where it agrees with the state on disk, else from that state."""
        folder = request.folder / request.name
        state = folder / STATE_FILE
        kept = self._trainers.get(folder)
        if kept is not None and state.is_file() and kept.state_ns == state.stat().st_mtime_ns:
            return kept.trainer
        trainer = self._new_trainer(self._start(request.start))
        if state.is_file():
            trainer.load_state(folder)
        return trainer

    def _new_trainer(self, prompts: SoftPrompts) -> SoftPromptTrainer:
        return SoftPromptTrainer(self._steerseg.lvlm, self._steerseg.layers, prompts, self._recipe.training)

    def _start(self, start: SoftPromptsRef | None) -> SoftPrompts:
        """The soft prompts that a training begins from."""
        steerseg = self._steerseg
        prompts = self._soft_prompts.load(start) or steerseg.soft_prompts
        if prompts is None or not len(prompts.frame):
            neutral = steerseg.lvlm.line_break
            glossary = Glossary() if prompts is None else prompts.glossary
            begun = SoftPrompts.from_embedding(neutral, self._recipe.tokens, seed=self._recipe.seed)
            prompts = replace(begun, glossary=glossary)
        return prompts.for_model(steerseg.lvlm)


def _check(loss: float, step: int) -> None:
    """Refuse a loss that is not a number.

    Raises:
        ModelError: It is not.
    """
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of step {step} is not a number; lower the learning rate of the preset's 'refinement'"
        )


def _array(matrix: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = matrix.detach().cpu().numpy().copy()
    return array


def _tensors(gradients: StepGradients) -> Gradients:
    def tensor(array: NDArray[np.float32] | None) -> torch.Tensor | None:
        return None if array is None else torch.tensor(array)

    return Gradients(tensor(gradients.frame), tensor(gradients.video), gradients.loss)
