"""A refinement from corrections to a new champion: whole, in two projects at once, killed, on a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.tables import PromptStatus, RefinementState
from ml_backend.label_studio.media_access import MediaUnavailableError
from ml_backend.models.messages import (
    ModelAnswer,
    ModelRequest,
    NameRequest,
    PrepareRequest,
    TrainRequest,
    Yielded,
)
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.refinement.folders import FEATURES, FOLDER, evict_features
from ml_backend.refinement.media import MediaPendingError
from ml_backend.refinement.store import Refinement
from ml_backend.refinement.version_store import NewVersion, PromptVersion
from steerseg.errors import ArtefactError, Cancelled, ModelError
from steerseg.pipeline import SteerSeg
from steerseg.soft_prompts import SoftPrompts
from tests.support.refinement_driver import Driver
from tests.support.refinement_world import correct, make_world, save_film, save_preset

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preset(tmp_path_factory.mktemp("tiny") / "preset", steps=4)


@pytest.fixture(scope="module")
def steerseg(preset: Path) -> SteerSeg:
    return SteerSeg.from_pretrained(preset, device="cpu")


@pytest.fixture
def driver(tmp_path: Path, preset: Path, steerseg: SteerSeg) -> Driver:
    return Driver(make_world(tmp_path / "world", preset), steerseg)


def test_five_corrections_are_cross_validated_and_a_better_candidate_is_promoted(driver: Driver) -> None:
    asked: list[ModelRequest] = []

    def ask(request: ModelRequest) -> ModelAnswer:
        asked.append(request)
        return driver.always_better(request)

    refreshed: list[int] = []
    ended = driver.run(driver.refinements.request(1, "test"), ask=ask, refresh=refreshed.append)
    assert refreshed == [1]
    assert ended.state is RefinementState.PROMOTED
    assert "on 5 videos by cross-validation: J&F 60.0 → 80.0" in ended.reason
    assert "on 2 replayed clips" in ended.reason
    champion = driver.line.champion(1)
    assert champion is not None
    assert champion.parent is None
    assert len(champion.data) == 5
    assert len(champion.curve) == 4
    assert champion.metrics.held_out is not None
    assert champion.metrics.held_out.gain.mean == pytest.approx(0.2)
    assert champion.refinement_id == ended.id
    assert SoftPromptCache().load(driver.line.ref(champion)) is not None
    trainings = {request.name for request in asked if isinstance(request, TrainRequest)}
    assert trainings == {"fold-1", "fold-2", "fold-3", "candidate"}
    # What only the refinement needed is gone; vision features serve the next one.
    assert not (driver.data / FOLDER / str(ended.id)).exists()
    assert len(list((driver.data / FOLDER / FEATURES).iterdir())) == 7


def test_the_gate_takes_parts_of_one_film_for_one_video(driver: Driver) -> None:
    for number in (990, 991, 992):
        masks = save_film(driver.films.root / f"film{number}", number)
        correct(driver.database, 1, number, masks, source="film.mp4")
    ended = driver.run(driver.refinements.request(1, "test"), ask=driver.always_better)
    held_out = ended.metrics.held_out
    assert held_out is not None
    assert held_out.videos == 6
    assert [example.video for example in ended.metrics.examples].count("film.mp4") == 3


def test_the_next_refinement_starts_from_the_champion_and_tells_new_from_old(driver: Driver) -> None:
    first = driver.run(driver.refinements.request(1, "test"), ask=driver.always_better)
    champion = driver.line.champion(1)
    assert champion is not None
    masks = save_film(driver.films.root / "film999", 999)
    correct(driver.database, 1, 999, masks)
    trained: list[TrainRequest] = []

    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, TrainRequest):
            trained.append(request)
        return driver.always_better(request)

    second = driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert (first.state, second.state) == (RefinementState.PROMOTED,) * 2
    last = trained[-1]
    assert last.start == driver.line.ref(champion)
    assert {str(pool): len(keys) for pool, keys in last.pools.items()} == {"new": 1, "old": 5, "preset": 2}
    latest = driver.line.champion(1)
    assert latest is not None
    assert latest.parent == champion.name
    assert [version.status for version in driver.versions.versions(1)] == [
        PromptStatus.RETIRED,
        PromptStatus.CHAMPION,
    ]


def test_the_models_own_verdict_is_obeyed(driver: Driver) -> None:
    ended = driver.run(driver.refinements.request(1, "test"))
    (version,) = driver.versions.versions(1)
    promoted = ended.state is RefinementState.PROMOTED
    assert ended.state in (RefinementState.PROMOTED, RefinementState.KEPT_BACK)
    assert version.status is (PromptStatus.CHAMPION if promoted else PromptStatus.CANDIDATE)
    assert version.reason == f"{ended.state}: {ended.reason}"
    assert set(ended.metrics.to_json()) == {
        "scheme",
        "held_out",
        "expected",
        "regression",
        "examples",
        "replayed",
    }


def test_too_few_corrections_train_nothing(tmp_path: Path, preset: Path, steerseg: SteerSeg) -> None:
    driver = Driver(make_world(tmp_path / "few", preset, films=3), steerseg)

    def ask(request: ModelRequest) -> ModelAnswer:
        assert isinstance(request, NameRequest), "objects are named, nothing else is asked"
        return driver.ask(request)

    ended = driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert ended.state is RefinementState.NOT_ENOUGH_DATA
    assert ended.reason == "corrections on 3 videos show an object, at least 4 are needed"
    assert driver.versions.versions(1) == []


# --- put down, killed, carried on


def digests(driver: Driver, project: int = 1) -> list[str]:
    return [version.digest for version in driver.versions.versions(project)]


def test_slices_that_are_put_down_are_asked_again(driver: Driver) -> None:
    refused: set[int] = set()

    def ask(request: ModelRequest) -> ModelAnswer:
        if id(request) not in refused and len(refused) < 20:
            refused.add(id(request))
            return Yielded()
        return driver.ask(request)

    ended = driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert ended.state in (RefinementState.PROMOTED, RefinementState.KEPT_BACK)
    assert len(refused) == 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, preset: Path, steerseg: SteerSeg) -> Driver:
    """Two projects that were refined without any disturbance."""
    driver = Driver(make_world(tmp_path_factory.mktemp("whole") / "world", preset, projects=(1, 2)), steerseg)
    for project in (1, 2):
        driver.run(driver.refinements.request(project, "test"), ask=driver.always_better)
    return driver


@pytest.mark.parametrize("after", [0, 3, 9, 20, 28])  # of 30 slices
def test_a_stopped_run_is_carried_on_to_the_same_candidate(
    tmp_path: Path, steerseg: SteerSeg, undisturbed: Driver, driver: Driver, after: int
) -> None:
    left = after

    def ask(request: ModelRequest) -> ModelAnswer:
        nonlocal left
        if left == 0:
            raise Cancelled("the server is stopping")
        left -= 1
        return driver.always_better(request)

    with pytest.raises(Cancelled):
        driver.run(driver.refinements.request(1, "test"), ask=ask)
    (running,) = driver.refinements.active(1)
    again = Driver(tmp_path / "world", steerseg)
    carried_on = again.run(running, ask=again.always_better)
    assert carried_on.reason == undisturbed.refinements.latest(1)[0].reason
    assert digests(again) == digests(undisturbed)


def test_kills_at_two_dozen_points_lose_nothing_and_change_nothing(
    tmp_path: Path, preset: Path, steerseg: SteerSeg, undisturbed: Driver
) -> None:
    """Processes of their own, killed at durable steps of preparing, training, trying and promoting.

    Two projects are refined; after each kill the champion that the database names must load. In the end the
    versions are the very ones that a run without kills makes, and no correction is lost or doubled.
    """
    world = make_world(tmp_path / "killed", preset, projects=(1, 2))
    before = Driver(world, steerseg)
    counted = [CorrectionStore(before.database).corrections(project) for project in (1, 2)]
    for project in (1, 2):
        before.refinements.request(project, "test")
    before.database.close()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.refinement_driver", str(world), "40"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    killed = [one for one in rounds if one["status"] != 0]
    assert len(killed) >= 20, [one["refinements"] for one in rounds]
    phases = {phase for one in killed for _, state, phase, _ in one["refinements"] if state == "running"}
    assert {"preparing examples", "training candidate", "judging"} <= phases
    assert any(phase.startswith("trying") for phase in phases)
    after = Driver(world, steerseg)
    for project in (1, 2):
        assert digests(after, project) == digests(undisturbed, project)
        mine, theirs = after.refinements.latest(project)[0], undisturbed.refinements.latest(project)[0]
        assert mine.state is RefinementState.PROMOTED
        assert mine.reason == theirs.reason
        champion = after.line.champion(project)
        assert champion is not None
        assert SoftPromptCache().load(after.line.ref(champion)) is not None
        assert CorrectionStore(after.database).corrections(project) == counted[project - 1]
    assert digests(after, 1) != digests(after, 2)


def test_two_projects_refining_at_once_do_not_mix(
    tmp_path: Path, preset: Path, steerseg: SteerSeg, undisturbed: Driver
) -> None:
    """Their slices alternate in one model process; each ends as it would have ended alone."""
    both = Driver(make_world(tmp_path / "both", preset, projects=(1, 2)), steerseg)
    _alternate(both, [both.refinements.request(project, "test") for project in (1, 2)])
    for project in (1, 2):
        assert digests(both, project) == digests(undisturbed, project)
        (version,) = both.versions.versions(project)
        ours = {one.id for one in CorrectionStore(both.database).corrections(project)}
        assert version.data
        assert {number for number, _ in version.data} <= ours
    assert digests(both, 1) != digests(both, 2)


def _alternate(driver: Driver, refinements: list[Refinement]) -> None:
    """Run refinements in threads that take turns, slice by slice."""
    turn = threading.Condition()
    order: list[int] = [refinement.id for refinement in refinements]
    failures: list[BaseException] = []

    def run(refinement: Refinement) -> None:
        def ask(request: ModelRequest) -> ModelAnswer:
            with turn:
                turn.wait_for(lambda: order[0] == refinement.id)
                try:
                    return driver.always_better(request)
                finally:
                    order.append(order.pop(0))
                    turn.notify_all()

        try:
            driver.run(refinement, ask=ask)
        except BaseException as error:
            failures.append(error)
        with turn:
            order.remove(refinement.id)
            turn.notify_all()

    threads = [threading.Thread(target=run, args=(refinement,)) for refinement in refinements]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_run_that_was_cancelled_elsewhere_stops_after_its_slice(driver: Driver) -> None:
    slices: list[TrainRequest] = []

    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, TrainRequest):
            slices.append(request)
            assert driver.refinements.cancel(refinement.id, "cancelled by another process")
        return driver.ask(request)

    refinement = driver.refinements.request(1, "test")
    with pytest.raises(Cancelled):
        driver.run(refinement, ask=ask)
    assert len(slices) == 1
    (ended,) = driver.refinements.latest(1)
    assert (ended.state, ended.reason) == (RefinementState.CANCELLED, "cancelled by another process")
    assert driver.versions.versions(1) == []


def test_a_preset_that_was_changed_meanwhile_begins_it_anew(driver: Driver) -> None:
    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, TrainRequest):
            raise Cancelled("the server is stopping")
        return driver.ask(request)

    with pytest.raises(Cancelled):
        driver.run(driver.refinements.request(1, "test"), ask=ask)
    (running,) = driver.refinements.active(1)
    ended = driver.run(running, base_version="another preset")
    assert not ended.active
    assert ended.base_version == "another preset"
    assert any("the preset was changed" in note for note in ended.notes)


# --- faults


def test_a_video_that_is_gone_is_set_aside_with_the_reason(driver: Driver) -> None:
    shutil.rmtree(driver.films.root / "film102")
    ended = driver.run(driver.refinements.request(1, "test"), ask=driver.always_better)
    assert ended.state is RefinementState.PROMOTED
    assert any("the film is gone" in note for note in ended.notes)
    (version,) = driver.versions.versions(1)
    assert len(version.data) == 4
    (aside,) = CorrectionStore(driver.database).list_set_aside(1)
    assert (aside.task_id, aside.reason) == (10_102, "the film is gone")


def test_a_video_that_was_dropped_while_a_slice_waited_is_fetched_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of downloads drops what was used longest ago, and slices may wait for hours."""
    film, elsewhere = (driver.films.root / name for name in ("film102", "elsewhere"))
    load = driver.films.load
    dropped: list[Path] = []

    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, PrepareRequest) and "film102" in request.example.group and not dropped:
            dropped.append(film.rename(elsewhere))
        return driver.always_better(request)

    def fetch(*arguments: Any) -> Any:
        if elsewhere.exists():
            elsewhere.rename(film)
        return load(*arguments)

    monkeypatch.setattr(driver.films, "load", fetch)
    ended = driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert ended.state is RefinementState.PROMOTED
    assert dropped
    assert CorrectionStore(driver.database).list_set_aside(1) == []


def test_a_full_folder_for_frames_sets_no_correction_aside(driver: Driver) -> None:
    def ask(request: ModelRequest) -> ModelAnswer:
        raise ArtefactError("the decoded frames need 64 MiB in /tmp")

    with pytest.raises(ArtefactError, match="64 MiB"):
        driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert CorrectionStore(driver.database).list_set_aside(1) == []


def test_media_that_cannot_be_had_now_are_waited_for(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: Any) -> Any:
        raise MediaUnavailableError("Label Studio asks for a token", status=401)

    refinement = driver.refinements.request(1, "test")
    monkeypatch.setattr(driver.films, "load", unavailable)
    with pytest.raises(MediaPendingError, match="tried again"):
        driver.run(refinement)
    (running,) = driver.refinements.active(1)
    monkeypatch.undo()
    assert not driver.run(running).active
    assert CorrectionStore(driver.database).list_set_aside(1) == []


def test_media_that_never_come_are_left_out_in_the_end(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: Any) -> Any:
        raise MediaUnavailableError("Label Studio asks for a token", status=401)

    monkeypatch.setattr(driver.films, "load", unavailable)
    ended = driver.run(driver.refinements.request(1, "test"), patient=False)
    assert ended.state is RefinementState.NOT_ENOUGH_DATA
    assert ended.reason == "there is nothing left to learn from"


def crown(driver: Driver) -> PromptVersion:
    """Give project 1 a champion that no refinement made."""
    pair = SoftPrompts(torch.full((3, 32), 0.1), torch.full((3, 32), 0.2))
    pair.save(driver.data / "made")
    new = NewVersion(
        driver.line.keep(driver.data / "made", pair.digest), pair.digest, driver.line.model, "refined", None
    )
    driver.versions.promote(1, driver.versions.add(1, new).name, by="test")
    champion = driver.line.champion(1)
    assert champion is not None
    return champion


@pytest.mark.parametrize("stage", ["features", "samples", "training_state", "soft_prompts", "prompts"])
def test_a_full_disk_says_so_and_the_old_version_is_still_served(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    champion = crown(driver)
    refinement = driver.refinements.request(1, "test")
    write = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        there = stage in path.name or stage == path.parent.name or stage == path.parent.parent.name
        if "x" in mode and there:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ArtefactError, match="the disk is full; free some space"):
        driver.run(refinement, ask=driver.always_better)
    monkeypatch.undo()
    assert driver.line.champion(1) == champion
    assert SoftPromptCache().load(driver.line.ref(champion)) is not None
    (running,) = driver.refinements.active(1)
    assert driver.run(running, ask=driver.always_better).state is RefinementState.PROMOTED


def test_what_the_model_process_cannot_do_is_said(driver: Driver) -> None:
    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, TrainRequest):
            raise ModelError("out of memory while working on the request")
        return driver.ask(request)

    with pytest.raises(ModelError, match="out of memory"):
        driver.run(driver.refinements.request(1, "test"), ask=ask)
    assert driver.refinements.active(1)


def test_features_beyond_the_room_leave_the_oldest_corrections_out(driver: Driver) -> None:
    prepared: list[str] = []

    def ask(request: ModelRequest) -> ModelAnswer:
        if isinstance(request, PrepareRequest):
            prepared.append(request.example.key)
        return driver.ask(request)

    first = driver.run(driver.refinements.request(1, "test"), ask=ask)
    size = next((driver.data / FOLDER / FEATURES).iterdir()).stat().st_size
    assert len(prepared) == 7
    prepared.clear()
    second = driver.run(driver.refinements.request(1, "test"), ask=ask, feature_bytes=3 * size)
    assert [key.split("-")[0] for key in prepared] == ["c5", "c4", "c3"]
    assert first.notes == ()
    assert any("4 examples do not take part" in note for note in second.notes)


def test_features_that_were_used_longest_ago_go_first(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / FEATURES
    folder.mkdir(parents=True)
    for age in range(5):
        file = folder / f"{age}.safetensors"
        file.write_bytes(b"x" * 100)
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    evict_features(tmp_path, 250)
    assert sorted(file.name for file in folder.iterdir()) == ["0.safetensors", "1.safetensors"]
    evict_features(tmp_path / "nothing", 1)
