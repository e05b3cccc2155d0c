"""A service with a real store and a real worker process, whose handler makes synthetic proposals."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from ml_backend.database.database import Database
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.task import Task, task_value
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.models.executor import Executor
from ml_backend.service import Service
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import build_service
from steerseg.errors import VideoError
from tests.support import proposal_targets

FIXTURES = Path(__file__).parents[1] / "fixtures" / "label-studio-1.23.2"
VERSION = "steerseg-test"


def recorded(name: str) -> dict[str, Any]:
    """The body of a request that Label Studio once sent."""
    body: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())["json"]
    return body


class NamedMedia:
    """Media that is nothing but its name: the handler of these tests looks at the expression only."""

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        frames, video = controls.frames, controls.video
        if frames is not None and (pages := task_value(task.data, frames.data_key)):
            return Media(Path("frames"), _digest(repr(pages)), frames=frames)
        if video is not None and (address := task_value(task.data, video.data_key)):
            return Media(Path("video"), _digest(address), video=video)
        raise VideoError("the task's data has no media")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Backend:
    """A service under test.

    Attributes:
        service: The service.
        store: Its database.
        client: Flask's test client of its app.
    """

    service: Service
    database: Database
    client: FlaskClient

    def post(self, path: str, body: Any, **options: Any) -> Any:
        """POST JSON and return the answer, which must be a success."""
        response = self.client.post(path, json=body, **options)
        assert response.status_code in (200, 201), response.get_data(as_text=True)
        return response.get_json()


MakeBackend = Callable[..., Backend]


@pytest.fixture
def make_backend(tmp_path: Path) -> Iterator[MakeBackend]:
    made: list[Service] = []

    def make(*, loader: Loader | None = None, term: int | None = None, **settings: Any) -> Backend:
        given = {"data_dir": tmp_path / "data", "expression_key": "expr", **settings}
        chosen = Settings(**given)
        service = build_service(
            chosen,
            executor=Executor.local([proposal_targets.proposing], max_attempts=chosen.max_attempts),
            loader=loader or NamedMedia(),
            base_version=VERSION,
            model="test-model",
            term=term,
        )
        made.append(service)
        return Backend(service, service.database, create_app(service).test_client())

    yield make
    for service in made:
        service.close()


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    return make_backend()


@dataclass
class FakeLabelStudio:
    """The few calls of Label Studio's API that predictions and corrections need, over real HTTP.

    Attributes:
        url: Its address.
        predictions: What was stored, in order.
        project: The project that it has.
        tasks: Its tasks.
        annotations: Its annotations; skipped ones are not listed, as in the real one.
        tokens: What identified the callers.
    """

    url: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    project: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@pytest.fixture
def fake_label_studio() -> Iterator[FakeLabelStudio]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path.startswith("/api/projects/"):
                self._answer(fake.project)
            elif path == "/api/tasks":
                self._answer({"tasks": fake.tasks, "total": len(fake.tasks)})
            elif path.startswith("/api/tasks/") and not path.endswith("/annotations/"):
                self._one(fake.tasks, int(path.split("/")[3]))
            elif path.startswith("/api/tasks/"):
                task = int(path.split("/")[3])
                if path.rstrip("/").endswith("annotations"):
                    self._answer(
                        [a for a in fake.annotations if a["task"] == task and not a["was_cancelled"]]
                    )
                else:
                    self._one(fake.tasks, task)
            elif path.startswith("/api/annotations/"):
                self._one(fake.annotations, int(path.split("/")[3]))
            elif path.startswith("/api/predictions/") and path != "/api/predictions/":
                self._one(fake.predictions, int(path.split("/")[3]))
            else:
                task = int(query.rpartition("=")[2])
                self._answer([p for p in fake.predictions if p["task"] == task])

        def do_POST(self) -> None:
            fake.tokens.add(self.headers["Authorization"])
            prediction = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.predictions.append(prediction)
            for task in fake.tasks:
                task["total_predictions"] += task["id"] == prediction["task"]
            self._answer({"id": len(fake.predictions)})

        def do_PATCH(self) -> None:
            changes = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = int(self.path.split("/")[3])
            items = fake.tasks if self.path.startswith("/api/tasks/") else fake.annotations
            for item in items:
                if item["id"] == number:
                    item.update(changes)
            self._one(items, number)

        def _one(self, items: list[dict[str, Any]], number: int) -> None:
            found = next((item for item in items if item["id"] == number), None)
            self._answer(found or {"detail": "Not found."}, 200 if found else 404)

        def _answer(self, body: Any, status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Keep the test output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeLabelStudio(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()
