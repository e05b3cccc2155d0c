"""What the bodies of requests may be, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.label_studio.task import Draft
from ml_backend.requests import RequestError, parse_predict, parse_project_id, parse_setup, parse_webhook

PREDICT: dict[str, Any] = {"tasks": [], "project": "1.5", "label_config": "<View/>"}
TASK: dict[str, Any] = {"id": 1, "data": {"video": "/a.mp4"}}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, {}),
        ("", {}),
        ("null", {}),
        ([], {}),
        ('{"expression": "the dog"}', {"expression": "the dog"}),
        ({"expression": "the dog"}, {"expression": "the dog"}),
    ],
)
def test_extra_params_are_read_however_they_were_typed(given: object, meant: dict[str, Any]) -> None:
    body = {"project": 7, "schema": "<View/>", "extra_params": given}
    request = parse_setup(body)
    assert (request.project_id, request.uid, request.extra_params) == (7, "7", meant)


def test_what_a_setup_does_not_mention_is_none() -> None:
    request = parse_setup({"project": "7.1", "schema": "<View/>", "hostname": "nowhere", "access_token": ""})
    assert (request.hostname, request.access_token, request.extra_params) == (None, None, None)
    assert parse_setup({"project": "7", "schema": "", "hostname": "http://a/"}).hostname == "http://a"


def test_secrets_are_not_shown() -> None:
    request = parse_setup({"project": "7", "schema": "<View/>", "access_token": "the-token"})
    assert request.access_token == "the-token"
    assert "the-token" not in repr(request)


def test_of_drafts_and_predictions_the_newest_counts() -> None:
    drafts = [
        {"updated_at": "2026-02-02", "created_username": "Ann a@b.c, 7", "result": [{"id": "new"}, 3]},
        {"updated_at": "2026-01-01", "created_username": "Bob b@b.c, 8", "result": [{"id": "old"}]},
        {"result": 5},
        "nothing",
    ]
    predictions = [{"id": 9, "result": [{"id": "later"}]}, {"id": 2, "result": None}, None]
    (task,) = parse_predict(
        {**PREDICT, "tasks": [{**TASK, "drafts": drafts, "predictions": predictions}]}
    ).tasks
    assert task.draft == Draft(7, ({"id": "new"},))
    assert task.drafts == ({"id": "new"}, {"id": "old"})
    assert task.predictions == ((), ({"id": "later"},))


@pytest.mark.parametrize("drafts", [None, "x", {}, 5, []])
def test_a_task_may_come_without_drafts(drafts: object) -> None:
    (task,) = parse_predict({**PREDICT, "tasks": [{**TASK, "drafts": drafts, "predictions": drafts}]}).tasks
    assert (task.drafts, task.draft, task.predictions) == ((), None, ())


@pytest.mark.parametrize(
    ("params", "context", "deliver_late"),
    [
        (None, None, True),
        ({}, None, True),
        ({"context": None, "deliver_late": False}, None, False),
        ({"context": {}, "deliver_late": None}, (), True),
        ({"context": {"result": [{"id": "a"}]}}, ({"id": "a"},), True),
    ],
)
def test_parameters_say_whether_a_call_is_interactive(
    params: object, context: object, deliver_late: bool
) -> None:
    request = parse_predict({**PREDICT, "params": params})
    assert (request.context, request.deliver_late) == (context, deliver_late)


@pytest.mark.parametrize(
    ("project", "number"), [({"id": 3, "token": "t", "title": "x"}, 3), (3, 3), ("3", None), (None, None)]
)
def test_an_event_is_kept_as_it_came_less_its_secrets(project: object, number: int | None) -> None:
    event = parse_webhook({"action": "TASKS_CREATED", "project": project, "tasks": [{"id": 1}]})
    assert event.project_id == number
    assert list(event.payload) == ["action", "project", "tasks"]
    kept = {"id": 3, "title": "x"} if isinstance(project, dict) else project
    assert event.payload["project"] == kept


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body of /predict is a list; expected a JSON object"),
        ({"tasks": []}, "the body of /predict lacks 'project', 'label_config'"),
        ({**PREDICT, "tasks": 5}, "'tasks' in the body of /predict is a number; expected a list"),
        ({**PREDICT, "tasks": [TASK, {"id": 2}]}, "'tasks[1]' in the body of /predict lacks 'data'"),
        ({**PREDICT, "tasks": [None]}, "'tasks[0]' in the body of /predict is null; expected a JSON object"),
        (
            {**PREDICT, "tasks": [{**TASK, "id": True}]},
            "'tasks[0].id' in the body of /predict is a truth value; expected a number",
        ),
        (
            {**PREDICT, "params": {"context": {"result": [5]}}},
            "'params.context.result[0]' in the body of /predict is a number; expected a JSON object",
        ),
        (
            {**PREDICT, "project": "dogs"},
            "'project' in the body of /predict is 'dogs'; expected the project's number, such as '12' or "
            "'12.1795359785'",
        ),
    ],
)
def test_a_refusal_names_what_was_wrong_and_what_was_expected(body: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_predict(body)
    assert (caught.value.status, str(caught.value)) == (400, message)


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "٣", "9" * 30])
def test_a_project_is_a_number(text: str) -> None:
    with pytest.raises(RequestError):
        parse_project_id(text)
    assert parse_project_id("12.1795359785") == 12
