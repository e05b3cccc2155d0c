"""``steerseg-backend predict``: the command against a served backend and a Label Studio over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from ml_backend.cli.main import main
from tests.support.backend import VERSION, Backend, FakeLabelStudio, MakeBackend, recorded

pytestmark = pytest.mark.timeout(120)
PROJECT = 1


@pytest.fixture
def served(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Backend]:
    """A backend that listens, and an environment in which the command finds it."""
    backend = make_backend(predict_timeout=0.5, basic_auth_username="ann", basic_auth_password="pass")
    server = make_server("127.0.0.1", 0, backend.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "STEERSEG_PORT": str(server.port),
        "STEERSEG_LABEL_STUDIO_URL": fake_label_studio.url,
        "STEERSEG_LABEL_STUDIO_API_KEY": "abc",
        "STEERSEG_BASIC_AUTH_USERNAME": "ann",
        "STEERSEG_BASIC_AUTH_PASSWORD": "pass",
    }.items():
        monkeypatch.setenv(name, value)
    body = recorded("predict_batch_video")
    fake_label_studio.project = {"id": PROJECT, "label_config": body["label_config"]}
    fake_label_studio.tasks = body["tasks"]
    yield backend
    server.shutdown()
    thread.join()


def introduce(backend: Backend) -> None:
    body = recorded("setup")
    response = backend.client.post("/setup", json=body, auth=("ann", "pass"))
    assert response.status_code == 200


def test_every_task_is_predicted_once(
    served: Backend, fake_label_studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    introduce(served)
    assert main(["predict", str(PROJECT)]) == 1
    output = capsys.readouterr().out
    assert f"2 tasks predicted by {VERSION}, 0 had a prediction of it already, 1 are without one" in output
    assert "task 1: the task's data has no 'expr'" in output
    assert sorted(prediction["task"] for prediction in fake_label_studio.predictions) == [2, 2, 3, 3]
    # A second time there is nothing left to do but the task that cannot be predicted.
    assert main(["predict", str(PROJECT)]) == 1
    assert "0 tasks predicted" in capsys.readouterr().out
    assert len(fake_label_studio.predictions) == 4


def test_it_waits_for_what_takes_longer_than_a_request(
    served: Backend, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    introduce(served)
    release = tmp_path / "release"
    task = fake_label_studio.tasks[-1]
    task["data"]["expr"] = f"wait {release}"
    fake_label_studio.tasks = [task]
    status: list[Any] = []
    asking = threading.Thread(target=lambda: status.append(main(["predict", str(PROJECT)])))
    asking.start()
    while served.service.metrics.registry.get_sample_value(
        "steerseg_http_requests_total", {"route": "/predict", "status": "200"}
    ) in (None, 0.0, 1.0):
        assert asking.is_alive()
    release.touch()
    asking.join()
    assert status == [0]
    assert len(fake_label_studio.predictions) == 2


def test_what_is_missing_is_said_in_a_line(
    served: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["predict", str(PROJECT)]) == 2
    assert "project 1 is unknown here" in capsys.readouterr().err
    assert main(["predict", str(PROJECT), "--backend-url", "http://127.0.0.1:9"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert main(["predict", str(PROJECT), "--backend-url", "127.0.0.1:9"]) == 2
    assert "expected one such as http://localhost:9090" in capsys.readouterr().err
    monkeypatch.setenv("STEERSEG_BASIC_AUTH_PASSWORD", "wrong")
    assert main(["predict", str(PROJECT)]) == 2
    assert "STEERSEG_BASIC_AUTH_PASSWORD" in capsys.readouterr().err
    monkeypatch.delenv("STEERSEG_LABEL_STUDIO_API_KEY")
    assert main(["predict", str(PROJECT)]) == 2
    assert "STEERSEG_LABEL_STUDIO_API_KEY" in capsys.readouterr().err


# --- before a batch


def test_a_dry_run_counts_and_asks_for_nothing(
    served: Backend, fake_label_studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    introduce(served)
    fake_label_studio.tasks[1]["total_annotations"] = 1
    assert main(["predict", str(PROJECT), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert f"3 tasks would be predicted by {VERSION}, 0 have a prediction of it already" in output
    assert "1 of them are annotated already" in output
    assert "have no 'expression' in their data" in output
    assert fake_label_studio.predictions == []
    assert served.service.jobs().jobs == ()


def test_a_preview_predicts_a_few_and_names_their_page(
    served: Backend, fake_label_studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    introduce(served)
    assert main(["predict", str(PROJECT), "--preview", "2"]) == 1
    output = capsys.readouterr().out
    assert f"1 of 3 tasks predicted by {VERSION} for a look, 1 are without a prediction" in output
    assert "task 3: score 0.80" in output
    assert f"/pages/projects/{PROJECT}/preview?task=1&task=3" in output
    assert fake_label_studio.predictions == []
    path = output.rpartition(f":{served_port(output)}")[2].strip()
    page = served.client.get(path, auth=("ann", "pass")).get_data(as_text=True)
    assert "of the 1 below" in page
    assert "task 1." in page, "the task without a proposal is named"
    # What was looked at is not predicted again.
    before = len(served.service.jobs().jobs)
    main(["predict", str(PROJECT)])
    assert len(served.service.jobs().jobs) == before + 1


def test_what_is_hardly_there_is_counted_and_named(
    served: Backend, fake_label_studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    introduce(served)
    fake_label_studio.tasks = fake_label_studio.tasks[1:]
    first, second = fake_label_studio.tasks
    first["data"]["expr"], second["data"]["expr"] = "absent ball", "judged ball"
    assert main(["predict", str(PROJECT), "--preview", "2"]) == 0
    output = capsys.readouterr().out
    assert "task 3: score 0.80, presence 0.93" in output
    assert main(["predict", str(PROJECT)]) == 0
    output = capsys.readouterr().out
    assert "1 tasks predicted" in output
    assert "1 tasks ask for what is hardly in their video, so nothing was stored" in output
    assert "task 2: presence 0.07" in output
    assert "presence of what was found: 0.93 (task 3) to 0.93" in output
    assert {prediction["task"] for prediction in fake_label_studio.predictions} == {3}


def served_port(output: str) -> str:
    return output.rpartition("http://127.0.0.1:")[2].partition("/")[0]


def test_what_is_below_the_least_score_is_named_and_not_stored(
    served: Backend, fake_label_studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    introduce(served)
    fake_label_studio.tasks[1]["data"]["expr"] = "unlike anything"
    assert main(["predict", str(PROJECT), "--least-score", "0.5"]) == 1
    output = capsys.readouterr().out
    assert "1 tasks predicted" in output
    assert "1 predictions were not stored, since their score is below the least:\n  task 2: score" in output
    assert {prediction["task"] for prediction in fake_label_studio.predictions} == {3}
    with pytest.raises(SystemExit):
        main(["predict", str(PROJECT), "--least-score", "1.5"])
