"""The slices of a refinement in the model process, with small random models of the real architectures."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.models.batches import batch_of
from ml_backend.models.examples import CorrectionExample, Pool, ReplayExample
from ml_backend.models.messages import (
    MediaFile,
    PrepareRequest,
    SoftPromptsRef,
    TrainingProgress,
    TrainRequest,
    TrialRequest,
    TrialResult,
)
from ml_backend.models.refine import Refiner
from ml_backend.models.reporter import SilentReporter, YieldRequested
from ml_backend.models.sample_files import SampleReader
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.models.trainings import Trainings
from steerseg.config import RefinementRecipe
from steerseg.errors import ModelError, VideoError
from steerseg.masks import encode_rle
from steerseg.pipeline import SteerSeg
from steerseg.soft_prompts import SoftPrompts
from steerseg.video import VideoLimits
from steerseg.video.isolation import IsolatedDecoder
from tests.support.refinement_world import FRAMES, example, save_film, save_preset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def steerseg(tmp_path_factory: pytest.TempPathFactory) -> SteerSeg:
    return SteerSeg.from_pretrained(save_preset(tmp_path_factory.mktemp("preset")), device="cpu")


class Recorder(SilentReporter):
    """A reporter that may ask for the work to be put down after so many reports."""

    def __init__(self, most: int | None = None) -> None:
        self.stages: list[str] = []
        self._most = most

    @property
    def should_yield(self) -> bool:
        return self._most is not None and len(self.stages) >= self._most

    def progress(self, stage: str, fraction: float) -> None:
        self.stages.append(stage)


class World:
    """A refinement's folder with examples of three films."""

    def __init__(self, steerseg: SteerSeg, root: Path) -> None:
        self.steerseg = steerseg
        self.folder = root / "run"
        self.features = root / "features"
        self.films = {f"c{n}": root / f"film{n}" for n in range(3)}
        self.examples = {f"c{n}": example(n, save_film(root / f"film{n}", n)) for n in range(3)}
        self.refiner = self.fresh()
        self.trainings = self.fresh_trainings()

    def fresh(self) -> Refiner:
        """A refiner that remembers nothing, as after a kill."""
        return Refiner(self.steerseg, IsolatedDecoder(VideoLimits()), SoftPromptCache(), SampleReader())

    def fresh_trainings(self) -> Trainings:
        """Trainings that remember nothing, as after a kill."""
        return Trainings(self.steerseg, SoftPromptCache(), SampleReader())

    def prepare(self, made: CorrectionExample | ReplayExample, reporter: Recorder | None = None) -> bool:
        media = None
        if isinstance(made, CorrectionExample):
            media = MediaFile(self.films[made.key], 5.0)
        request = PrepareRequest(made, media, self.folder, self.features)
        return self.refiner.prepare(request, reporter or Recorder()).teaches

    def prepare_all(self) -> None:
        for made in self.examples.values():
            assert self.prepare(made)

    def train(
        self, *, name: str = "candidate", seconds: float = 1000.0, reporter: Recorder | None = None
    ) -> TrainingProgress:
        request = TrainRequest(
            name, self.folder, self.features, {Pool.NEW: tuple(self.examples)}, None, seconds
        )
        return self.trainings.train(request, reporter or Recorder())


@pytest.fixture
def world(steerseg: SteerSeg, tmp_path: Path) -> World:
    return World(steerseg, tmp_path)


def weights_hash(steerseg: SteerSeg) -> str:
    state = hashlib.sha256()
    for model in (steerseg.lvlm.model, steerseg.tracker.segmenter.model):
        for name, tensor in sorted(model.state_dict().items()):
            state.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def test_a_refinement_changes_soft_prompts_and_nothing_else(world: World) -> None:
    before = weights_hash(world.steerseg)
    world.prepare_all()
    assert world.prepare(ReplayExample("training", 1))
    trained = world.train()
    assert (trained.step, trained.steps) == (6, 6)
    assert len(trained.losses) == 6
    candidate = SoftPrompts.load(world.folder / "candidate")
    assert candidate.digest == trained.digest
    assert world.steerseg.soft_prompts is not None
    assert candidate.digest != world.steerseg.soft_prompts.digest
    tried = world.refiner.compare(
        TrialRequest(
            world.examples["c0"],
            MediaFile(world.films["c0"], 5.0),
            SoftPromptsRef(world.folder / "candidate", candidate.digest),
            None,
        ),
        Recorder(),
    )
    assert 0 <= tried.candidate <= 1
    assert 0 <= tried.champion <= 1
    assert weights_hash(world.steerseg) == before
    assert all(not p.requires_grad for p in world.steerseg.lvlm.model.parameters())
    assert all(not p.requires_grad for p in world.steerseg.tracker.segmenter.model.parameters())


def test_a_candidate_keeps_the_champions_share(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.prepare_all()
    world.train()
    alone = SoftPrompts.load(world.folder / "candidate")
    champion = world.steerseg.soft_prompts
    assert champion is not None
    other = World(world.steerseg, tmp_path / "other")
    monkeypatch.setattr(other.trainings, "_recipe", replace(other.trainings._recipe, champion_share=0.25))
    other.prepare_all()
    trained = other.train(seconds=0.0)
    while trained.digest is None:  # also of a training that goes on from its state
        trained = other.train(seconds=0.0)
    kept = SoftPrompts.load(other.folder / "candidate")
    assert kept.digest == trained.digest
    assert kept.placement == alone.placement
    assert torch.allclose(kept.frame, 0.75 * alone.frame + 0.25 * champion.frame, atol=1e-6)
    assert torch.allclose(kept.video, 0.75 * alone.video + 0.25 * champion.video, atol=1e-6)


def test_what_is_prepared_is_not_made_again(world: World) -> None:
    made = world.examples["c0"]
    assert world.prepare(made)
    shutil.rmtree(world.films["c0"])  # neither video nor model is needed any more
    world.refiner = world.fresh()
    reporter = Recorder()
    assert world.prepare(made, reporter)
    assert reporter.stages == []
    other = replace(made, key="c9", expression="another expression")
    world.films["c9"] = world.films["c1"]
    assert world.prepare(world.examples["c1"])
    reporter = Recorder()
    assert world.prepare(replace(other, truth=world.examples["c1"].truth), reporter)
    assert "keyframes" not in reporter.stages  # features are the video's
    assert len(list(world.features.iterdir())) == 2


def test_features_are_made_again_for_other_weights(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be trained anew in the folder where it is."""
    assert world.prepare(world.examples["c0"])
    monkeypatch.setattr("ml_backend.models.refine.weights_fingerprint", lambda name: f"{name}, trained anew")
    world.refiner = world.fresh()
    reporter = Recorder()
    world.films["c9"] = world.films["c0"]
    assert world.prepare(replace(world.examples["c0"], key="c9"), reporter)
    assert "keyframes" in reporter.stages
    assert len(list(world.features.iterdir())) == 2


def test_slices_of_any_length_and_kills_give_the_training_that_one_slice_gives(
    world: World, tmp_path: Path
) -> None:
    world.prepare_all()
    whole = world.train()
    again = World(world.steerseg, tmp_path / "again")
    again.prepare_all()
    steps = []
    while True:
        sliced = again.train(seconds=0.0)
        steps.append(sliced.step)
        if sliced.digest is not None:
            break
        if sliced.step % 2:
            again.trainings = again.fresh_trainings()
    assert steps == [1, 2, 3, 4, 5, 6]
    assert sliced == whole
    assert again.train() == whole  # a slice that was answered to nobody


def test_a_training_makes_way_within_one_step(world: World) -> None:
    world.prepare_all()
    reporter = Recorder(most=2)
    assert world.train(reporter=reporter).step == 2
    assert reporter.stages == ["training", "training"]


def test_a_slice_that_fails_leaves_the_state_of_the_slice_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.prepare_all()
    assert world.train(seconds=0.0).step == 1

    class Cancelling(Recorder):
        def progress(self, stage: str, fraction: float) -> None:
            super().progress(stage, fraction)
            if len(self.stages) == 3:
                raise RuntimeError("cancelled")

    request = TrainRequest(
        "candidate", world.folder, world.features, {Pool.NEW: tuple(world.examples)}, None, 1000.0
    )
    with pytest.raises(RuntimeError):
        world.trainings.train(request, Cancelling())
    assert world.train(seconds=0.0).step == 2


def test_a_loss_that_is_no_number_ends_the_training(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.prepare_all()
    monkeypatch.setattr("steerseg.training.trainer.SoftPromptTrainer.step", lambda *_, **__: float("nan"))
    with pytest.raises(ModelError, match="lower the learning rate"):
        world.train()


@pytest.mark.parametrize("stage", ["keyframes", "reasoning", "grounding", "candidates"])
def test_preparing_and_trying_make_way_at_any_stage(world: World, stage: str) -> None:
    class At(Recorder):
        @property
        def should_yield(self) -> bool:
            return self.stages[-1:] == [stage]

    made, media = world.examples["c0"], MediaFile(world.films["c0"], 5.0)
    if stage in ("keyframes", "reasoning"):
        with pytest.raises(YieldRequested):
            world.prepare(made, At())
        assert world.prepare(made)
    world.prepare_all()
    trained = world.train()
    assert trained.digest is not None
    request = TrialRequest(made, media, SoftPromptsRef(world.folder / "candidate", trained.digest), None)
    world.steerseg.forget()
    with pytest.raises(YieldRequested):
        world.refiner.compare(request, At())
    first = world.refiner.compare(request, Recorder())
    assert world.fresh().compare(request, Recorder()) == first


def test_media_that_is_not_what_was_corrected_is_refused(world: World) -> None:
    made = world.examples["c0"]
    shutil.rmtree(world.films["c0"])
    (world.films["c0"]).mkdir()
    with pytest.raises(VideoError):
        world.prepare(made)
    save_film(world.films["c0"], 0)
    (world.films["c0"] / "000.png").unlink()
    with pytest.raises(VideoError, match="it was changed since"):
        world.prepare(made)


def test_an_object_that_no_keyframe_shows_teaches_nothing(world: World) -> None:
    nothing = dict.fromkeys(range(FRAMES), None)
    world.films["empty"] = world.films["c0"]
    assert not world.prepare(replace(world.examples["c0"], key="empty", truth=nothing))
    world.films["wrong"] = world.films["c0"]
    square = np.zeros((28, 56), dtype=bool)
    square[:10, :10] = True
    wrong = ({index: encode_rle(square) for index in range(FRAMES)},)
    assert world.prepare(replace(world.examples["c0"], key="wrong", truth=nothing, rejected=wrong))


def test_the_order_of_the_data_depends_on_the_step_alone_and_visits_everything() -> None:
    pools = {
        Pool.NEW: ("a", "b", "c"),
        Pool.OLD: ("o1", "o2"),
        Pool.PRESET: tuple(f"p{n}" for n in range(20)),
    }
    recipe = RefinementRecipe(batch=8, new_share=0.5, old_share=0.25)
    drawn = [batch_of(pools, step, recipe, (1, 2)) for step in range(30)]
    assert drawn[7] == batch_of(pools, 7, recipe, (1, 2))
    assert all(len(batch) == 8 for batch in drawn)
    counts = Counter(key for batch in drawn for key in batch)
    assert sum(counts[key] for key in pools[Pool.NEW]) == 4 * 30
    assert {counts[key] for key in pools[Pool.NEW]} == {40}
    assert {counts[key] for key in pools[Pool.OLD]} == {30}
    assert {counts[key] for key in pools[Pool.PRESET]} == {3}


@pytest.mark.parametrize(
    ("pools", "sizes"),
    [
        ({Pool.NEW: ("a", "b")}, {"new": 8}),
        ({Pool.OLD: ("a", "b")}, {"old": 8}),
        ({Pool.NEW: ("n",), Pool.PRESET: ("p1", "p2")}, {"new": 5, "preset": 3}),
        ({Pool.OLD: ("o",), Pool.PRESET: ("p",), Pool.NEW: ()}, {"old": 4, "preset": 4}),
    ],
)
def test_a_missing_pool_leaves_its_share_to_the_others(
    pools: dict[Pool, tuple[str, ...]], sizes: dict[str, int]
) -> None:
    batch = batch_of(pools, 0, RefinementRecipe(batch=8, new_share=0.5, old_share=0.25), (1,))
    found = {str(pool): sum(key in keys for key in batch) for pool, keys in pools.items() if keys}
    assert found == sizes


def test_a_project_without_any_prompts_begins_with_words(tmp_path: Path) -> None:
    bare = SteerSeg.from_pretrained(
        save_preset(tmp_path / "preset", soft_prompts=False, replay=None), device="cpu"
    )
    world = World(bare, tmp_path)
    world.prepare_all()
    trained = world.train()
    assert trained.digest is not None
    assert SoftPrompts.load(world.folder / "candidate").frame.shape == (3, 32)
    tried = world.refiner.compare(
        TrialRequest(
            world.examples["c1"],
            MediaFile(world.films["c1"], 5.0),
            SoftPromptsRef(world.folder / "candidate", trained.digest),
            None,
        ),
        Recorder(),
    )
    assert isinstance(tried, TrialResult)
