"""Refinements in a running backend: what begins them, who makes way, what a kill costs, and what follows."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import ProposalKey, RefinementState
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.models.executor import Executor
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.service import Service
from ml_backend.settings import Schedule, Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import build_service
from tests.support import refinement_targets
from tests.support.backend import FakeLabelStudio
from tests.support.databases import EACH_DATABASE
from tests.support.refinement_world import (
    LABEL_CONFIG,
    FilmLoader,
    add_corrections,
    correct,
    save_film,
    save_preset,
)

pytestmark = pytest.mark.timeout(300)

VERSION = "steerseg-test"


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait for what must come; the test's own time limit ends a wait for what does not."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By length of a training, a preset of tiny models."""
    root = tmp_path_factory.mktemp("presets")
    return {steps: save_preset(root / str(steps), steps=steps) for steps in (3, 12, 4000)}


class Kept(Executor[Any, Any]):
    """An executor that outlives the services that use it: its process takes longer to start than most tests."""

    def close(self, timeout: float = 5.0) -> None:
        """Leave the process be."""

    def end(self) -> None:
        """End the process."""
        super().close()


@pytest.fixture(scope="module")
def kept(presets: dict[int, Path]) -> Iterator[Kept]:
    executor = Kept.local([partial(refinement_targets.better, presets[3])])
    yield executor
    executor.end()


@dataclass
class Backend:
    """A backend with tiny models in a real model process."""

    service: Service
    database: Database
    executor: Executor[Any, Any]
    client: FlaskClient

    def post(self, path: str, body: Any = None) -> Any:
        response = self.client.post(path, json=body)
        assert response.status_code in (200, 201, 202), response.get_data(as_text=True)
        return response.get_json()

    def status(self, project: int = 1) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"/projects/{project}/refinement").get_json()
        return answer

    def ended(self, project: int = 1, count: int = 1) -> dict[str, Any]:
        """The status once so many refinements have ended and none is active."""

        def look() -> dict[str, Any] | None:
            status = self.status(project)
            return status if status["current"] is None and len(status["history"]) >= count else None

        found: dict[str, Any] = wait_until(look)
        return found

    def in_phase(self, phase: str, project: int = 1) -> dict[str, Any]:
        """The status once the refinement is in a phase."""

        def look() -> dict[str, Any] | None:
            status = self.status(project)
            assert status["current"] or not status["history"], status["history"]
            return status if (status["current"] or {}).get("phase", "").startswith(phase) else None

        found: dict[str, Any] = wait_until(look)
        return found


@dataclass
class World:
    """A data folder with corrections of films, and backends that are started on it one after the other."""

    root: Path
    presets: dict[int, Path]
    kept: Kept
    running: list[Service] = field(default_factory=list)

    @property
    def films(self) -> Path:
        return self.root / "films"

    def correct(self, numbers: range, project: int = 1) -> None:
        database = Database(self.root / "data" / "steerseg.sqlite")
        ProjectStore(database).save(
            project, uid=str(project), label_config=LABEL_CONFIG, hostname="", extra_params={}
        )
        add_corrections(database, project, self.films, numbers)
        database.close()

    def start(self, *, steps: int = 3, begin: bool = True, **settings: Any) -> Backend:
        given = {"data_dir": self.root / "data", "preset": str(self.presets[steps]), "refine_after": 0}
        chosen = Settings(**{**given, **settings})
        executor: Executor[Any, Any] = self.kept
        if steps != 3:
            executor = Executor.local([partial(refinement_targets.better, self.presets[steps])])
        service = build_service(
            chosen,
            executor=executor,
            loader=FilmLoader(self.films),
            base_version=VERSION,
            model="tiny",
        )
        self.running.append(service)
        if begin:
            service.start()
        return Backend(service, service.database, executor, create_app(service).test_client())

    def stop(self) -> None:
        while self.running:
            self.running.pop().close()


@pytest.fixture
def world(tmp_path: Path, presets: dict[int, Path], kept: Kept) -> Iterator[World]:
    made = World(tmp_path, presets, kept)
    made.correct(range(5))
    yield made
    made.stop()


def setup_body(hostname: str = "") -> dict[str, Any]:
    return {"project": "1.5", "schema": LABEL_CONFIG, "hostname": hostname, "extra_params": {}}


def predict_body(number: int = 0) -> dict[str, Any]:
    task = {"id": 10_000 + number, "data": {"film": f"film{number}", "expression": "the bright square"}}
    return {"tasks": [task], "project": "1.5", "label_config": LABEL_CONFIG, "params": {"context": None}}


def training_event(action: str = "START_TRAINING", minimum: int = 0) -> dict[str, Any]:
    return {"action": action, "project": {"id": 1, "min_annotations_to_start_training": minimum}}


# --- the way round


def test_start_training_makes_a_version_that_setup_names_and_predictions_use(world: World) -> None:
    backend = world.start()
    assert backend.post("/setup", setup_body()) == {"model_version": VERSION}
    before = backend.post("/predict", predict_body())
    backend.post("/webhook", training_event())
    status = backend.ended()
    (ended,) = status["history"]
    assert ended["state"] == "promoted", ended["reason"]
    assert ended["triggers"] == ["Start training"]
    assert "on 5 videos by cross-validation" in ended["reason"]
    version = f"{VERSION}+{status['champion']}"
    assert backend.post("/setup", setup_body()) == {"model_version": version}
    assert backend.client.get("/versions?project=1").get_json() == {
        "versions": [VERSION, version],
        "current": version,
    }
    after = backend.post("/predict", predict_body())
    assert (before["model_version"], after["model_version"]) == (VERSION, version)
    champion = backend.service.line.champion(1)
    assert champion is not None
    pair = SoftPromptCache().load(backend.service.line.ref(champion))
    assert pair is not None
    # The model process really worked with these prompts.
    path = ProposalStore(backend.database).find(ProposalKey("digest-of-film0", "the bright square", version))
    assert path is not None
    stored = backend.service.proposer._files.load(path)
    assert stored.versions["soft_prompts"] == pair.digest
    page = backend.client.get("/").get_data(as_text=True)
    assert "Refinements" in page
    assert "Start training" in page
    assert champion.name in page


def test_a_champion_whose_artefact_is_damaged_is_a_plain_error(world: World) -> None:
    backend = world.start()
    backend.post("/projects/1/refine")
    backend.ended()
    champion = backend.service.line.champion(1)
    assert champion is not None
    folder = backend.service.line.ref(champion).folder
    (folder / "soft_prompts.safetensors").write_bytes(b"damaged")
    pid = backend.executor.statuses[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # the process has them in memory
    answer = backend.post("/predict", predict_body())
    assert answer["results"] == [[]]
    assert "no soft prompts could be read" in answer["errors"]["10000"]
    backend.service.line.versions.roll_back(1)
    answer = backend.post("/predict", predict_body())
    assert answer["model_version"] == VERSION
    assert "no soft prompts" not in str(answer["errors"])


@EACH_DATABASE
def test_an_unknown_project_is_told_apart(world: World) -> None:
    backend = world.start()
    assert backend.client.post("/projects/7/refine").status_code == 404
    assert backend.client.get("/projects/7/refinement").status_code == 404
    assert backend.client.get("/projects/x/refinement").status_code == 400
    backend.post("/webhook", {"action": "START_TRAINING", "project": {"id": 7}})
    assert backend.service.refinements.latest() == []


# --- who makes way, and what a kill costs


def test_a_prediction_is_answered_while_a_training_goes_on(world: World) -> None:
    backend = world.start(steps=4000)
    backend.post("/projects/1/refine")
    first = backend.in_phase("training")["current"]["done"]
    for number in range(3):
        answer = backend.post("/predict", predict_body(number))
        assert answer["pending"] == []
    status = backend.status()
    assert status["current"]["state"] == "running"
    wait_until(lambda: backend.status()["current"]["done"] > first)
    assert backend.executor.statuses[0].restarts == 0


def test_a_refinement_is_a_job_that_is_cancelled_in_the_middle_of_its_training(world: World) -> None:
    backend = world.start(steps=4000)
    backend.post("/projects/1/refine")
    number = backend.in_phase("training")["current"]["id"]
    wait_until(lambda: backend.status()["current"]["done"] > 0)
    (job,) = backend.client.get("/jobs").get_json()["jobs"]
    assert (job["name"], job["kind"], job["state"]) == (f"refine-{number}", "refine", "running")
    assert job["message"].startswith("training fold-1, ")
    assert job["message"].endswith(" of 4000")
    assert f'action="/pages/jobs/refine-{number}/cancel"' in backend.client.get("/pages/jobs").get_data(True)
    backend.post("/webhook", training_event())  # remembered, so it is not lost with the one that runs
    backend.post(f"/jobs/refine-{number}/cancel")
    folder = world.root / "data" / "refinement" / str(number)
    wait_until(lambda: not folder.exists())
    second = backend.in_phase("training")["current"]
    assert second["triggers"] == ["Start training"]
    backend.post(f"/jobs/refine-{second['id']}/cancel")
    history = backend.ended(count=2)["history"]
    assert [one["state"] for one in history] == ["cancelled"] * 2
    assert backend.status()["champion"] is None
    again = backend.client.post(f"/jobs/refine-{number}/cancel")
    assert (again.status_code, "it has ended" in again.get_json()["error"]) == (409, True)
    assert backend.post("/predict", predict_body())["pending"] == [], "the model process is free again"
    assert backend.executor.statuses[0].restarts == 0


@EACH_DATABASE
def test_a_refinement_that_waits_is_cancelled_before_it_begins(world: World) -> None:
    backend = world.start(begin=False)
    number = backend.post("/projects/1/refine")["current"]["id"]
    backend.post(f"/jobs/refine-{number}/cancel")
    backend.service.start()
    (ended,) = backend.ended()["history"]
    assert (ended["state"], ended["started_at"]) == ("cancelled", None)


def test_a_killed_model_process_and_a_stopped_server_are_survived(world: World) -> None:
    """That it ends with the very same version is tested without the waiting for processes to start."""
    backend = world.start(steps=12)
    backend.post("/projects/1/refine")
    for phase in ("preparing", "training fold-2"):
        backend.in_phase(phase)
        pid = backend.executor.statuses[0].pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    backend.in_phase("training fold-3")
    world.stop()
    backend = world.start(steps=12)
    (ended,) = backend.ended()["history"]
    assert ended["state"] == "promoted", ended["reason"]
    champion = backend.service.line.champion(1)
    assert champion is not None
    assert SoftPromptCache().load(backend.service.line.ref(champion)) is not None


def test_of_two_servers_with_one_data_folder_one_refines(world: World) -> None:
    first = world.start()
    wait_until(lambda: not first.service.refinements.elsewhere)
    second = world.start()
    second.post("/projects/1/refine")
    assert second.ended()["history"][0]["state"] == "promoted"
    assert second.service.refinements.elsewhere
    assert not first.service.refinements.elsewhere


def test_a_refinement_that_cannot_be_done_fails_with_the_reason(world: World) -> None:
    backend = world.start()
    features = world.root / "data" / "refinement" / "features"
    features.parent.mkdir(parents=True, exist_ok=True)
    features.write_text("in the way")
    backend.post("/projects/1/refine")
    (ended,) = backend.ended()["history"]
    assert ended["state"] == "failed"
    assert "cannot write to" in ended["reason"] or "Not a directory" in ended["reason"]
    assert backend.status()["champion"] is None
    assert ended["reason"] in backend.client.get("/").get_data(as_text=True).replace("&#39;", "'")


# --- triggers


def test_a_trigger_while_one_runs_is_remembered(world: World) -> None:
    backend = world.start(begin=False)
    first = backend.post("/projects/1/refine")["current"]
    assert backend.post("/projects/1/refine")["current"]["id"] == first["id"]
    backend.service.start()
    wait_until(lambda: (backend.status()["current"] or {}).get("state") == "running")
    backend.post("/webhook", training_event())
    history = backend.ended(count=2)["history"]
    assert [one["triggers"] for one in history] == [["Start training"], ["a request"]]
    # The second has nothing new to learn, and goes over what the champion knows.
    assert history[0]["champion_id"] is not None


def test_enough_corrections_begin_one_and_label_studios_number_comes_first(world: World) -> None:
    backend = world.start(begin=False, refine_after=8)
    triggers = backend.service.triggers
    triggers.corrected(1)
    assert backend.status()["new_corrections"] == 5
    assert backend.status()["current"] is None
    # The switch in Label Studio's settings says 1, which is no number of its own.
    backend.post("/webhook", training_event("PROJECT_UPDATED", minimum=1))
    backend.service.ingestor.catch_up()
    assert triggers.threshold(1) == 8
    backend.post("/webhook", training_event("PROJECT_UPDATED", minimum=6))
    backend.service.ingestor.catch_up()
    assert triggers.threshold(1) == 6
    correct(backend.database, 1, 50, save_film(world.films / "film50", 50))
    triggers.corrected(1)
    current = backend.status()["current"]
    assert current["triggers"] == ["6 corrections"]
    triggers.corrected(1)
    assert backend.status()["current"]["triggers"] == ["6 corrections"]
    backend.service.start()
    assert backend.ended()["new_corrections"] == 0
    triggers.corrected(1)
    assert backend.status()["current"] is None


@EACH_DATABASE
def test_the_number_of_corrections_can_be_switched_off(world: World) -> None:
    backend = world.start(begin=False, refine_after=0)
    backend.service.triggers.corrected(1)
    assert backend.status()["current"] is None
    backend.post("/webhook", training_event("PROJECT_UPDATED", minimum=1))
    backend.service.ingestor.catch_up()
    assert backend.service.triggers.threshold(1) == 1  # somebody asked for it in Label Studio


def test_the_clock_begins_one_where_there_are_new_corrections(world: World) -> None:
    world.correct(range(0), project=2)
    backend = world.start(refine_schedule="1000h")
    assert backend.ended()["history"][0]["triggers"] == ["the schedule"]
    assert backend.status(project=2)["history"] == []
    assert backend.status(project=2)["current"] is None


@pytest.mark.parametrize(
    ("text", "hours", "due"),
    [("6h", 5.9, False), ("6h", 6.1, True), ("0.5h", 0.6, True), ("0.5h", 0.4, False)],
)
def test_hours_count_from_the_last_time(text: str, hours: float, due: bool) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    schedule = Schedule.parse(text)
    assert schedule.due(now - timedelta(hours=hours), now) is due
    assert schedule.due(None, now)


def test_a_time_of_day_that_was_missed_is_made_up_for() -> None:
    schedule = Schedule.parse("02:30")
    here = datetime(2026, 11, 22, 12).astimezone()
    assert not schedule.due(here.replace(hour=3), here)
    assert schedule.due(here.replace(hour=2), here)
    assert schedule.due(here - timedelta(days=3), here)
    early = here.replace(hour=1)
    assert not schedule.due(early - timedelta(hours=5), early)
    assert schedule.due(early - timedelta(hours=23), early)


@pytest.mark.parametrize("text", ["soon", "25:00", "2:60", "0h", "-1h", ""])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="02:30"):
        Schedule.parse(text)


# --- predicting anew


def test_tasks_without_annotations_are_predicted_anew_the_least_certain_first(
    world: World, fake_label_studio: FakeLabelStudio
) -> None:
    backend = world.start(
        begin=False, label_studio_url=fake_label_studio.url, label_studio_api_key="0123456789abcdef0123"
    )
    for number in range(4):
        backend.post("/predict", predict_body(number))
        fake_label_studio.tasks.append(
            {
                **predict_body(number)["tasks"][0],
                "total_predictions": 0 if number == 3 else 2,
                "total_annotations": 1 if number == 1 else 0,
                "is_labeled": number == 1,
            }
        )
    key = ProposalKey("digest-of-film0", "the bright square", VERSION)
    path = ProposalStore(backend.database).find(key)
    assert path is not None
    # Task 10002 is the surer one: its two candidates are far from each other.
    for number, margin in ((0, 0.01), (2, 0.3)):
        ProposalStore(backend.database).add(
            ProposalKey(f"digest-of-film{number}", "the bright square", VERSION),
            project_id=1,
            task_id=10_000 + number,
            path=path,
            score=0.5,
            margin=margin,
        )
    assert {
        k: v for k, v in ProposalStore(backend.database).certainties(1).items() if k in (10_000, 10_002)
    } == {
        10_000: 0.01,
        10_002: 0.3,
    }
    asked: list[tuple[int, str]] = []
    predict = backend.service.deliverer.predict_again

    def noted(project: Any, task: Any, version: str) -> Any:
        asked.append((task.id, version))
        return predict(project, task, version)

    backend.service.deliverer.predict_again = noted
    backend.service.start()
    backend.post("/projects/1/refine")
    version = f"{VERSION}+{backend.ended()['champion']}"
    wait_until(
        lambda: (ProjectStore(backend.database).find(1) or Any).repredicted == version.partition("+")[2]
    )
    # 10001 is annotated, and 10003 was never predicted: Label Studio asks for it when it is opened.
    assert asked == [(10_000, version), (10_002, version)]
    pushed = {p["task"] for p in fake_label_studio.predictions if p["model_version"] == version}
    assert pushed <= {10_000, 10_002}


def test_a_rollback_is_followed_as_well(world: World, fake_label_studio: FakeLabelStudio) -> None:
    backend = world.start(label_studio_url=fake_label_studio.url, label_studio_api_key="0123456789abcdef0123")
    backend.post("/projects/1/refine")
    champion = backend.ended()["champion"]
    project = wait_until(lambda: (p := ProjectStore(backend.database).find(1)) and p.repredicted and p)
    assert project.repredicted == champion
    backend.service.line.versions.roll_back(1)
    wait_until(lambda: (p := ProjectStore(backend.database).find(1)) and p.repredicted == "")


def test_what_was_decided_is_there_after_a_restart(world: World) -> None:
    backend = world.start()
    backend.post("/projects/1/refine")
    status = backend.ended()
    json.dumps(status)
    world.stop()
    reopened = world.start(begin=False)
    assert reopened.status() == status
    assert reopened.service.refinements.latest()[0].state is RefinementState.PROMOTED
