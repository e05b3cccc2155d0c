"""Refinements over two model processes, as ``serve --device cpu,cpu`` starts them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.models.executor import Executor
from ml_backend.models.messages import ModelAnswer, ModelRequest, ProposeRequest, TrainRequest
from ml_backend.models.queue import Priority
from ml_backend.models.shared_training import RowCosts, SharedTraining
from ml_backend.models.workers import WorkerState
from ml_backend.settings import Settings
from ml_backend.web.assemble import _build_executor, build_service
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.trainer import STATE_FILE
from tests.support.prepared_training import prepare
from tests.support.refinement_world import LABEL_CONFIG, FilmLoader, add_corrections, save_preset

STEPS = 12


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait for what must come; the test's own time limit ends a wait for what does not."""
    while not (value := condition()):
        time.sleep(0.01)
    return value


class Pair:
    """Two workers of one server, and a training with what one of them makes of it alone.

    Args:
        root: Where preset, films and training are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        schedule = {"steps": 4000, "warmup": 1, "learning_rate": 1e-3, "anchor": 0.1}
        self.preset = save_preset(
            root / "preset",
            replay=None,
            refinement={"batch": 3, "frames_per_sample": 2, "training": schedule},
        )
        self.settings = Settings(data_dir=root / "data", preset=str(self.preset), device="cpu,cpu")
        self.executor: Executor[Any, Any] = _build_executor(self.settings)
        self.training: TrainRequest = prepare(self.ask, root)
        for _ in range(STEPS):
            self.ask(replace(self.training, seconds=0.0))
        self.alone = self.result()
        self.ready()

    def ready(self) -> None:
        """Both are idle."""
        wait_until(lambda: all(one.state is WorkerState.READY for one in self.executor.statuses))
        wait_until(lambda: self.idle() == 2)

    def idle(self) -> int:
        return self.executor.free_for(Priority.REFINEMENT)

    def ask(self, request: ModelRequest) -> ModelAnswer:
        answer: ModelAnswer = self.executor.submit(request, priority=Priority.REFINEMENT).result()
        return answer

    def ask_all(self, requests: Sequence[ModelRequest]) -> list[ModelAnswer]:
        jobs = [self.executor.submit(request, priority=Priority.REFINEMENT) for request in requests]
        return [job.result() for job in jobs]

    def train(self, between: Callable[[int], None] = lambda step: None) -> tuple[SoftPrompts, int]:
        """Train some steps, each a slice of its own; the result, and the most workers of a slice.

        Args:
            between: Called with the number of each step while it is about to be computed.
        """
        shared = SharedTraining(self.ask_all, self.idle, RowCosts())
        most = 0
        for step in range(STEPS):
            between(step)
            progress = shared.train(replace(self.training, seconds=0.0))
            assert progress.step == step + 1
            most = max(most, progress.workers)
        return self.result(), most

    def result(self) -> SoftPrompts:
        """What was trained so far; the next training begins anew."""
        folder = self.training.folder / self.training.name
        state = load_file(folder / STATE_FILE)
        shutil.rmtree(folder)
        return SoftPrompts(state["frame"], state["video"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        # Products of bfloat16, where a CPU has them, round by how many rows go through the model together.
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        made = Pair(tmp_path_factory.mktemp("pair"))
        yield made
        made.executor.close()


def distance(one: SoftPrompts, other: SoftPrompts) -> float:
    """Of the two pairs, relative."""
    pairs = ((one.frame, other.frame), (one.video, other.video))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_two_processes_give_the_prompts_of_one(pair: Pair) -> None:
    together, workers = pair.train()
    assert workers == 2
    assert distance(together, pair.alone) < 1e-6


def test_predictions_in_between_change_nothing(pair: Pair) -> None:
    """They take workers away in the middle of steps; what is left of a step goes on with the others."""
    answered: list[int] = []

    def propose(step: int) -> None:
        request = ProposeRequest(pair.root / "film0", "the square", 5.0, 1)
        for _ in range(1 + step % 2):
            job = pair.executor.submit(request, priority=Priority.INTERACTIVE)
            job.future.add_done_callback(lambda done: answered.append(len(done.result().pts)))

    together, _ = pair.train(propose)
    wait_until(lambda: len(answered) == STEPS + STEPS // 2)
    assert distance(together, pair.alone) < 1e-6


def test_a_killed_helper_costs_nothing_but_time(pair: Pair) -> None:
    pair.ready()
    restarts = sum(one.restarts for one in pair.executor.statuses)

    def kill(step: int) -> None:
        if step != 3:
            return
        busy = threading.Thread(target=kill_busy, daemon=True)
        busy.start()

    def kill_busy() -> None:
        """Kill one of two workers that are both at work, which is within a share."""

        def both() -> int | None:
            statuses = pair.executor.statuses
            at_work = all(one.state is WorkerState.BUSY for one in statuses)
            return statuses[1].pid if at_work else None

        os.kill(wait_until(both), signal.SIGKILL)

    together, workers = pair.train(kill)
    assert workers == 2
    assert sum(one.restarts for one in pair.executor.statuses) == restarts + 1
    assert distance(together, pair.alone) < 1e-6


def test_a_refinement_shows_its_workers_and_is_cancelled_with_all_shares(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.ready()
    monkeypatch.setattr(pair.executor, "close", lambda timeout=5.0: None)
    settings = pair.settings.model_copy(update={"data_dir": tmp_path / "data", "refine_after": 0})
    database = Database(settings.database)
    ProjectStore(database).save(1, uid="1", label_config=LABEL_CONFIG, hostname="", extra_params={})
    add_corrections(database, 1, tmp_path / "films", range(5))
    database.close()
    service = build_service(
        settings,
        executor=pair.executor,
        loader=FilmLoader(tmp_path / "films"),
        base_version="v",
        model="tiny",
    )
    service.start()
    try:
        number = service.refinements.request(1, "test").id

        def phase() -> str:
            current = service.refinements.status(1).current
            assert current is not None
            return current.phase

        wait_until(lambda: phase() == "training fold-1 on 2 workers")
        assert service.refinements.cancel(number)
        wait_until(lambda: pair.idle() == 2)
        (ended,) = service.refinements.status(1).history
        assert ended.state == "cancelled"
    finally:
        service.close()
