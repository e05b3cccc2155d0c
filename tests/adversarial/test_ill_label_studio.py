"""What was promised to Label Studio arrives once, however ill Label Studio is meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ml_backend.database.events import EventStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.task import Task
from ml_backend.predictions import deliveries as deliveries_module
from ml_backend.predictions import late as late_module
from ml_backend.predictions.deliveries import Deliveries, Delivery, WaitingDelivery, retry_delay
from tests.adversarial.support_storms import ILLNESSES, IllLabelStudio, ill_label_studio
from tests.support.backend import VERSION, Backend, MakeBackend, recorded

pytestmark = pytest.mark.timeout(240)

PROMISED = 9  # tasks at a time


def until(condition: Callable[[], Any]) -> Any:
    while not (value := condition()):
        time.sleep(0.02)
    return value


@pytest.fixture
def label_studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[IllLabelStudio]:
    """One whose clients wait, and try again, in fractions of a second."""
    monkeypatch.setattr(LabelStudioClient.__init__, "__defaults__", (0.5,))
    monkeypatch.setattr(deliveries_module, "FIRST_RETRY", 0.2)
    monkeypatch.setattr(late_module, "_INTERVAL", 0.1)
    with ill_label_studio() as served:
        yield served


def body_of(first: int, number: int = PROMISED, expression: str = "the ball") -> dict[str, Any]:
    body = recorded("predict_batch_video")
    like = body["tasks"][-1]
    tasks = [
        {
            **like,
            "id": first + i,
            "data": {"video": f"/data/upload/{first + i}.mp4", "fps": 25, "expr": expression},
        }
        for i in range(number)
    ]
    return {**body, "tasks": tasks}


def project_of(body: dict[str, Any]) -> int:
    return int(str(body["project"]).partition(".")[0])


def promise(backend: Backend, body: dict[str, Any]) -> None:
    """Ask for predictions that cannot be ready in time."""
    assert len(backend.post("/predict", body)["pending"]) == len(body["tasks"])


def waiting(backend: Backend, body: dict[str, Any]) -> list[WaitingDelivery]:
    tasks = {task["id"] for task in body["tasks"]}
    return [one for one in Deliveries(backend.database, 1).waiting() if one.key.task_id in tasks]


def serve(make: MakeBackend, label_studio: IllLabelStudio) -> Backend:
    """A backend that answers before any prediction can be ready."""
    backend = make(
        label_studio_url=label_studio.url, label_studio_api_key="abc", predict_timeout=0.001, repredict=False
    )
    body = body_of(1)
    backend.post("/setup", {**recorded("setup"), "project": body["project"], "schema": body["label_config"]})
    backend.service.deliverer.loop.start()
    return backend


def test_every_promise_outlives_every_illness(
    make_backend: MakeBackend, label_studio: IllLabelStudio
) -> None:
    backend = serve(make_backend, label_studio)
    for number, name in enumerate(ILLNESSES, start=1):
        outlives(backend, label_studio, name, body_of(1000 * number))
    assert backend.client.get("/health").get_json()["status"] == "UP"


def outlives(backend: Backend, label_studio: IllLabelStudio, name: str, body: dict[str, Any]) -> None:
    """Promise predictions to a Label Studio that is ill, look at what is shown meanwhile, and let it get well."""
    tasks = {task["id"] for task in body["tasks"]}
    label_studio.illness = ILLNESSES[name]
    promise(backend, body)
    ill = until(lambda: len(found := waiting(backend, body)) == PROMISED and found)
    assert all(one.error and not one.refused and one.attempts for one in ill), name
    page = backend.client.get(f"/pages/projects/{project_of(body)}").get_data(as_text=True)
    assert "Predictions that wait for Label Studio" in page
    assert str(min(tasks)) in page
    until(lambda: any(one.attempts > 1 for one in waiting(backend, body)))

    label_studio.illness = None
    until(lambda: not waiting(backend, body) and tasks <= label_studio.counts().keys())
    assert {label_studio.counts()[task] for task in tasks} == {2}, f"{name}: each with its two predictions"


def test_promises_and_their_errors_survive_a_restart(
    make_backend: MakeBackend, label_studio: IllLabelStudio
) -> None:
    label_studio.illness = ILLNESSES["401"]
    first = serve(make_backend, label_studio)
    body = body_of(1000)
    promise(first, body)
    before = until(lambda: len(found := waiting(first, body)) == PROMISED and found)
    first.service.close()

    second = serve(make_backend, label_studio)
    assert {one.key for one in waiting(second, body)} == {one.key for one in before}
    assert all("the token is not accepted" in one.error for one in waiting(second, body))
    label_studio.illness = None
    until(lambda: not waiting(second, body) and len(label_studio.counts()) == PROMISED)
    assert set(label_studio.counts().values()) == {2}


def test_only_what_is_said_of_the_task_itself_ends_its_delivery(
    make_backend: MakeBackend, label_studio: IllLabelStudio
) -> None:
    backend = serve(make_backend, label_studio)
    body = body_of(1000, 3)
    label_studio.gone, label_studio.picky = {1000}, {1001}
    promise(backend, body)
    until(lambda: label_studio.counts() == {1002: 2})
    (refused,) = until(lambda: [one for one in waiting(backend, body) if one.refused])
    assert refused.key.task_id == 1001
    assert "Invalid pk" in refused.error
    until(lambda: len(Deliveries(backend.database, 1).unclaimed()) == 0)
    until(lambda: backend.service.deliverer.waiting == 1)
    metrics = backend.client.get("/metrics").get_data(as_text=True)
    assert "steerseg_deliveries_waiting 1.0" in metrics
    page = backend.client.get(f"/pages/projects/{project_of(body)}").get_data(as_text=True)
    assert "none; refused" in page

    label_studio.picky = set()
    time.sleep(0.5)
    assert label_studio.counts() == {1002: 2}, "nobody asked for it again"
    backend.service.deliverer.try_again(project_of(body), refused=True)
    until(lambda: label_studio.counts() == {1001: 2, 1002: 2})
    until(lambda: not waiting(backend, body))


def test_attempts_come_seldom_and_a_clock_that_is_set_back_stops_none(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [retry_delay(n).total_seconds() for n in (1, 2, 3, 9, 10**6)] == [
        30.0,
        60.0,
        120.0,
        3600.0,
        3600.0,
    ]
    deliveries = Deliveries(make_backend().database, 9)
    one = Delivery(1, Task(5, {}), VERSION)
    deliveries.admit([one])
    deliveries.postpone([one.key], ValueError("ill"))
    assert deliveries.unclaimed() == [one]
    assert deliveries.unclaimed(due=True) == []
    monkeypatch.setattr(deliveries_module, "LONGEST_RETRY", 1.0)  # as if the attempt lay far in the future
    assert deliveries.unclaimed(due=True) == [one]


def test_what_could_not_be_read_is_shown_counted_and_taken_again(make_backend: MakeBackend) -> None:
    backend = make_backend()
    body = body_of(1)
    number = project_of(body)
    backend.post("/setup", {**recorded("setup"), "project": body["project"], "schema": body["label_config"]})
    # The door refuses it today; an earlier release stored it.
    event = {"project": {"id": number, "min_annotations_to_start_training": 2**63}}
    EventStore(backend.service.database).add("PROJECT_UPDATED", number, event)
    backend.service.start()
    until(lambda: backend.client.get("/health").get_json()["set_aside"] == 1)
    assert "steerseg_set_aside 1.0" in backend.client.get("/metrics").get_data(as_text=True)
    address = f"/pages/projects/{number}"
    page = backend.client.get(address).get_data(as_text=True)
    assert "Events and annotations that could not be read" in page
    assert "event 1" in page
    token = page.partition('name="csrf')[2].partition('value="')[2].partition('"')[0]
    field = "csrf" + page.partition('name="csrf')[2].partition('"')[0]
    answer = backend.client.post(f"{address}/take-again", data={field: token})
    assert answer.status_code == 303
    until(lambda: backend.client.get("/health").get_json()["set_aside"] == 1)
