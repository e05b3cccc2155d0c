"""A task that is submitted while its proposal takes longer than a call: the annotation stays, the proposal follows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.interactive.store import UNKNOWN, TaskStateKey, TaskStateStore
from ml_backend.predictions.deliveries import Deliveries
from ml_backend.predictions.results import expression_of
from tests.support.annotator import TASK, Annotator
from tests.support.backend import VERSION, Backend, FakeLabelStudio, MakeBackend, recorded
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(120)
Result = dict[str, Any]
PROJECT = 2


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The model process goes on when this file is there."""
    return tmp_path / "release"


def start(make_backend: MakeBackend, fake: FakeLabelStudio, **settings: Any) -> Backend:
    given = {"predict_timeout": 0.3, **settings}
    return make_backend(label_studio_url=fake.url, label_studio_api_key="abc", **given)


def typed(text: str) -> Result:
    expression = {"id": "e", "from_name": "expression", "to_name": "frames", "type": "textarea"}
    return {**expression, "value": {"text": [text]}}


def drawn() -> Result:
    """One page as its annotator drew it."""
    first: Result = recorded("webhook_annotation_created_frames_brush")["annotation"]["result"][0]
    return {**first, "id": "mine", "origin": "manual"}


def submit(annotator: Annotator, fake: FakeLabelStudio, results: list[Result]) -> list[Result]:
    """Let Label Studio have an annotation and send its event; return what it has."""
    event = recorded("webhook_annotation_created_frames_brush")
    event["annotation"] |= {"task": TASK, "completed_by": annotator.number, "result": results}
    event["task"] |= {"id": TASK, "data": annotator.body["tasks"][0]["data"]}
    event["project"]["label_config"] = annotator.body["label_config"]
    fake.annotations[:] = [{**event["annotation"], "was_cancelled": False}]
    annotator.backend.post("/webhook", event)
    annotator.backend.service.ingestor.catch_up()
    return results


def await_prediction(backend: Backend, fake: FakeLabelStudio, expression: str) -> None:
    wait_until(lambda: len(fake.predictions) == 2 and not Deliveries(backend.database, 9).unclaimed())
    found = {(one["task"], one["model_version"], expression_of(one["result"])) for one in fake.predictions}
    assert found == {(TASK, VERSION, expression)}


def test_the_annotation_stays_and_the_proposal_becomes_a_prediction(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, release: Path
) -> None:
    backend = start(make_backend, fake_label_studio)
    backend.service.deliverer.loop.start()
    annotator = Annotator(backend)
    annotator.type(f"wait {release}")
    assert annotator.status.startswith("Still working: ")
    assert annotator.status.endswith("If you submit before, it comes as a prediction.")
    results = submit(annotator, fake_label_studio, [drawn(), typed(f"wait {release}")])
    (pending,) = CompletionStore(backend.database).pending(PROJECT)
    assert (pending.decision.expression, pending.decision.problem) == (f"wait {release}", None)
    release.touch()
    await_prediction(backend, fake_label_studio, f"wait {release}")
    assert fake_label_studio.annotations[0]["result"] == results, "nobody has looked at the proposal"


def test_servers_that_restart_in_between_deliver_it_all_the_same(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, release: Path
) -> None:
    asked = start(make_backend, fake_label_studio)
    annotator = Annotator(asked)
    annotator.type(f"wait {release}")
    asked.service.close()

    told = start(make_backend, fake_label_studio)
    annotator.backend = told
    submit(annotator, fake_label_studio, [drawn(), typed(f"wait {release}")])
    told.service.close()

    release.touch()
    last = start(make_backend, fake_label_studio)
    last.service.start()
    await_prediction(last, fake_label_studio, f"wait {release}")


def test_a_submission_during_a_call_that_ends_too_early_counts_as_well(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, release: Path
) -> None:
    backend = start(make_backend, fake_label_studio, predict_timeout=5.0)
    backend.service.deliverer.loop.start()
    annotator = Annotator(backend)
    asking = threading.Thread(target=annotator.type, args=(f"wait {release}",))
    asking.start()
    wait_until(Path(f"{release}.started").exists)
    submit(annotator, fake_label_studio, [typed(f"wait {release}")])
    asking.join()
    assert "Still working" in annotator.status
    assert TaskStateStore(backend.database).unanswered(PROJECT, TASK, UNKNOWN) == ()
    release.touch()
    await_prediction(backend, fake_label_studio, f"wait {release}")


def test_who_gets_the_answer_after_all_is_sent_no_second_one(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, release: Path
) -> None:
    backend = start(make_backend, fake_label_studio)
    annotator = Annotator(backend)
    annotator.type(f"wait {release}")
    states = TaskStateStore(backend.database)
    assert states.unanswered(PROJECT, TASK, annotator.number) == (f"wait {release}",)
    known = states.get(TaskStateKey(PROJECT, TASK, annotator.number, "frames"))
    assert known.message == annotator.status, "a draft that shows it is younger than the answer"
    release.touch()

    def ask_again() -> bool:
        annotator.type(f"wait {release}")
        return not annotator.status.startswith("Still working")

    wait_until(ask_again)
    assert states.unanswered(PROJECT, TASK, annotator.number) == ()
    submit(annotator, fake_label_studio, [*annotator.draft.values(), typed(f"wait {release}")])
    assert Deliveries(backend.database, 9).unclaimed() == []
