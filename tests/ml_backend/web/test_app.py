"""The HTTP side: what Label Studio 1.23.2 was recorded to send, bad requests, and who may ask."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.database.events import EventStore, StoredEvent
from ml_backend.database.projects import ProjectStore
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.results import instance_id
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.models.affinity import Sighting
from ml_backend.models.job_observer import SilentObserver
from ml_backend.models.queue import ModelJob
from ml_backend.web.pages.queries import list_proposals
from tests.support.backend import (
    FIXTURES,
    VERSION,
    Backend,
    FakeLabelStudio,
    MakeBackend,
    NamedMedia,
    recorded,
)
from tests.support.requests import introduce, wait_until, with_expression

pytestmark = pytest.mark.timeout(120)

WEBHOOKS = sorted(path.stem for path in FIXTURES.glob("webhook_*.json"))
SERIES = instance_id(5, "", 0).partition("-")[2]
INTERACTIVE = sorted(path.stem for path in FIXTURES.glob("predict_interactive_*.json"))


def as_list(item: Any) -> list[dict[str, Any]]:
    return [item] if isinstance(item, dict) else item


# --- what was recorded


def test_health_is_up_without_any_model(backend: Backend) -> None:
    answer = backend.client.get("/health").get_json()
    assert answer["status"] == "UP"
    assert answer["workers"][0]["state"] == "stopped"


def test_setup_names_the_version_and_keeps_the_project_without_its_token(backend: Backend) -> None:
    body = {**recorded("setup"), "access_token": "a-secret-token"}
    assert backend.post("/setup", body) == {"model_version": VERSION}
    project = ProjectStore(backend.database).find(1)
    assert project is not None
    assert project.hostname == "http://127.0.0.1:8080"
    assert project.extra_params == {"threshold": 0.5, "note": "hello"}
    for file in backend.service.settings.data_dir.rglob("*"):
        if file.is_file():
            assert b"a-secret-token" not in file.read_bytes()


def test_a_batch_gets_ranked_alternatives_for_each_task(backend: Backend) -> None:
    body = introduce(backend)
    answer = backend.post("/predict", body)
    assert len(answer["results"]) == len(body["tasks"])
    # The first task has no expression: nothing may be stored for it, and an empty list stores nothing.
    assert answer["results"][0] == []
    assert "no 'expr'" in answer["errors"]["1"]
    interface = LabelInterface(body["label_config"])
    for item in answer["results"][1:]:
        predictions = as_list(item)
        assert [prediction["score"] for prediction in predictions] == [0.5, 0.8]
        for prediction in predictions:
            assert prediction["model_version"] == VERSION
            assert prediction["result"][0]["type"] == "videorectangle"
            assert interface.validate_prediction(prediction, return_errors=True) == []
    texts = [as_list(item)[0]["result"][0]["meta"]["text"] for item in answer["results"][1:]]
    assert texts == [
        ["the red ball", " — attributes: red, moving right"],
        ["green box", " — attributes: red, moving right"],
    ]


def test_scores_stay_where_label_studio_takes_them(backend: Backend) -> None:
    body = with_expression(introduce(backend), "unlike anything")
    predictions = as_list(backend.post("/predict", body)["results"][0])
    assert [prediction["score"] for prediction in predictions] == [0.0, 0.0]
    interface = LabelInterface(body["label_config"])
    assert all(interface.validate_prediction(p, return_errors=True) == [] for p in predictions)


def test_a_frames_task_gets_a_mask_on_every_page_that_shows_the_object(backend: Backend) -> None:
    body = introduce(backend, "predict_interactive_text_frames")
    body["params"]["context"] = None
    best = as_list(backend.post("/predict", body)["results"][0])[-1]
    *regions, expression = best["result"]
    assert [region["item_index"] for region in regions] == list(range(10))
    assert {region["type"] for region in regions} == {"brushlabels"}
    assert (expression["from_name"], expression["value"]["text"]) == ("expression", ["red ball 2"])
    assert LabelInterface(body["label_config"]).validate_prediction(best, return_errors=True) == []


def test_one_alternative_is_one_prediction(make_backend: MakeBackend) -> None:
    backend = make_backend(alternatives=1)
    answer = backend.post("/predict", introduce(backend))
    assert isinstance(answer["results"][1], dict)


@pytest.mark.parametrize("name", INTERACTIVE)
def test_an_interactive_call_gets_one_result(backend: Backend, name: str) -> None:
    answer = backend.post("/predict", introduce(backend, name))
    (item,) = answer["results"]
    assert item["model_version"] == VERSION
    if "text" in name:
        assert item["score"] == 0.8
        assert item["result"][0]["meta"]["text"][0] == ("green square" if "video" in name else "green box")
    elif "region" in name:
        # The text beside a box track is about that track: same region, same label, the text still beside it.
        track, text = item["result"]
        assert {track["id"], text["id"]} == {"trk1"}
        assert track["value"]["labels"] == ["object"]
        assert track["meta"]["text"][0] == "a per region phrase" == text["value"]["text"][0]
    else:
        assert {region["id"].split("-f")[0] for region in item["result"]} <= {"t5-" + SERIES}


def test_the_spurious_call_after_a_submit_gives_nothing_to_do(backend: Backend) -> None:
    body = introduce(backend, "predict_interactive_text_video")
    body["params"]["context"]["result"] = []
    answer = backend.post("/predict", body)
    assert answer["results"] == [{"result": [], "score": 0.0, "model_version": VERSION}]
    assert JobStore(backend.database).newest() == []


def test_a_further_text_replaces_the_regions_of_the_first(backend: Backend) -> None:
    body = introduce(backend, "predict_interactive_text_frames")
    value = body["params"]["context"]["result"][0]["value"]
    first = backend.post("/predict", body)["results"][0]["result"]
    value["text"] = [*value["text"], "the other ball"]
    second = backend.post("/predict", body)["results"][0]["result"]
    assert [region["id"] for region in first] == [region["id"] for region in second]
    # Nor do they lie over what the task was opened with, whichever of the candidates that was.
    body["params"]["context"] = None
    for stored in as_list(backend.post("/predict", body)["results"][0]):
        pages = [region for region in stored["result"] if region["type"] == "brushlabels"]
        assert {one["id"] for one in first if one["type"] == "brushlabels"} <= {one["id"] for one in pages}
    (shown, *_) = (region for region in second if region["type"] == "brushlabels")
    assert shown["meta"]["text"][0] == "the other ball"


STATUS = '<TextArea name="status" toName="frames" maxSubmissions="0"/>'


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (
            "the ball",
            "Object 1 is “the ball”, tracked on 10 of 12 frames (score 0.80); not visible on 11–12.",
        ),
        (
            "nothing here",
            "Nothing in the video matches “nothing here”. The closest match was at the",
        ),
        (
            "absent ball",
            "“absent ball” is hardly in the video (presence 0.07), so nothing is shown. What comes closest looks like "
            "“penguin”. To take the best candidate anyway, type #1.",
        ),
        ("unreadable", "the video holds no frame that can be decoded; export it again"),
        ("  ", "No painted frame has arrived yet."),  # as near as it comes to Enter in the empty field
        ("x" * 10_000, "at most 1000"),
    ],
)
def test_the_status_text_says_what_happened(backend: Backend, expression: str, words: str) -> None:
    body = recorded("predict_interactive_text_frames")
    body["label_config"] = body["label_config"].replace("</View>", STATUS + "</View>")
    backend.post("/setup", {**recorded("setup"), "project": body["project"], "schema": body["label_config"]})
    body["params"]["context"]["result"][0]["value"]["text"] = [expression]
    (item,) = backend.post("/predict", body)["results"]
    status = item["result"][-1]
    assert (status["from_name"], status["type"]) == ("status", "textarea")
    assert words in status["value"]["text"][0]


def test_what_is_not_there_gives_no_mask_and_names_the_verdict(backend: Backend) -> None:
    verdict = '<Choices name="verdict" toName="frames"><Choice value="Accept"/><Choice value="Not visible"/></Choices>'
    body = recorded("predict_interactive_text_frames")
    body["label_config"] = body["label_config"].replace("</View>", STATUS + verdict + "</View>")
    backend.post("/setup", {**recorded("setup"), "project": body["project"], "schema": body["label_config"]})
    body["params"]["context"]["result"][0]["value"]["text"] = ["absent ball"]
    (status,) = backend.post("/predict", body)["results"][0]["result"]
    assert status["from_name"] == "status"
    assert "choose the verdict “Not visible” and submit" in status["value"]["text"][0]


def test_an_interactive_answer_that_takes_long_says_so(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(predict_timeout=0.3)
    body = recorded("predict_interactive_text_frames")
    body["label_config"] = body["label_config"].replace("</View>", STATUS + "</View>")
    backend.post("/setup", {**recorded("setup"), "project": body["project"], "schema": body["label_config"]})
    release = tmp_path / "release"
    body["params"]["context"]["result"][0]["value"]["text"] = [f"wait {release}"]
    (item,) = backend.post("/predict", body)["results"]
    assert "Still working" in item["result"][0]["value"]["text"][0]
    release.touch()
    # However long this machine takes, it ends with ten pages, the expression in force and what is said of them.
    wait_until(lambda: len(backend.post("/predict", body)["results"][0]["result"]) == 12)
    assert ProposalStore(backend.database).count() == 1


def test_region_text_of_a_replaced_track_is_echoed(backend: Backend) -> None:
    body = introduce(backend, "predict_interactive_text_video")
    track = backend.post("/predict", body)["results"][0]["result"][0]
    text = {**track, "from_name": "region_text", "type": "textarea"}
    text["value"] = {**track["value"], "text": ["keep me"]}
    body["tasks"][0]["drafts"] = [{"result": [track, text]}]
    result = backend.post("/predict", body)["results"][0]["result"]
    assert [region["from_name"] for region in result] == ["box", "region_text"]
    assert result[1]["value"]["text"] == ["keep me"]


def test_a_text_beside_the_message_is_about_the_task(backend: Backend) -> None:
    """Label Studio's editor lists the message beside a video as a region, with a field of its own."""
    body = introduce(backend, "predict_interactive_text_video")
    message = '<TextArea name="message" toName="video" maxSubmissions="0"/></View>'
    body["label_config"] = body["label_config"].replace("</View>", message)
    track, status = backend.post("/predict", body)["results"][0]["result"]
    assert status["value"]["ranges"] == [{"start": 1, "end": 1}]
    text = {**status, "from_name": "region_text", "value": {"text": ["the ball"]}}
    body["params"]["context"]["result"] = [text]
    answer = backend.post("/predict", body)["results"][0]["result"]
    assert [region["id"] for region in answer] == [track["id"], status["id"]]
    assert "“the ball”" in answer[1]["value"]["text"][0]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_an_event_is_committed_before_it_is_acknowledged(backend: Backend, name: str) -> None:
    body = recorded(name)
    body["project"]["token"] = "a-secret-token"
    response = backend.client.post("/webhook", json=body)
    assert response.status_code == 201
    assert EventStore(backend.database).count() == 1
    # Another connection sees it: it is not merely pending.
    with contextlib.closing(sqlite3.connect(backend.database.address)) as connection:
        ((action, project, payload),) = connection.execute("SELECT action, project_id, payload FROM events")
    assert (action, project) == (body["action"], body["project"]["id"])
    stored = json.loads(payload)
    assert "token" not in stored["project"]
    del body["project"]["token"]
    assert stored == {
        **body,
        "project": {k: v for k, v in body["project"].items() if not k.startswith("task_data_")},
    }


def test_versions(backend: Backend) -> None:
    introduce(backend)
    for path in ("/versions", "/versions?project=1.1795359785"):
        assert backend.client.get(path).get_json() == {"versions": [VERSION], "current": VERSION}
    assert backend.client.get("/versions?project=7").status_code == 404


# --- caching, lateness, death


def test_the_same_question_is_worked_on_once(backend: Backend) -> None:
    body = introduce(backend)
    first = backend.post("/predict", body)
    jobs = len(JobStore(backend.database).newest())
    assert jobs == 2
    second = backend.post("/predict", body)
    assert second == first
    assert len(JobStore(backend.database).newest()) == jobs


def test_the_same_video_and_expression_in_two_tasks_are_one_job(backend: Backend) -> None:
    body = with_expression(introduce(backend), "the ball")
    body["tasks"].append({**body["tasks"][0], "id": 99})
    answer = backend.post("/predict", body)
    assert len(JobStore(backend.database).newest()) == 1
    assert ProposalStore(backend.database).count() == 2
    ids = [as_list(item)[0]["result"][0]["id"] for item in answer["results"]]
    assert ids[0] != ids[1]


def test_nothing_found_stores_nothing_but_is_remembered(backend: Backend) -> None:
    body = with_expression(introduce(backend), "nothing at all")
    for _ in range(2):
        answer = backend.post("/predict", body)
        assert answer["results"] == [[]]
        assert "nothing in the video matches" in answer["errors"]["3"]
    assert len(JobStore(backend.database).newest()) == 1


def test_what_is_hardly_there_is_not_stored_as_a_prediction(backend: Backend) -> None:
    body = with_expression(introduce(backend), "absent ball")
    answer = backend.post("/predict", body)
    assert answer["results"] == [[]]
    assert "is hardly in the video (presence 0.07)" in answer["errors"]["3"]
    assert (answer["not_there"], answer["presence"]) == ([3], {"3": 0.07})
    (listed,) = list_proposals(backend.database, 1, limit=1)
    assert listed.score is None, "the lists of proposals do not count it as found"
    page = backend.client.get(f"/pages/proposals/{listed.id}").get_data(as_text=True)
    assert "is hardly in the video (presence 0.07)" in page
    preview = backend.client.get("/pages/projects/1/preview").get_data(as_text=True)
    assert "hardly in the video (presence 0.07): nothing is stored" in preview
    assert "data-kept-all>0</b> of all 1 tasks" in preview


@pytest.mark.parametrize("expression", ["the two balls", "both balls", "balls"])
def test_an_expression_of_several_objects_gives_one_prediction_with_each(
    backend: Backend, expression: str
) -> None:
    body = with_expression(introduce(backend), expression)
    (prediction,) = as_list(backend.post("/predict", body)["results"][0])
    tracks = [region for region in prediction["result"] if region["type"] == "videorectangle"]
    assert len({track["id"] for track in tracks}) == len(tracks) == 2
    assert prediction["score"] == 0.8
    assert LabelInterface(body["label_config"]).validate_prediction(prediction, return_errors=True) == []


def test_masks_of_several_objects_are_instances_of_their_own(backend: Backend) -> None:
    body = introduce(backend, "predict_interactive_text_frames")
    body["params"]["context"] = None
    body["tasks"][0]["data"]["expr"] = body["tasks"][0]["data"]["expression"] = "the two balls"
    (best,) = as_list(backend.post("/predict", body)["results"][0])
    names = {region["id"].rpartition("-f")[0] for region in best["result"] if region["type"] == "brushlabels"}
    assert len(names) == 2


def test_a_task_that_fails_does_not_harm_the_others(backend: Backend) -> None:
    body = introduce(backend)
    for task, expression in zip(body["tasks"], ("die", "the ball", "unreadable"), strict=True):
        task["data"]["expr"] = expression
    answer = backend.post("/predict", body)
    assert "SIGKILL" in answer["errors"]["1"]
    assert len(as_list(answer["results"][1])) == 2
    assert "no frame that can be decoded" in answer["errors"]["3"]
    assert answer["results"][0] == answer["results"][2] == []


@pytest.mark.parametrize("back", [True, False])
def test_media_that_were_dropped_while_their_job_waited_are_fetched_once_more(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    fetched: list[int] = []

    class Dropping(NamedMedia):
        def load(self, task: Task, *rest: Any) -> Media:
            fetched.append(task.id)
            if back or len(fetched) == 1:
                (tmp_path / "video").touch()
            return replace(super().load(task, *rest), path=tmp_path / "video")

    monkeypatch.setattr(backend.service.media, "_loader", Dropping())
    answer = backend.post("/predict", with_expression(introduce(backend), f"dropped {tmp_path / 'marker'}"))
    if back:
        assert answer["errors"] == {}
        assert len(as_list(answer["results"][0])) == 2
    else:
        assert "does not exist" in answer["errors"]["3"]
    assert fetched == [3, 3]


def test_a_late_answer_is_pushed_when_it_is_ready(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    backend = make_backend(predict_timeout=0.3)
    release = tmp_path / "release"
    body = with_expression(
        introduce(backend, hostname=fake_label_studio.url, access_token="abc"), f"wait {release}"
    )
    answer = backend.post("/predict", body)
    assert (answer["results"], answer["pending"]) == ([[]], [3])
    assert fake_label_studio.predictions == []
    release.touch()
    wait_until(lambda: len(fake_label_studio.predictions) == 2)
    pushed = fake_label_studio.predictions
    assert [prediction["score"] for prediction in pushed] == [0.5, 0.8]
    assert {prediction["model_version"] for prediction in pushed} == {VERSION}
    assert {prediction["task"] for prediction in pushed} == {3}
    assert fake_label_studio.tokens == {"Token abc"}
    # Asked again, as Label Studio would not: the stored proposal answers, and nothing is pushed twice.
    wait_until(lambda: backend.post("/predict", body)["pending"] == [])
    assert len(pushed) == 2


def test_a_late_answer_that_was_asked_for_again_is_not_pushed(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    backend = make_backend(predict_timeout=0.3)
    release = tmp_path / "release"
    body = with_expression(
        introduce(backend, hostname=fake_label_studio.url, access_token="abc"), f"wait {release}"
    )
    body["params"]["deliver_late"] = False
    assert backend.post("/predict", body)["pending"] == [3]
    release.touch()
    answer: dict[str, Any] = {"pending": [3]}
    while answer["pending"]:
        answer = backend.post("/predict", body)
    assert len(as_list(answer["results"][0])) == 2
    assert fake_label_studio.predictions == []


def test_everything_else_is_answered_while_a_model_works(backend: Backend, tmp_path: Path) -> None:
    release = tmp_path / "release"
    body = with_expression(introduce(backend), f"wait {release}")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(backend.post("/predict", body)))
    asking.start()
    wait_until(Path(f"{release}.started").exists)
    health = backend.client.get("/health").get_json()
    assert (health["status"], health["workers"][0]["state"]) == ("UP", "busy")
    assert backend.post("/setup", recorded("setup")) == {"model_version": VERSION}
    backend.post("/webhook", recorded("webhook_start_training"))
    # What the model process tells is noted by a thread of its own, a moment after it was told.
    wait_until(lambda: "tracking, 40%" in backend.client.get("/").get_data(as_text=True))
    assert answers == []
    release.touch()
    asking.join()
    assert len(as_list(answers[0]["results"][0])) == 2


def test_metrics_count_what_happened(backend: Backend) -> None:
    backend.post("/predict", introduce(backend))
    backend.post("/webhook", {"action": "MADE UP", "project": {"id": 1}})
    text = backend.client.get("/metrics").get_data(as_text=True)
    assert 'steerseg_predictions_total{outcome="answered"} 2.0' in text
    assert 'steerseg_predictions_total{outcome="failed"} 1.0' in text
    assert 'steerseg_proposals_total{source="computed"} 2.0' in text
    assert 'steerseg_webhook_events_total{action="other"} 1.0' in text
    assert 'steerseg_stage_seconds_count{kind="propose",stage="grounding"} 2.0' in text
    assert 'steerseg_queue_length{priority="batch"} 0.0' in text


def test_a_request_id_follows_a_prediction_to_the_worker(backend: Backend) -> None:
    seen: list[str] = []

    class Observer(SilentObserver):
        def began(self, job: ModelJob[Any, Any], worker: int, waited: float, sighting: Sighting) -> None:
            seen.append(job.request_id)

    body = introduce(backend)
    backend.service.executor.observe(Observer())
    answer = backend.client.post("/predict", json=body, headers={"X-Request-Id": "from-a-proxy.7"})
    assert answer.headers["X-Request-Id"] == "from-a-proxy.7"
    assert set(seen) == {"from-a-proxy.7"}
    for given in ("two words", "a" * 65, ""):
        made = backend.client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f]{16}", made)


# --- bad requests


def error_of(response: Any, status: int) -> str:
    """The message of a refused request, which must be of this status and hold no traceback."""
    assert response.status_code == status
    body = response.get_json()
    assert set(body) == {"error", "hint"}
    assert "Traceback" not in response.get_data(as_text=True)
    assert "\n" not in response.status
    message: str = body["error"]
    return message


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2",
        b"nonsense",
        b"[" * 100_000,
        b"9" * 10_000,
        b"null",
        b"[]",
        b'"text"',
        b"1",
    ],
)
def test_a_body_that_is_no_json_object(backend: Backend, path: str, content: bytes) -> None:
    error_of(backend.client.post(path, data=content, content_type="application/json"), 400)
    assert EventStore(backend.database).count() == 0


@pytest.mark.parametrize(
    ("path", "name", "key"),
    [
        ("/setup", "setup", "project"),
        ("/setup", "setup", "schema"),
        ("/predict", "predict_batch_video", "tasks"),
        ("/predict", "predict_batch_video", "project"),
        ("/predict", "predict_batch_video", "label_config"),
        ("/webhook", "webhook_annotation_updated", "action"),
    ],
)
def test_a_missing_key_is_named(backend: Backend, path: str, name: str, key: str) -> None:
    body = recorded(name)
    del body[key]
    assert repr(key) in error_of(backend.client.post(path, json=body), 400)
    for wrong in (None, ["x"], {"x": 1}):
        error_of(backend.client.post(path, json={**body, key: wrong if key != "tasks" else "x"}), 400)


@pytest.mark.parametrize(
    "task", [None, 5, "x", [], {}, {"id": 1}, {"id": "1", "data": {}}, {"id": 1, "data": []}, {"data": {}}]
)
def test_a_malformed_task_is_refused(backend: Backend, task: Any) -> None:
    body = introduce(backend)
    assert "tasks[0]" in error_of(backend.client.post("/predict", json={**body, "tasks": [task]}), 400)


def test_an_unknown_project_is_refused(backend: Backend) -> None:
    body = {**recorded("predict_batch_video"), "project": "77.1"}
    response = backend.client.post("/predict", json=body)
    assert "project 77 is unknown" in error_of(response, 404)
    for name in ("x", "", "-1", "1e3", "٣", "9" * 30):
        error_of(backend.client.post("/predict", json={**body, "project": name}), 400)


def test_a_labelling_config_without_usable_controls_says_what_to_add(backend: Backend) -> None:
    config = '<View><Video name="v" value="$video"/></View>'
    body = introduce(backend)
    for response in (
        backend.client.post("/setup", json={**recorded("setup"), "schema": config}),
        backend.client.post("/predict", json={**body, "label_config": config}),
    ):
        assert "<VideoRectangle" in error_of(response, 422)
        # Label Studio shows the status line of a failed set-up, and nothing else of it.
        assert "VideoRectangle" in response.status
    error_of(backend.client.post("/setup", json={**recorded("setup"), "schema": "<View>"}), 422)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"video": "v.mp4"}, "no 'expr'"),
        ({"video": "v.mp4", "expr": ""}, "empty"),
        ({"video": "v.mp4", "expr": " \n "}, "empty"),
        ({"video": "v.mp4", "expr": "x" * 10_000}, "10000 characters"),
        ({"video": "v.mp4", "expr": ["a", "b"]}, "must be text"),
        ({"expr": "the ball"}, "no media"),
    ],
)
def test_a_task_that_cannot_be_predicted_says_why(backend: Backend, data: dict[str, Any], words: str) -> None:
    body = introduce(backend)
    body["tasks"] = [{"id": 5, "data": data}]
    answer = backend.post("/predict", body)
    assert answer["results"] == [[]]
    assert words in answer["errors"]["5"]
    assert JobStore(backend.database).newest() == []


def test_a_project_may_bring_a_default_expression(make_backend: MakeBackend) -> None:
    backend = make_backend(default_expression="from the settings")
    body = introduce(backend)
    body["tasks"] = body["tasks"][:1]
    item = as_list(backend.post("/predict", body)["results"][0])[0]
    assert item["result"][0]["meta"]["text"][0] == "from the settings"
    introduce(backend, extra_params={"expression": "from the project"})
    item = as_list(backend.post("/predict", body)["results"][0])[0]
    assert item["result"][0]["meta"]["text"][0] == "from the project"
    introduce(backend, extra_params='{"expression": "as text"}')
    item = as_list(backend.post("/predict", body)["results"][0])[0]
    assert item["result"][0]["meta"]["text"][0] == "as text"
    response = backend.client.post("/setup", json={**recorded("setup"), "extra_params": "[1]"})
    error_of(response, 400)


def test_requests_that_no_route_answers(make_backend: MakeBackend) -> None:
    backend = make_backend(max_request_mib=1)
    error_of(backend.client.get("/nowhere"), 404)
    error_of(backend.client.get("/predict"), 405)
    error_of(backend.client.post("/predict", data=b" " * (2 << 20)), 413)


def test_an_unexpected_error_gives_no_details_away(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(backend.service, "health", fail)
    response = backend.client.get("/health")
    assert error_of(response, 500) == "unexpected RuntimeError"
    assert "secret" not in response.get_data(as_text=True)


# --- who may ask


def test_basic_auth_guards_all_but_what_brings_the_secret(make_backend: MakeBackend) -> None:
    backend = make_backend(basic_auth_username="ann", basic_auth_password="pass", webhook_secret="hush")
    client = backend.client
    event = recorded("webhook_annotation_updated")
    for path in ("/", "/health", "/versions", "/metrics"):
        response = client.get(path)
        error_of(response, 401)
        assert response.headers["WWW-Authenticate"].startswith("Basic")
        assert client.get(path, auth=("ann", "pass")).status_code == 200
        assert client.get(path, auth=("ann", "wrong")).status_code == 401
        assert client.get(path, auth=("bob", "pass")).status_code == 401
    error_of(client.post("/setup", json=recorded("setup")), 401)
    error_of(client.post("/webhook", json=event), 401)
    error_of(client.post("/webhook", json=event, headers={"X-SteerSeg-Secret": "wrong"}), 401)
    assert client.post("/webhook", json=event, headers={"X-SteerSeg-Secret": "hush"}).status_code == 201
    training = recorded("webhook_start_training")
    error_of(client.post("/webhook", json=training), 401)
    assert client.post("/webhook", json=training, auth=("ann", "pass")).status_code == 201
    assert EventStore(backend.database).count() == 2


def test_a_secret_alone_guards_the_webhook_but_not_start_training(make_backend: MakeBackend) -> None:
    # Label Studio sends START_TRAINING without the header; without basic auth it is as open as /predict.
    backend = make_backend(webhook_secret="hush")
    error_of(backend.client.post("/webhook", json=recorded("webhook_annotation_updated")), 401)
    assert backend.client.post("/webhook", json=recorded("webhook_start_training")).status_code == 201
    error_of(backend.client.post("/webhook", data=b"{", content_type="application/json"), 400)
    assert backend.client.get("/health").status_code == 200


def test_an_error_in_the_background_is_seen_on_health_and_in_the_metrics_and_ends_nothing(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.corrections.ingestion._RETRY", 0.05)
    backend = make_backend()
    unprocessed = EventStore.unprocessed

    def fail_once(store: EventStore, limit: int) -> list[StoredEvent]:
        monkeypatch.setattr(EventStore, "unprocessed", unprocessed)
        raise OverflowError("too large")

    monkeypatch.setattr(EventStore, "unprocessed", fail_once)
    assert backend.client.get("/health").get_json()["loops"] == []
    backend.service.start()

    def ingestion() -> dict[str, Any]:
        health = backend.client.get("/health").get_json()
        failing = any(loop["failing"] for loop in health["loops"])
        assert health["status"] == ("DEGRADED" if failing else "UP")
        assert bool(health["problems"]) == failing
        return {loop["name"]: loop for loop in health["loops"]}["ingestion"]

    wait_until(lambda: ingestion()["errors"] == 1 and not ingestion()["failing"])
    assert ingestion()["alive"]
    assert ingestion()["error"] == "OverflowError: too large"
    assert 'steerseg_background_errors_total{loop="ingestion"} 1.0' in backend.client.get("/metrics").text
