"""What the backend and its commands write to Label Studio, by themselves and on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from steerseg.soft_prompts import SoftPrompts
from tests.contract.backend import Backend, running_backend, write_version
from tests.contract.commands import run_command
from tests.contract.conversation import (
    FRAMES,
    VIDEO,
    batch,
    recorded,
    results_of,
    setup,
    submitted,
    task_of,
    with_prompts,
)
from tests.contract.database import dump
from tests.contract.golden import Golden
from tests.contract.label_studio import LabelStudio, label_studio
from tests.contract.normal import normalised

pytestmark = pytest.mark.timeout(300)

_TEXT_VIDEO, _CLICK = "predict_interactive_text_video", "predict_interactive_click_frames"


@pytest.fixture
def there() -> Iterator[LabelStudio]:
    with label_studio() as made:
        made.add("projects", {"id": VIDEO, "title": "videos", "label_config": setup(_TEXT_VIDEO)["schema"]})
        made.add("projects", {"id": FRAMES, "title": "frames", "label_config": with_prompts()})
        yield made


def _introduce(backend: Backend, there: LabelStudio, name: str = _TEXT_VIDEO, **changes: Any) -> None:
    backend.post("/setup", setup(name, hostname=there.url, **changes) | {"access_token": "abc"})


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _written(there: LabelStudio, *hidden: object) -> Any:
    """What was written, in an order of its own: several threads write."""
    text = json.dumps(normalised(sorted(there.writes, key=lambda write: json.dumps(write, sort_keys=True))))
    for value in (there.url, *map(str, hidden)):
        text = text.replace(value, "<here>")
    return json.loads(text)


def test_a_late_answer_is_pushed(there: LabelStudio, golden: Golden, tmp_path: Path) -> None:
    with running_backend(tmp_path, predict_timeout=0.3) as backend:
        _introduce(backend, there)
        release = tmp_path / "release"
        answer = backend.post("/predict", batch(_TEXT_VIDEO, expr=f"wait {release}"))
        release.touch()
        backend.settle()
    golden.check("label-studio/late", {"answer": normalised(answer), "written": _written(there, release)})


def test_what_is_owed_outlives_a_restart(there: LabelStudio, golden: Golden, tmp_path: Path) -> None:
    release = tmp_path / "release"
    with running_backend(tmp_path, predict_timeout=0.3) as backend:
        _introduce(backend, there)
        backend.post("/predict", batch(_TEXT_VIDEO, expr=f"wait {release}"))
    before = dump(backend.database)
    release.touch()
    with running_backend(tmp_path) as backend:
        _introduce(backend, there)
        backend.settle()
    after = dump(backend.database)
    states = [[row["state"] for row in tables["jobs"]] for tables in (before, after)]
    owed = [
        [(row["project_id"], row["task_id"]) for row in tables["deliveries"]] for tables in (before, after)
    ]
    golden.check(
        "label-studio/restart", {"states": states, "owed": owed, "written": _written(there, release)}
    )


def test_a_promotion_has_tasks_predicted_anew(there: LabelStudio, golden: Golden, tmp_path: Path) -> None:
    body = recorded("predict_batch_video")
    for number, task in enumerate(body["tasks"][1:] * 2):
        known = {"id": 10 + number, "project": VIDEO, "data": task["data"], "total_annotations": number == 3}
        there.add("tasks", known | {"is_labeled": number == 3, "total_predictions": number != 2})
    with running_backend(tmp_path) as backend:
        _introduce(backend, there)
        folder = write_version(tmp_path / "version", 1)
        name = f"r1-{SoftPrompts.load(folder).digest[:8]}"
        for action in (["import", folder], ["promote", name]):
            ended = run_command(
                "steerseg-backend", "versions", VIDEO, "--data-dir", backend.data_dir, *action
            )
            assert ended.status == 0, ended.errors
        _wait_until(lambda: dump(backend.database)["projects"][0]["repredicted"] is not None)
        _wait_until(lambda: len(there.writes) >= 2 * 3)  # two tasks, three candidates each
    golden.check("label-studio/promotion", _written(there))
    golden.check(
        "label-studio/promotion-projects", [row["repredicted"] for row in dump(backend.database)["projects"]]
    )


def test_what_webhooks_lost_is_read(there: LabelStudio, golden: Golden, tmp_path: Path) -> None:
    with running_backend(tmp_path / "first") as backend:
        backend.post("/setup", setup(_CLICK))
        masks = results_of(backend.post("/predict", batch(_CLICK)))
        backend.settle()
    changes: tuple[dict[str, Any], ...] = ({}, {"was_cancelled": True}, {"result": masks[:2]})
    for number, fields in enumerate(changes):
        task = task_of(_CLICK, 5 + number)
        there.add("tasks", {**task, "project": FRAMES, "total_annotations": 1})
        event = submitted(30 + number, task, masks, FRAMES, with_prompts(), **fields)
        there.add("annotations", event["annotation"])
    with running_backend(tmp_path / "second", reconcile_interval=0.05) as backend:
        backend.post("/setup", setup(_CLICK, hostname=there.url))
        gone = submitted(40, task_of(_CLICK, 9), masks, FRAMES, with_prompts())
        backend.post("/webhook", gone)
        backend.settle()
        _introduce(backend, there, _CLICK)
        _wait_until(lambda: len(dump(backend.database)["annotations"]) == 3)
        backend.settle()
        _wait_until(lambda: any(row["deleted"] for row in dump(backend.database)["annotations"]))
        backend.settle()
        tables = dump(backend.database)
    assert _written(there) == []
    for table in ("annotations", "corrections"):
        golden.check(f"label-studio/read-{table}", tables[table])


@contextmanager
def _served(backend: Backend) -> Iterator[str]:
    """The backend over HTTP, for commands that ask it."""
    server = make_server("127.0.0.1", 0, backend.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _ask(there: LabelStudio, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_URL", there.url)
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_API_KEY", "abc")
    ended = run_command("steerseg-backend", *arguments)
    assert "abc" not in ended.output + ended.errors
    return ended.status


def test_connect(there: LabelStudio, golden: Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.xml"
    config.write_text(with_prompts(), "utf-8")
    monkeypatch.setenv("STEERSEG_WEBHOOK_SECRET", "hush")
    url = ("--backend-url", "http://backend:9090")
    statuses = [
        _ask(there, monkeypatch, "connect", "--title", "new", "--label-config", config, *url),
        _ask(there, monkeypatch, "connect", "--title", "nothing there", *url),
        _ask(there, monkeypatch, "connect", "--project", VIDEO, "--no-interactive", *url),
        _ask(there, monkeypatch, "connect", "--project", VIDEO, "--expression", "the ball", *url),
        _ask(there, monkeypatch, "connect", "--project", VIDEO, "--backend-url", "http://moved:9090/"),
        _ask(there, monkeypatch, "connect", "--project", FRAMES, "--storage-path", "/media/", *url),
        _ask(there, monkeypatch, "connect", "--project", 77, *url),
    ]
    written = [list(write) for write in there.writes]  # one after the other
    golden.check("label-studio/connect", {"statuses": statuses, "written": written, "items": there.items})


def test_import(there: LabelStudio, golden: Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running_backend(tmp_path) as backend:  # for its pages
        pages = backend.data_dir.parent / "media" / "demo"
    root = tmp_path / "root"
    root.mkdir()
    table = tmp_path / "table.csv"
    table.write_text(f"video,expression\n{pages},the red ball\n{pages},the green box\n", "utf-8")
    given = ("--document-root", root)
    statuses = [
        _ask(there, monkeypatch, "import", FRAMES, pages, "--expression", "the ball", *given),
        _ask(there, monkeypatch, "import", FRAMES, pages, "--stride", 5, "--fps", 10, *given),
        _ask(there, monkeypatch, "import", FRAMES, "--csv", table, *given),
        _ask(there, monkeypatch, "import", FRAMES, pages, "--max-pages", 4, *given),
        _ask(there, monkeypatch, "import", FRAMES, pages, "--kind", "video", *given),
        _ask(there, monkeypatch, "import", FRAMES, tmp_path / "nowhere", *given),
    ]
    written = [[method, path, body] for method, path, body in there.writes]
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    told = json.dumps({"statuses": statuses, "written": written, "files": files})
    golden.check("label-studio/import", json.loads(told.replace(str(tmp_path), "<here>")))


def test_predict_and_refine(
    there: LabelStudio, golden: Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, expression in enumerate(("the red ball", "nothing at all", "unreadable", "green box")):
        task = task_of(_TEXT_VIDEO, 50 + number, expr=expression)
        there.add("tasks", {"id": task["id"], "data": task["data"], "project": VIDEO, "total_predictions": 0})
    with running_backend(tmp_path) as backend, _served(backend) as url:
        backend.post("/setup", setup(_TEXT_VIDEO))
        statuses = [
            _ask(there, monkeypatch, *command, "--backend-url", url)
            for command in (
                ("predict", VIDEO, "--jobs", 1),
                ("predict", VIDEO),
                ("predict", 77),
                ("refine", VIDEO),
                ("refine", VIDEO, "--wait"),
                ("refine", 77),
            )
        ]
        backend.settle()
    golden.check("label-studio/commands", {"statuses": statuses, "written": _written(there)})
