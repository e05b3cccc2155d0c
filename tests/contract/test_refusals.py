"""Requests that are refused: status and keys of the answer, whatever its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.contract.backend import Backend, running_backend
from tests.contract.conversation import recorded, setup
from tests.contract.golden import Golden

_BATCH = "predict_batch_video"
_BODIES = {
    "empty": b"",
    "cut off": b"{",
    "not UTF-8": b"\xff\xfe",
    "no JSON": b"nonsense",
    "endless nesting": b"[" * 100_000,
    "a long number": b"9" * 10_000,
    "null": b"null",
    "a list": b"[]",
    "text": b'"text"',
    "a number": b"1",
    "an empty object": b"{}",
}
_KEYS = {
    "/setup": ("project", "schema"),
    "/predict": ("tasks", "project", "label_config"),
    "/webhook": ("action",),
}
_WRONG = {"null": None, "a list": ["x"], "an object": {"x": 1}, "a truth value": True, "text": "x"}
_TASKS: dict[str, Any] = {
    "null": None,
    "a number": 5,
    "text": "x",
    "a list": [],
    "empty": {},
    "no data": {"id": 1},
    "text as id": {"id": "1", "data": {}},
    "a list as data": {"id": 1, "data": []},
    "no id": {"data": {}},
}
_PROJECTS = ("77.1", "x", "", "-1", "1e3", "٣", "9" * 30, 77, 1.5)
_CONFIGS = {
    "no control": '<View><Video name="v" value="$video"/></View>',
    "cut off": "<View>",
    "empty": " ",
    "a document type": "<!DOCTYPE x><View/>",
    "a single image": '<View><Image name="i" value="$image"/></View>',
}
_REQUESTS = {
    "predictions of nothing known": ("GET", "/nowhere"),
    "GET of a POST": ("GET", "/predict"),
    "POST of a GET": ("POST", "/health"),
    "versions of an unknown project": ("GET", "/versions?project=77"),
    "versions of no project": ("GET", "/versions?project=x"),
    "corrections of an unknown project": ("GET", "/projects/77/corrections"),
    "refinement of an unknown project": ("GET", "/projects/77/refinement"),
    "refining an unknown project": ("POST", "/projects/77/refine"),
    "refining no project": ("POST", "/projects/x/refine"),
    "cancelling an unknown job": ("POST", "/jobs/999/cancel"),
    "cancelling an unknown refinement": ("POST", "/jobs/refine-999/cancel"),
    "cancelling no job": ("POST", "/jobs/everything/cancel"),
    "page of an unknown project": ("GET", "/pages/projects/77"),
    "versions page of an unknown project": ("GET", "/pages/projects/77/versions"),
    "corrections page of an unknown project": ("GET", "/pages/projects/77/corrections"),
    "page of an unknown proposal": ("GET", "/pages/proposals/77"),
    "picture of an unknown proposal": ("GET", "/pages/proposals/77/0/masks.jpg"),
    "video of an unknown proposal": ("GET", "/pages/proposals/77/overlay.mp4"),
    "a form without its secret": ("POST", "/pages/projects/1/promote"),
    "cancelling by a form without its secret": ("POST", "/pages/jobs/1/cancel"),
}
_PATHS = (
    "/",
    "/health",
    "/versions",
    "/metrics",
    "/jobs",
    "/pages/jobs",
    "/pages/settings",
    "/static/pages.css",
)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running_backend(tmp_path_factory.mktemp("refusals"), max_request_mib=1) as made:
        made.post("/setup", setup(_BATCH))
        yield made


def _told(response: TestResponse) -> dict[str, Any]:
    """What of a refusal stays the same: its status, kind, the keys of its JSON and what its headers ask for."""
    assert "Traceback" not in response.get_data(as_text=True)
    body = response.get_json(silent=True)
    asked = ("WWW-Authenticate", "Retry-After", "Allow")
    return {
        "status": response.status_code,
        "type": response.mimetype,
        "keys": sorted(body) if isinstance(body, dict) else None,
        "headers": {name: response.headers[name] for name in asked if name in response.headers},
    }


def test_bodies(backend: Backend, golden: Golden) -> None:
    golden.check(
        "refusals/bodies",
        {
            f"{path}, {name}": _told(backend.client.post(path, data=content, content_type="application/json"))
            for path in _KEYS
            for name, content in _BODIES.items()
        },
    )


def test_missing_keys_and_wrong_types(backend: Backend, golden: Golden) -> None:
    bodies = {
        "/setup": setup(_BATCH),
        "/predict": recorded(_BATCH),
        "/webhook": recorded("webhook_project_updated"),
    }
    told = {}
    for path, keys in _KEYS.items():
        for key in keys:
            rest = {name: value for name, value in bodies[path].items() if name != key}
            told[f"{path}, {key}, missing"] = _told(backend.client.post(path, json=rest))
            for kind, value in _WRONG.items():
                told[f"{path}, {key}, {kind}"] = _told(backend.client.post(path, json={**rest, key: value}))
    golden.check("refusals/keys", told)


def test_tasks_contexts_and_parameters(backend: Backend, golden: Golden) -> None:
    body = recorded(_BATCH)
    told = {}
    for name, task in _TASKS.items():
        told[f"task, {name}"] = _told(backend.client.post("/predict", json={**body, "tasks": [task]}))
    for name, value in _WRONG.items():
        told[f"params, {name}"] = _told(
            backend.client.post("/predict", json={**body, "params": value, "tasks": []})
        )
        for inside in ("context", "result"):
            context = value if inside == "context" else {"result": value}
            if name == "null" and inside == "context":
                continue  # a batch
            sent = {**body, "params": {"context": context}}
            told[f"{inside}, {name}"] = _told(backend.client.post("/predict", json=sent))
        sent = {**setup(_BATCH), "extra_params": value}
        told[f"extra_params, {name}"] = _told(backend.client.post("/setup", json=sent))
    golden.check("refusals/tasks", told)


def test_projects(backend: Backend, golden: Golden) -> None:
    body = recorded(_BATCH)
    golden.check(
        "refusals/projects",
        {
            str(name): _told(backend.client.post("/predict", json={**body, "project": name}))
            for name in _PROJECTS
        },
    )


def test_labelling_configurations(backend: Backend, golden: Golden) -> None:
    told = {}
    for name, config in _CONFIGS.items():
        described = {**setup(_BATCH), "schema": config, "project": "9"}
        asked = {**recorded(_BATCH), "label_config": config}
        told[f"/setup, {name}"] = _told(backend.client.post("/setup", json=described))
        told[f"/predict, {name}"] = _told(backend.client.post("/predict", json=asked))
    golden.check("refusals/configurations", told)


def test_routes(backend: Backend, golden: Golden) -> None:
    told = {name: _told(backend.client.open(path, method=way)) for name, (way, path) in _REQUESTS.items()}
    told["too large"] = _told(backend.client.post("/predict", data=b" " * (2 << 20)))
    told["from another site"] = _told(
        backend.client.post("/webhook", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    )
    golden.check("refusals/routes", told)


def test_nothing_refused_was_stored(backend: Backend, golden: Golden) -> None:
    backend.settle()
    golden.check("refusals/jobs", backend.client.get("/jobs").get_json()["counts"])


def test_who_may_ask(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> None:
    guards = {
        "open": {},
        "basic auth": {"basic_auth_username": "ann", "basic_auth_password": "pass"},
        "secret": {"webhook_secret": "hush"},
        "both": {"basic_auth_username": "ann", "basic_auth_password": "pass", "webhook_secret": "hush"},
    }
    told = {}
    for guard, settings in guards.items():
        with ExitStack() as stack:
            folder = tmp_path_factory.mktemp("guarded")
            client = stack.enter_context(running_backend(folder, **settings)).client
            for way, sent in _WAYS.items():
                for path in _PATHS:
                    told[f"{guard}, {way}, GET {path}"] = _told(client.get(path, **sent))["status"]
                for path, body in _posts().items():
                    told[f"{guard}, {way}, POST {path}"] = _status(client, path, body, sent)
    golden.check("refusals/access", told)


_WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "password": {"auth": ("ann", "pass")},
    "wrong password": {"auth": ("ann", "wrong")},
    "wrong user": {"auth": ("bob", "pass")},
    "secret": {"headers": {"X-SteerSeg-Secret": "hush"}},
    "wrong secret": {"headers": {"X-SteerSeg-Secret": "wrong"}},
}


def _posts() -> dict[str, Any]:
    return {
        "/setup": setup(_BATCH),
        "/predict": {**recorded(_BATCH), "tasks": []},
        "/webhook": recorded("webhook_project_updated"),
        "/webhook ": recorded("webhook_start_training"),
        "/jobs/1/cancel": {},
    }


def _status(client: FlaskClient, path: str, body: Any, sent: dict[str, Any]) -> int:
    return client.post(path.strip(), json=body, **sent).status_code
