"""Carries a refinement on in one process, as a server and its model process would; a script for the kill tests.

    python refinement_driver.py WORLD KILLS

The models are loaded once. A child process for each round carries on what the one before has left; rounds but the
last are killed at a random durable step: an fsync, a rename, or a commit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_backend.corrections.records import Weights
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.label_studio.connections import Connections
from ml_backend.models.handler import ModelHandler
from ml_backend.models.messages import ModelAnswer, ModelRequest, TrialRequest, TrialResult
from ml_backend.models.reporter import SilentReporter
from ml_backend.refinement.run import RefinementRun, RefinementSettings
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.version_store import VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Settings
from steerseg.pipeline import SteerSeg
from steerseg.presets import load_preset
from steerseg.video import VideoLimits
from tests.support.refinement_world import FilmLoader

MODEL = "tiny-model"


class Driver:
    """What a refinement needs, around a world's folder with ``preset``, ``films`` and ``data``.

    Args:
        world: The folder.
        steerseg: The loaded models.
        feature_bytes: Room for vision features.
    """

    def __init__(self, world: Path, steerseg: SteerSeg, *, feature_bytes: int = 1 << 30) -> None:
        self.data = world / "data"
        self.database = Database(self.data / "store.sqlite")
        self.refinements = RefinementStore(self.database)
        self.versions = VersionStore(self.database)
        self.line = PromptLine(self.versions, self.data, MODEL)
        self.films = FilmLoader(world / "films")
        self.handler = ModelHandler(steerseg, VideoLimits())
        preset = load_preset(world / "preset")
        self.settings = RefinementSettings(
            recipe=preset.recipe,
            replay=preset.replay,
            base_version="tiny-preset",
            data_dir=self.data,
            feature_bytes=feature_bytes,
            confidence=0.8,
            weights=Weights(),
            slice_seconds=0.0,  # one step a slice
            lexicon=preset.load_lexicon(),
            preset_prompts=preset.prompts_folder,
        )

    def ask(self, request: ModelRequest) -> ModelAnswer:
        return self.handler(request, SilentReporter())

    def always_better(self, request: ModelRequest) -> ModelAnswer:
        """Answer as the models do, but say that every candidate is better: theirs know nothing."""
        answer = self.ask(request)
        if isinstance(request, TrialRequest):
            return TrialResult(candidate=0.8, champion=0.6 if "film" in request.example.group else 0.8)
        return answer

    def run(
        self,
        refinement: Refinement,
        *,
        ask: Callable[[ModelRequest], ModelAnswer] | None = None,
        refresh: Callable[[int], None] = lambda project: None,
        patient: bool = True,
        **settings: Any,
    ) -> Refinement:
        """Carry a refinement on until it ends."""
        return RefinementRun(
            refinement,
            RefinementSettings(**{**vars(self.settings), **settings}),
            database=self.database,
            line=self.line,
            media=self.films,
            connections=Connections(Settings(data_dir=self.data)),
            ask=ask or self.ask,
            refresh=refresh,
            patient=patient,
        ).run()


def kill_after(steps: int) -> None:
    """Let this process be killed at its next durable step after so many."""
    left = steps

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapped

    os.fsync, os.replace, os.rename = counted(os.fsync), counted(os.replace), counted(os.rename)

    from sqlalchemy.engine.default import DefaultDialect

    DefaultDialect.do_commit = counted(DefaultDialect.do_commit)  # type: ignore[method-assign]


def carry_on(world: Path, steerseg: SteerSeg) -> None:
    """Carry on whatever waits or runs, one after the other, until nothing does."""
    driver = Driver(world, steerseg)
    while active := driver.refinements.active():
        for refinement in active:
            driver.run(refinement, ask=driver.always_better)


def main() -> None:
    import torch

    world, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)  # threads do not survive a fork
    steerseg = SteerSeg.from_pretrained(world / "preset", device="cpu")
    chance = random.Random(7)
    killed, late = 0, False
    while True:
        sys.stdout.flush()
        # Promotion is the shortest part, so that it takes smaller strides to be met.
        steps = chance.randrange(12, 30) if late else chance.randrange(5, 60)
        child = os.fork()
        if child == 0:
            if killed < kills:
                kill_after(steps)
            carry_on(world, steerseg)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        driver = Driver(world, steerseg)
        champions = {}
        for project in ProjectStore(driver.database).all():
            champion = driver.line.champion(project.id)
            champions[project.id] = None if champion is None else champion.name
            if champion is not None:
                driver.handler._soft_prompts.load(driver.line.ref(champion))  # or it says what is wrong
        late = any(
            one.phase in ("trying on replayed clips", "judging") for one in driver.refinements.active()
        )
        states = [(one.id, str(one.state), one.phase, one.done) for one in driver.refinements.latest()]
        driver.database.close()
        print(json.dumps({"status": status, "champions": champions, "refinements": states}))
        if status == 0:
            return
        if status != -signal.SIGKILL:
            sys.exit(f"the child ended with {status}")
        killed += 1


if __name__ == "__main__":
    main()
