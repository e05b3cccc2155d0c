"""The backend's own pages: their links, forms and tables, and what their forms do."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from werkzeug.test import TestResponse

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
from tests.contract.normal import normalised
from tests.contract.page import read_page

pytestmark = pytest.mark.timeout(300)

_CLICK, _TEXT_VIDEO = "predict_interactive_click_frames", "predict_interactive_text_video"
_MANY = 60  # proposals of one project, more than a page lists


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running_backend(tmp_path_factory.mktemp("pages")) as made:
        yield made


@pytest.fixture(scope="module")
def predicted(backend: Backend) -> Backend:
    """Proposals and corrections in two projects, one of them with more proposals than a page lists."""
    backend.post("/setup", setup(_TEXT_VIDEO))
    backend.post("/setup", setup(_CLICK))
    proposed = backend.post("/predict", batch(_CLICK))
    backend.settle()
    for expression in ("the red ball", "unreadable", "nothing at all"):
        backend.post("/predict", batch(_TEXT_VIDEO, expr=expression))
        backend.settle()
    body = batch(_TEXT_VIDEO, expr="the red ball")
    for number in range(_MANY):  # one by one, so that the order of the proposals is known
        backend.post("/predict", {**body, "tasks": [{**body["tasks"][0], "id": 100 + number}]})
    masks = [result for result in results_of(proposed) if result["type"] == "brushlabels"]
    for number, results in enumerate((masks, masks[:3], [])):
        task = task_of(_CLICK, 5 + number)
        backend.post("/webhook", submitted(50 + number, task, results, FRAMES, with_prompts()))
        backend.settle()
    backend.post("/webhook", recorded("webhook_annotation_created_video"))
    backend.settle()
    return backend


def _shown(backend: Backend, path: str) -> dict[str, Any]:
    """A page's parts and the headers that protect it."""
    response = backend.client.get(path)
    names = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control")
    return {
        "status": response.status_code,
        "type": response.content_type,
        "headers": {name: response.headers.get(name) for name in names},
        **read_page(response.get_data(as_text=True)).to_json(),
    }


def _submit(backend: Backend, page: str, action: str, **fields: str) -> TestResponse:
    """Press the button of a form: its fields as the page has them, other ones as given."""
    token = read_page(backend.client.get(page).get_data(as_text=True)).token
    return backend.client.post(action, data={"csrf_token": token, **fields})


@pytest.mark.parametrize("path", ["/", "/pages/jobs", "/pages/settings"])
def test_pages_of_a_new_backend(tmp_path: Path, golden: Golden, path: str) -> None:
    with running_backend(tmp_path) as backend:
        golden.check(f"pages/new{_name(path)}", _shown(backend, path))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/pages/jobs",
        "/pages/settings",
        *(f"/pages/projects/{number}" for number in (VIDEO, FRAMES, 77)),
        *(f"/pages/projects/{number}/corrections" for number in (VIDEO, FRAMES)),
        f"/pages/projects/{VIDEO}/versions",
        f"/pages/projects/{VIDEO}?from=50",
        f"/pages/projects/{VIDEO}?from=x",
        *(f"/pages/proposals/{number}" for number in (1, 2, 3, 999)),
    ],
)
def test_pages(predicted: Backend, golden: Golden, path: str) -> None:
    golden.check(f"pages/page{_name(path)}", _shown(predicted, path))


def _name(path: str) -> str:
    return re.sub(r"\W+", "-", path).rstrip("-")


def test_names_of_settings(predicted: Backend, golden: Golden) -> None:
    text = predicted.client.get("/pages/settings").get_data(as_text=True)
    golden.check("pages/settings", re.findall(r"<code>(\w+)</code>", text))


def test_files_of_pages(predicted: Backend, golden: Golden) -> None:
    told: dict[str, dict[str, Any]] = {}
    for path in (
        *("/static/pages.css", "/static/pages.js", "/static/icon.svg"),
        *(f"/pages/proposals/1/{keyframe}/{view}.jpg" for keyframe in (0, 1, 2) for view in _VIEWS),
        *(
            "/pages/proposals/1/0/nonsense.jpg",
            "/pages/proposals/2/0/masks.jpg",
            "/pages/proposals/1/overlay.mp4",
        ),
    ):
        response = predicted.client.get(path)
        told[path] = {"status": response.status_code, "type": response.mimetype, "kept": _kept(response)}
        if response.mimetype == "image/jpeg":
            with Image.open(io.BytesIO(response.get_data())) as image:
                told[path]["size"] = list(image.size)
    part = predicted.client.get("/pages/proposals/1/overlay.mp4", headers={"Range": "bytes=0-99"})
    told["part of the overlay"] = {"status": part.status_code, "bytes": len(part.get_data())}
    golden.check("pages/files", told)


_VIEWS = ("frame-map", "video-map", "points", "masks")


def _kept(response: TestResponse) -> str | None:
    return response.headers.get("Cache-Control")


def test_forms_and_versions(predicted: Backend, golden: Golden, tmp_path: Path) -> None:
    """A version is imported by the command line, then promoted, rolled back and replaced by forms."""
    page = f"/pages/projects/{VIDEO}/versions"
    told: dict[str, Any] = {}

    def note(step: str, response: TestResponse | None = None) -> None:
        answer = None if response is None else [response.status_code, response.location]
        used = predicted.client.get(f"/versions?project={VIDEO}").get_json()
        told[step] = {"answer": answer, "versions": used, "page": _shown(predicted, page)}

    for number, model in ((1, None), (2, "another-model")):
        folder = write_version(tmp_path / f"version-{number}", number, model=model)
        ended = run_command(
            "steerseg-backend", "versions", VIDEO, "--data-dir", predicted.data_dir, "import", folder
        )
        told[f"import {number}"] = ended.status
    note("imported")
    name = told["imported"]["versions"]["versions"][1].partition("+")[2]
    promote, roll_back = f"/pages/projects/{VIDEO}/promote", f"/pages/projects/{VIDEO}/rollback"
    note("promoted", _submit(predicted, page, promote, name=name))
    note("promoted again", _submit(predicted, page, promote, name=name))
    body = batch(_TEXT_VIDEO, expr="the red ball")
    told["predicted by it"] = predicted.post("/predict", body)["model_version"]
    predicted.settle()
    told["its page"] = _shown(predicted, f"/pages/projects/{VIDEO}")
    note("rolled back", _submit(predicted, page, roll_back))
    note("rolled back again", _submit(predicted, page, roll_back))
    note("promoted what is not there", _submit(predicted, page, promote, name="r9"))
    note("promoted anew", _submit(predicted, page, promote, name=name))
    note("promoted the preset", _submit(predicted, page, promote, name="preset"))
    note("without a secret", predicted.client.post(promote, data={"name": name}))
    refined = _submit(predicted, page, f"/pages/projects/{VIDEO}/refine")
    predicted.settle()
    note("refined", refined)
    for job in ("1", "refine-1", "nonsense"):
        note(f"cancelled {job}", _submit(predicted, page, f"/pages/jobs/{job}/cancel"))
    golden.check("pages/forms", told)
    tables = dump(predicted.database)
    for table in ("prompt_versions", "promotions"):
        golden.check(f"pages/{table}", tables[table])


def test_a_running_job_is_cancelled_by_its_form(predicted: Backend, golden: Golden, tmp_path: Path) -> None:
    body = batch(_TEXT_VIDEO, expr=f"wait {tmp_path / 'release'}")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predicted.post, "/predict", body)
        predicted.await_running_job()
        page = predicted.client.get("/pages/jobs").get_data(as_text=True)
        (action,) = {form["action"] for form in read_page(page).forms if form["method"] == "post"}
        form = {"csrf_token": read_page(page).token}
        statuses = [predicted.client.post(action, data=data).status_code for data in ({}, form)]
        answer = normalised(asked.result())
    statuses.append(predicted.client.post(action, data=form).status_code)
    predicted.settle()
    counts = predicted.client.get("/jobs").get_json()["counts"]
    golden.check(
        "pages/cancelled", {"statuses": statuses, "answer": answer, "cancelled": counts["cancelled"]}
    )
