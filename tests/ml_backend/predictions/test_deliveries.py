"""What Label Studio was promised arrives once, whoever dies meanwhile; what is too much is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.database.database import Database
from ml_backend.database.tables import JobState
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.task import Task
from ml_backend.predictions.deliveries import Deliveries, Delivery, QueueFullError
from tests.support.backend import VERSION, Backend, FakeLabelStudio, MakeBackend, recorded
from tests.support.databases import EACH_DATABASE, ONLY_SQLITE

pytestmark = [pytest.mark.timeout(240), EACH_DATABASE]
ROOT = Path(__file__).parents[3]
TASKS = 200


def wait_until(condition: Callable[[], Any]) -> Any:
    while not (value := condition()):
        time.sleep(0.01)
    return value


def batch_of(expressions: list[str], first: int = 1000) -> dict[str, Any]:
    """A /predict body with one task for each expression, each of its own video."""
    body = recorded("predict_batch_video")
    like = body["tasks"][-1]
    tasks = [
        {**like, "id": first + i, "data": {"video": f"/data/upload/{i}.mp4", "fps": 25, "expr": expression}}
        for i, expression in enumerate(expressions)
    ]
    return {**body, "tasks": tasks}


def introduce(backend: Backend, body: dict[str, Any], label_studio: FakeLabelStudio) -> None:
    setup = {**recorded("setup"), "project": body["project"], "schema": body["label_config"]}
    backend.post("/setup", {**setup, "hostname": label_studio.url, "access_token": "abc"})


@contextlib.contextmanager
def served(
    data: Path, label_studio: FakeLabelStudio, body: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A backend in a process of its own, killed in the end as by a power cut."""
    command = [
        sys.executable,
        "-m",
        "tests.support.delivery_driver",
        str(data),
        label_studio.url,
        *([str(body)] if body else []),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("up")
        yield process
    finally:
        process.kill()
        process.wait()


def worker_of(server: subprocess.Popen[str]) -> int | None:
    """The model process of a server: its child that keeps itself behind the server by its niceness."""
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
    return None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the model process by /proc")
@ONLY_SQLITE
def test_a_batch_of_200_survives_the_death_of_server_and_worker(
    fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    data, body = tmp_path / "data", tmp_path / "body.json"
    body.write_text(json.dumps(batch_of([f"the ball number {i}" for i in range(TASKS)])))
    stored = fake_label_studio.predictions
    with served(data, fake_label_studio, body):
        wait_until(lambda: len(stored) >= 10)
    with served(data, fake_label_studio) as server:
        wait_until(lambda: len(stored) >= 60)
        os.kill(wait_until(lambda: worker_of(server)), signal.SIGKILL)
        wait_until(lambda: len(stored) >= 110)
    with served(data, fake_label_studio), sqlite3.connect(data / "steerseg.sqlite") as database:
        wait_until(lambda: database.execute("SELECT count(*) FROM deliveries").fetchone() == (0,))
        counts = Counter(prediction["task"] for prediction in stored)
        assert counts == dict.fromkeys(range(1000, 1000 + TASKS), 1)
        assert {prediction["model_version"] for prediction in stored} == {VERSION}
        still_open = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
        wait_until(lambda: database.execute(still_open).fetchone() == (0,))


def test_a_job_goes_on_under_its_own_number(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    body = batch_of([f"wait {release}"])
    backend = make_backend(predict_timeout=0.3)
    introduce(backend, body, fake_label_studio)
    assert backend.post("/predict", body)["pending"] == [1000]
    wait_until(Path(f"{release}.started").exists)
    backend.service.close()
    assert fake_label_studio.predictions == []

    release.touch()
    again = make_backend(
        label_studio_url=fake_label_studio.url, label_studio_api_key="abc", predict_timeout=0.3
    )
    (job,) = JobStore(again.database).newest()
    assert (job.state, job.expression, job.version) == (JobState.QUEUED, f"wait {release}", VERSION)
    again.service.start()
    wait_until(lambda: len(fake_label_studio.predictions) == 2)
    wait_until(lambda: JobStore(again.database).newest()[0].state is JobState.DONE)
    (job,) = JobStore(again.database).newest()
    assert job.attempts == 1, "an orderly end of the server is no failed attempt"


@ONLY_SQLITE
def test_an_annotator_presses_enter_again_after_the_server_was_killed(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    body, release = recorded("predict_interactive_text_frames"), tmp_path / "release"
    status = '<TextArea name="status" toName="frames" maxSubmissions="0"/></View>'
    body["label_config"] = body["label_config"].replace("</View>", status)
    body["params"]["context"]["result"][0]["value"]["text"] = [f"wait {release}"]
    file = tmp_path / "body.json"
    file.write_text(json.dumps(body))
    with served(tmp_path / "data", fake_label_studio, file):
        wait_until(Path(f"{release}.started").exists)

    again = make_backend(predict_timeout=0.3)
    (cut_off,) = JobStore(again.database).newest()
    assert cut_off.state is JobState.FAILED
    assert "begins anew when it is asked for again" in (cut_off.error or "")
    (item,) = again.post("/predict", body)["results"]
    assert "Still working" in item["result"][-1]["value"]["text"][0]
    release.touch()

    def pages() -> set[int]:
        (item,) = again.post("/predict", body)["results"]
        return {region["item_index"] for region in item["result"] if "item_index" in region}

    wait_until(lambda: pages() == set(range(10)))
    states = [JobState.DONE, JobState.FAILED]
    wait_until(lambda: [job.state for job in JobStore(again.database).newest()] == states)


@ONLY_SQLITE
def test_a_job_that_had_its_proposal_when_the_server_died_is_done(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio
) -> None:
    body = batch_of(["the ball", "the cube"])
    backend = make_backend()
    introduce(backend, body, fake_label_studio)
    assert backend.post("/predict", body)["results"]
    done, other = (job for job in reversed(JobStore(backend.database).newest()))
    backend.service.close()
    # The moment after the first proposal is on disk and before its job says so; the second was for other words.
    owed = [Delivery(1, Task(task["id"], task["data"]), VERSION) for task in body["tasks"]]
    with sqlite3.connect(backend.service.settings.database) as database:
        database.execute("UPDATE jobs SET state = 'running', finished_at = NULL")
        database.execute("UPDATE jobs SET key = 'of other words' WHERE id = ?", (other.id,))
    Deliveries(backend.database, 9).admit(owed)

    again = make_backend(label_studio_url=fake_label_studio.url, label_studio_api_key="abc")
    assert {job.state for job in JobStore(again.database).newest()} == {JobState.QUEUED}
    again.service.start()
    wait_until(lambda: not Deliveries(again.database, 9).unclaimed())
    assert {prediction["task"] for prediction in fake_label_studio.predictions} == {1000, 1001}
    states = {job.id: job.state for job in JobStore(again.database).newest()}
    assert states == {done.id: JobState.DONE, other.id: JobState.CANCELLED}


def test_what_kills_the_server_again_and_again_is_given_up(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio
) -> None:
    body = batch_of(["the ball"])
    backend = make_backend(max_attempts=2)
    introduce(backend, body, fake_label_studio)
    task = Task(1000, body["tasks"][0]["data"])
    Deliveries(backend.database, 9).admit([Delivery(1, task, VERSION)])
    key = "of the job"
    job = JobStore(backend.database).add(
        "propose", key, project_id=1, task_id=1000, priority=1, version=VERSION
    )
    JobStore(backend.database).update(job, stage="tracking", fraction=0.5, attempts=4)
    backend.service.close()
    (given_up,) = JobStore(make_backend(max_attempts=2).database).newest()
    assert given_up.state is JobState.FAILED
    assert "the server ended 4 times" in (given_up.error or "")


def test_bad_input_is_not_tried_again(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    body = batch_of([f"wait {release}", "unreadable"])
    backend = make_backend(predict_timeout=0.3)
    introduce(backend, body, fake_label_studio)
    backend.post("/predict", body)
    release.touch()
    wait_until(lambda: len(fake_label_studio.predictions) == 2)
    deliveries = Deliveries(backend.database, 9)
    wait_until(lambda: deliveries.unclaimed() == [])
    (failed,) = [job for job in JobStore(backend.database).newest() if job.state is JobState.FAILED]
    assert failed.attempts == 1


def test_a_full_queue_says_when_to_come_back(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    backend = make_backend(predict_timeout=0.3, max_queue=3)
    body = batch_of([f"wait {release}", "b", "c", "d"])
    introduce(backend, body, fake_label_studio)
    assert len(backend.post("/predict", body)["pending"]) == 4, "an empty queue takes any batch"
    refused = backend.client.post("/predict", json=batch_of(["e"], first=2000))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
    assert "the queue is full" in refused.get_json()["error"]
    assert backend.post("/predict", body)["pending"], "those that wait already may be asked for again"
    release.touch()
    wait_until(lambda: len(fake_label_studio.predictions) == 8)
    wait_until(lambda: Deliveries(backend.database, 9).unclaimed() == [])
    assert backend.post("/predict", batch_of(["e"], first=2000))["errors"] == {}


def test_deliveries_are_noted_once_and_all_or_none(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.sqlite")
    deliveries = Deliveries(database, 2)
    one, two, three = (Delivery(1, Task(number, {"a": number}), "v") for number in (1, 2, 3))
    deliveries.admit([one])
    with pytest.raises(QueueFullError, match="full"):
        deliveries.admit([two, three])
    deliveries.admit([one, two])
    assert deliveries.unclaimed() == []
    deliveries.postpone([one.key])
    assert [delivery.task.id for delivery in deliveries.unclaimed()] == [1]
    assert deliveries.claim(one)
    assert not deliveries.claim(one)
    deliveries.complete([one.key, two.key, three.key])
    assert Deliveries(database, 2).unclaimed() == []
