"""The client sends the right token, keeps it out of messages, and turns answers into typed errors."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ml_backend.cli.connect import WEBHOOK_ACTIONS, connect
from ml_backend.label_studio.client import LabelStudioClient, ServerInfo
from ml_backend.label_studio.config import FRAMES_EXAMPLE
from ml_backend.label_studio.errors import (
    BackendRefusedError,
    LabelStudioAuthError,
    LabelStudioError,
    LabelStudioNotFoundError,
    LabelStudioUnreachableError,
)
from steerseg.errors import ConfigError

LEGACY = "0123456789abcdef0123456789abcdef01234567"
Answer = tuple[int, Any]


def jwt(**claims: Any) -> str:
    parts = [{"alg": "none"}, claims]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "c2lnbmF0dXJl"])


class LabelStudio:
    """Answers as told, in Label Studio's shapes, and notes what was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, str, str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(raw) if self.headers.get("Content-Type") == "application/json" else raw
                path = self.path.split("?")[0]
                outer.asked.append((self.command, self.path, self.headers.get("Authorization", ""), body))
                answer = outer.answers.get((self.command, path), lambda _: (404, {"detail": "Not found."}))
                status, content = answer(body)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 302:
                    self.send_header("Location", "https://elsewhere.example.org/login")
                try:
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    return  # the client has given up waiting

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method: str, path: str, content: Any, status: int = 200) -> None:
        self.answers[method, path] = lambda _: (status, content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[LabelStudio]:
    running = LabelStudio()
    yield running
    running.close()


def test_legacy_tokens_are_sent_as_token(server: LabelStudio) -> None:
    server.answer("GET", "/api/version", {"release": "1.23.2.post1"})
    server.answer("GET", "/api/current-user/whoami", {"email": "a@example.org"})
    info = LabelStudioClient(server.url + "/", f" {LEGACY}\n").server_info()
    assert info == ServerInfo("1.23.2.post1", "a@example.org")
    assert info.release == (1, 23, 2)
    assert {authorization for *_, authorization, _ in server.asked} == {f"Token {LEGACY}"}


def test_personal_tokens_are_exchanged_and_renewed(server: LabelStudio) -> None:
    refresh = jwt(token_type="refresh", exp=time.time() + 1e6)
    issued: list[str] = []

    def exchange(body: Any) -> Answer:
        assert body == {"refresh": refresh}
        # As if the server's clock were hours behind: only the token's lifetime counts.
        start = time.time() - 10_000
        issued.append(jwt(token_type="access", iat=start, exp=start + 300, jti=len(issued)))
        return 200, {"access": issued[-1]}

    server.answers["POST", "/api/token/refresh/"] = exchange
    server.answers["GET", "/api/projects/1/"] = lambda _: (
        (200, {"id": 1}) if server.asked[-1][2] == f"Bearer {issued[-1]}" else (401, {})
    )
    client = LabelStudioClient(server.url, refresh)
    for _ in range(3):
        assert client.projects.get(1) == {"id": 1}
    assert len(issued) == 1
    client._access_ends = time.time() + 30  # about to end
    client.projects.get(1)
    assert len(issued) == 2
    client._access = jwt(token_type="access", jti="revoked")
    client.projects.get(1)
    assert len(issued) == 3
    assert all(refresh not in authorization for *_, authorization, _ in server.asked)


def test_a_refused_personal_token_is_said_and_not_shown(server: LabelStudio) -> None:
    refresh = jwt(token_type="refresh", exp=1)
    server.answer("POST", "/api/token/refresh/", {"detail": f"{refresh} is invalid"}, 401)
    with pytest.raises(LabelStudioAuthError, match="personal access token") as caught:
        LabelStudioClient(server.url, refresh).projects.get(1)
    assert refresh not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, LabelStudioError),
        (401, LabelStudioAuthError),
        (403, LabelStudioAuthError),
        (404, LabelStudioNotFoundError),
        (500, LabelStudioError),
    ],
)
def test_errors_are_typed_and_hold_no_token(
    server: LabelStudio, status: int, kind: type[LabelStudioError]
) -> None:
    server.answer(
        "GET", "/api/projects/1/", {"detail": f"no, {LEGACY} <b>bold</b>", "exc_info": "trace"}, status
    )
    client = LabelStudioClient(server.url, LEGACY)
    with pytest.raises(kind, match="read project 1") as caught:
        client.projects.get(1)
    assert caught.value.status == status
    assert LEGACY not in str(caught.value) + repr(caught.value) + repr(client)
    assert "trace" not in str(caught.value)
    assert "no, <token> bold" in str(caught.value)


def test_field_errors_are_readable(server: LabelStudio) -> None:
    server.answer(
        "POST",
        "/api/storages/localfiles/",
        {
            "detail": "Validation error",
            "validation_errors": {"path": ["is missing"], "non_field_errors": ["No."]},
        },
        400,
    )
    with pytest.raises(LabelStudioError, match=r"\(path: is missing; No\.\)"):
        LabelStudioClient(server.url, LEGACY).storages.create(1, "/x", "x")


def test_redirects_are_not_followed(server: LabelStudio) -> None:
    server.answer("GET", "/api/projects/1/", b"", 302)
    with pytest.raises(LabelStudioError, match=r"https://elsewhere\.example\.org"):
        LabelStudioClient(server.url, LEGACY).projects.get(1)


def test_other_servers_are_told_apart(server: LabelStudio) -> None:
    server.answer("GET", "/api/version", b"<html>hello</html>")
    with pytest.raises(LabelStudioError, match="other than JSON"):
        LabelStudioClient(server.url, LEGACY).server_info()
    server.answer("GET", "/api/version", {"version": 3})
    with pytest.raises(LabelStudioError, match="does not seem to be Label Studio"):
        LabelStudioClient(server.url, LEGACY).server_info()


def test_silence_is_bounded(server: LabelStudio) -> None:
    released = threading.Event()
    server.answers["POST", "/api/projects/"] = lambda _: (200, {"late": released.wait(20)})
    try:
        with pytest.raises(LabelStudioUnreachableError, match="did not answer within"):
            LabelStudioClient(server.url, LEGACY, timeout=0.2).projects.create("t", "<View/>")
    finally:
        released.set()


def test_nobody_there() -> None:
    with pytest.raises(LabelStudioUnreachableError, match="nothing listens there"):
        LabelStudioClient("http://127.0.0.1:1", LEGACY).projects.create("t", "<View/>")


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://user:pw@host"])
def test_unusable_addresses(url: str) -> None:
    with pytest.raises(LabelStudioError, match="expected one such as"):
        LabelStudioClient(url, LEGACY)


@pytest.mark.parametrize("key", ["", "  ", "two words", "a\r\nX-Evil: 1", "tökén"])
def test_unusable_tokens_are_not_repeated(key: str) -> None:
    with pytest.raises(LabelStudioError) as caught:
        LabelStudioClient("http://localhost", key)
    assert not key.strip() or key not in str(caught.value)


def test_imports_come_in_chunks(server: LabelStudio) -> None:
    sizes: list[int] = []

    def take(body: Any) -> Answer:
        sizes.append(len(body))
        return 201, {"task_ids": [task["data"]["n"] for task in body]}

    server.answers["POST", "/api/projects/7/import"] = take
    client = LabelStudioClient(server.url, LEGACY)
    assert client.tasks.create(7, [{"data": {"n": n}} for n in range(250)]) == list(range(250))
    assert sizes == [100, 100, 50]
    server.answer("POST", "/api/projects/7/import", {"task_ids": []}, 201)
    with pytest.raises(LabelStudioError, match="0 tasks of 1"):
        client.tasks.create(7, [{"data": {}}])


def test_tasks_are_paged(server: LabelStudio) -> None:
    def page(_: Any) -> Answer:
        number = int(server.asked[-1][1].split("&page=")[1].split("&")[0])
        return 200, {"total": 5, "tasks": [{"id": n} for n in range(2 * number - 2, min(5, 2 * number))]}

    server.answers["GET", "/api/tasks"] = page
    tasks = LabelStudioClient(server.url, LEGACY).tasks.of_project(1, page_size=2)
    assert [task["id"] for task in tasks] == list(range(5))


def test_empty_predictions_are_never_stored(server: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="empty prediction"):
        LabelStudioClient(server.url, LEGACY).predictions.create(1, [], score=0.5, model_version="v")
    assert server.asked == []


def test_uploads_name_their_address(server: LabelStudio, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"film")
    server.answer("POST", "/api/projects/1/import", {"file_upload_ids": [4]}, 201)
    server.answer("GET", "/api/import/file-upload/4", {"id": 4, "file": "upload/1/0a-a.mp4"})
    client = LabelStudioClient(server.url, LEGACY)
    assert client.tasks.upload_file(1, tmp_path / "a.mp4") == "/data/upload/1/0a-a.mp4"
    assert b"film" in server.asked[0][3]
    assert "commit_to_project=false" in server.asked[0][1]


# --- connect -----------------------------------------------------------------------------------------------


COLUMNS = [
    {"id": "frames", "parent": "data", "visibility_defaults": {"explore": True, "labeling": False}},
    {"id": "inner_id", "visibility_defaults": {"explore": False, "labeling": False}},
    {"id": "data"},
]


@pytest.fixture
def project(server: LabelStudio) -> LabelStudio:
    server.answer("GET", "/api/version", {"release": "1.23.2"})
    server.answer("GET", "/api/current-user/whoami", {"email": "a@example.org"})
    server.answer("GET", "/api/projects/1/", {"id": 1, "title": "clips", "label_config": FRAMES_EXAMPLE})
    server.answer("GET", "/api/ml", [])
    server.answer("GET", "/api/webhooks/", [])
    server.answer("POST", "/api/ml", {"id": 3, "state": "CO", "model_version": "v1"}, 201)
    server.answer("POST", "/api/webhooks/", {"id": 5}, 201)
    server.answer("PATCH", "/api/projects/1/", {"id": 1})
    server.answer("GET", "/api/dm/views/", [])
    server.answer("GET", "/api/dm/columns/", {"columns": COLUMNS})
    server.answer("POST", "/api/dm/views/", {"id": 7}, 201)
    return server


def test_connect_adds_what_is_missing_and_shows_no_secret(project: LabelStudio) -> None:
    done = connect(
        LabelStudioClient(project.url, LEGACY), "http://backend:9090/", project=1, webhook_secret="hush"
    )
    assert (done.project, done.title) == (1, "clips")
    assert done.warnings == ()
    assert "hush" not in "".join(done.steps)
    (hook,) = [
        body for method, path, _, body in project.asked if (method, path) == ("POST", "/api/webhooks/")
    ]
    assert hook["url"] == "http://backend:9090/webhook"
    assert hook["headers"] == {"X-SteerSeg-Secret": "hush"}
    assert hook["actions"] == list(WEBHOOK_ACTIONS)
    assert hook["send_for_all_actions"] is False


def test_connect_introduces_a_project_to_its_annotators(project: LabelStudio) -> None:
    done = connect(LabelStudioClient(project.url, LEGACY), "http://backend:9090", project=1)
    (texts,) = [
        body for method, path, _, body in project.asked if (method, path) == ("PATCH", "/api/projects/1/")
    ]
    assert "Switch on Auto-Annotation and Auto-Accept Suggestions" in texts["description"]
    assert "<li>Paint or erase" in texts["expert_instruction"]
    (view,) = [
        body for method, path, _, body in project.asked if (method, path) == ("POST", "/api/dm/views/")
    ]
    assert view["data"]["columnsDisplayType"] == {"tasks:data.frames": "Image"}
    assert {"tasks:inner_id", "tasks:data.pts"} <= set(view["data"]["hiddenColumns"]["explore"])
    assert any(step.startswith("annotators: Switch on") for step in done.steps)


def test_connect_keeps_what_people_wrote(project: LabelStudio) -> None:
    mine = {"description": "Our clips.", "expert_instruction": "Ask Ann."}
    known = {"id": 1, "title": "clips", "label_config": FRAMES_EXAMPLE, **mine}
    project.answer("GET", "/api/projects/1/", known)
    project.answer("GET", "/api/dm/views/", [{"id": 4}])
    connect(LabelStudioClient(project.url, LEGACY), "http://backend:9090", project=1)
    written = {(method, path) for method, path, _, _ in project.asked if method != "GET"}
    assert written == {("POST", "/api/ml"), ("POST", "/api/webhooks/")}


def test_a_refused_backend_leaves_nothing_behind(project: LabelStudio) -> None:
    left: list[dict[str, Any]] = []

    def refuse(_: Any) -> Answer:
        left.append({"id": 9, "url": "http://backend:9090", "title": "SteerSeg"})
        return 403, {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}

    def remove(_: Any) -> Answer:
        left.clear()
        return 204, b""

    project.answers["POST", "/api/ml"] = refuse
    project.answers["GET", "/api/ml"] = lambda _: (200, left)
    project.answers["DELETE", "/api/ml/9"] = remove
    with pytest.raises(BackendRefusedError, match="LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false"):
        connect(LabelStudioClient(project.url, LEGACY), "http://backend:9090", project=1)
    assert left == []


def test_a_storage_folder_that_is_not_there_is_to_be_made(project: LabelStudio) -> None:
    project.answer("GET", "/api/storages/localfiles/", [])
    project.answer("POST", "/api/storages/localfiles/", {"detail": "path does not exist"}, 400)
    with pytest.raises(LabelStudioError, match=r"does not exist.*make it, or give another --storage-path"):
        connect(
            LabelStudioClient(project.url, LEGACY),
            "http://backend:9090",
            project=1,
            storage_path="/srv/media/x",
        )


def test_a_backend_that_is_in_error_is_said(project: LabelStudio) -> None:
    project.answer("POST", "/api/ml", {"id": 3, "state": "ER", "error_message": "boom"}, 201)
    with pytest.raises(LabelStudioError, match="boom"):
        connect(LabelStudioClient(project.url, LEGACY), "http://backend:9090", project=1)


def test_connect_refuses_what_cannot_work_before_changing_anything(project: LabelStudio) -> None:
    client = LabelStudioClient(project.url, LEGACY)
    with pytest.raises(ConfigError, match="id or by its title"):
        connect(client, "http://backend:9090")
    with pytest.raises(ConfigError, match="address is unusable"):
        connect(client, "backend:9090", project=1)
    with pytest.raises(ConfigError, match="cannot hold proposals"):
        connect(client, "http://backend:9090", project=1, label_config="<View/>")
    assert project.asked == []
    project.answer("GET", "/api/projects/", {"results": [], "next": None})
    with pytest.raises(ConfigError, match="no project 'new'"):
        connect(client, "http://backend:9090", title="new")
