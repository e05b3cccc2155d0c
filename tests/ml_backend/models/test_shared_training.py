"""Trainings over several workers: how a step is split, and that it gives what one worker gives."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.models.handler import ModelHandler
from ml_backend.models.messages import (
    ModelAnswer,
    ModelRequest,
    StepRequest,
    TrainingProgress,
    TrainingStep,
    TrainRequest,
    TrialResult,
)
from ml_backend.models.reporter import SilentReporter
from ml_backend.models.shared_training import RowCosts, SharedTraining, balanced
from ml_backend.models.step_messages import GradientRequest, StepRow
from steerseg.errors import ConfigError, ModelError, SteerSegError
from steerseg.pipeline import SteerSeg
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.trainer import STATE_FILE
from steerseg.video import VideoLimits
from tests.support.prepared_training import prepare
from tests.support.refinement_world import save_preset

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-6


# --- how a step is split


@given(costs=st.lists(st.floats(0.01, 10), min_size=1, max_size=40), shares=st.integers(1, 9))
def test_shares_hold_every_row_once_and_none_is_overloaded(costs: list[float], shares: int) -> None:
    rows = [StepRow(str(index), None, index) for index in range(len(costs))]
    split = balanced(rows, costs, shares)
    assert sorted(row.tokens for share in split for row in share) == list(range(len(rows)))
    assert all(share == sorted(share, key=lambda row: row.tokens) for share in split)
    assert len(split) == min(shares, len(rows))
    assert all(split)
    loads = [sum(costs[row.tokens] for row in share) for share in split]
    # Graham's bound: no share is above the best possible by more than a third.
    best = max(sum(costs) / shares, max(costs))
    assert max(loads) <= (4 / 3) * max(best, _pair(costs, shares)) + 1e-9


def _pair(costs: Sequence[float], shares: int) -> float:
    """What some share has to hold of the dearest rows, where there are more rows than shares."""
    dearest = sorted(costs, reverse=True)
    return dearest[shares - 1] + dearest[shares] if len(costs) > shares else 0.0


def test_an_uneven_batch_is_split_by_cost_and_not_by_number() -> None:
    videos = [StepRow(f"v{index}", None, 1200) for index in range(5)]
    images = [StepRow(f"v{index}", image, 300) for index in range(5) for image in (0, 1)]
    rows = videos + images
    loads = [sum(row.tokens for row in share) for share in balanced(rows, [row.tokens for row in rows], 2)]
    assert loads == [4500, 4500], "samples as they are would be 3 to 2"


def test_costs_are_tokens_until_every_shape_was_measured() -> None:
    costs, rows = RowCosts(), [StepRow("a", None, 800), StepRow("a", 0, 200)]
    assert costs.of(rows) == [800, 200]
    costs.note({(True, 800): 3.0})
    assert costs.of(rows) == [800, 200], "seconds and tokens do not mix"
    costs.note({(False, 200): 1.0})
    assert costs.of(rows) == [3.0, 1.0]
    costs.note({(True, 800): 1.0})
    assert costs.of(rows) == [2.0, 1.0]


# --- that it gives what one worker gives


class Yielding(SilentReporter):
    """Asks for way after every pass."""

    @property
    def should_yield(self) -> bool:
        return True


class Workers:
    """So many workers; here they are one, which answers one after the other.

    Args:
        handler: Answers.
        idle: How many are idle, one time after the other; the last goes on.
        making_way: Every so many shares, one is given back after its first pass; 0 for none.
    """

    def __init__(self, handler: ModelHandler, idle: Sequence[int], making_way: int = 0) -> None:
        self.handler = handler
        self._idle = list(idle)
        self._making_way = making_way
        self.shares: list[tuple[StepRow, ...]] = []
        self.given_back = 0

    def idle(self) -> int:
        return self._idle.pop(0) if len(self._idle) > 1 else self._idle[0]

    def ask(self, requests: Sequence[ModelRequest]) -> list[ModelAnswer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ModelRequest) -> ModelAnswer:
        reporter = SilentReporter()
        if isinstance(request, GradientRequest):
            self.shares.append(request.rows)
            if self._making_way and len(self.shares) % self._making_way == 0:
                reporter = Yielding()
        answer = self.handler(request, reporter)
        self.given_back += bool(getattr(answer, "left", ()))
        return answer

    def train(self, request: TrainRequest) -> TrainingProgress:
        return SharedTraining(self.ask, self.idle, RowCosts()).train(request)


def handler_of(root: Path, **refinement: Any) -> ModelHandler:
    preset = save_preset(root, replay=None, refinement=refinement)
    return ModelHandler(SteerSeg.from_pretrained(preset, device="cpu"), VideoLimits())


@pytest.fixture(scope="module", params=[5, 3], ids=["batch of 5", "batch of 3"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelHandler, TrainRequest, SoftPrompts]:
    """A handler, a training, and what one worker makes of it; 12 steps at the usual rate."""
    root = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    handler = handler_of(
        root / "preset",
        batch=request.param,
        frames_per_sample=2,
        training={"steps": 12, "warmup": 1, "learning_rate": 1e-3, "anchor": 0.1},
    )
    training = prepare(lambda asked: handler(asked, SilentReporter()), root)
    handler(training, SilentReporter())
    alone = SoftPrompts.load(training.folder / training.name)
    shutil.rmtree(training.folder / training.name)
    return handler, training, alone


def distance(one: SoftPrompts, other: SoftPrompts) -> float:
    """Of the two pairs, relative."""
    pairs = ((one.frame, other.frame), (one.video, other.video))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize(
    ("idle", "making_way"),
    [([2], 0), ([3], 0), ([64], 0), ([2, 3, 1, 4, 2], 0), ([2], 2), ([4], 1)],
    ids=["two", "three", "more than rows", "coming and going", "one makes way", "all make way"],
)
def test_any_shares_give_the_prompts_of_one_worker(
    trained: tuple[ModelHandler, TrainRequest, SoftPrompts], idle: list[int], making_way: int
) -> None:
    handler, training, alone = trained
    named = replace(training, folder=training.folder)
    workers = Workers(handler, idle, making_way)
    progress = workers.train(named)
    while progress.digest is None:  # one worker alone was idle in between
        progress = workers.train(named)
    together = SoftPrompts.load(training.folder / training.name)
    shutil.rmtree(training.folder / training.name)
    assert together.digest == progress.digest
    assert len(progress.losses) == progress.steps == 12
    assert (workers.given_back > 0) is (making_way > 0)
    assert distance(together, alone) < TOLERANCE
    assert distance(together, handler._trainings._start(None)) > 0.003, "it learned something"


def test_one_worker_goes_on_where_several_were_and_the_other_way_round(
    trained: tuple[ModelHandler, TrainRequest, SoftPrompts],
) -> None:
    handler, training, alone = trained
    step = replace(training, seconds=0.0)
    for turn in range(12):
        if turn % 2:
            progress = Workers(handler, [3]).train(step)
            assert progress.workers == 3
        else:
            progress = handler(step, SilentReporter())
            assert progress.workers == 1
        assert progress.step == turn + 1
    together = SoftPrompts.load(training.folder / training.name)
    shutil.rmtree(training.folder / training.name)
    assert distance(together, alone) < TOLERANCE


def test_gradients_are_applied_once_and_those_of_another_step_never(
    trained: tuple[ModelHandler, TrainRequest, SoftPrompts],
) -> None:
    handler, training, _ = trained
    asked: list[StepRequest] = []

    class Recording(Workers):
        def _answer(self, request: ModelRequest) -> ModelAnswer:
            if isinstance(request, StepRequest):
                asked.append(request)
            return super()._answer(request)

    Recording(handler, [2]).train(replace(training, seconds=0.0))
    applied = asked[-1]
    state = training.folder / training.name / STATE_FILE
    before = state.read_bytes()
    again = handler(applied, SilentReporter())  # as after a worker that died before it answered
    assert isinstance(again, TrainingStep)
    assert again.progress.step == 1
    assert applied.gradients is not None
    later = replace(applied.gradients, step=7)
    assert handler(StepRequest(training, later), SilentReporter()).progress.step == 1
    assert state.read_bytes() == before
    shutil.rmtree(state.parent)


def test_a_loss_that_is_no_number_leaves_the_state_of_before(
    trained: tuple[ModelHandler, TrainRequest, SoftPrompts],
) -> None:
    handler, training, _ = trained
    plan = handler(StepRequest(training, None), SilentReporter())
    assert isinstance(plan, TrainingStep)
    assert plan.prompts is not None

    class Poisoned(Workers):
        def _answer(self, request: ModelRequest) -> ModelAnswer:
            answer = super()._answer(request)
            return replace(answer, loss=float("nan")) if isinstance(request, GradientRequest) else answer

    with pytest.raises(ModelError, match="step 1 is not a number"):
        Poisoned(handler, [2]).train(training)
    assert not (training.folder / training.name).exists()
    again = handler(StepRequest(training, None), SilentReporter())
    assert np.array_equal(again.prompts.frame, plan.prompts.frame)


def test_an_answer_of_another_kind_is_refused(
    trained: tuple[ModelHandler, TrainRequest, SoftPrompts],
) -> None:
    handler, training, _ = trained

    class Wrong(Workers):
        def _answer(self, request: ModelRequest) -> ModelAnswer:
            return TrialResult(0.0, 0.0)

    with pytest.raises(SteerSegError, match="TrialResult"):
        Wrong(handler, [2]).train(training)


def test_a_batch_that_shows_nothing_is_refused_as_by_one_worker(tmp_path: Path) -> None:
    handler = handler_of(tmp_path / "preset")
    training = prepare(lambda asked: handler(asked, SilentReporter()), tmp_path, films=1)
    sample = next((tmp_path / "prepared" / "samples").iterdir())
    from safetensors import safe_open

    from steerseg.runtime.artefacts import write_tensors

    with safe_open(sample, framework="pt") as file:
        card = file.metadata()
        tensors = {name: torch.zeros_like(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    write_tensors(sample, tensors, card)
    for ask in (lambda: handler(training, SilentReporter()), lambda: Workers(handler, [2]).train(training)):
        with pytest.raises(ConfigError, match="every mask of the batch is empty"):
            ask()
