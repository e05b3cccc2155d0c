"""A served preset without a language model, with a tiny random segmenter: clicks and boxes are all it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

from steerseg.errors import NoLanguageModelError
from steerseg.pipeline import SteerSeg
from steerseg.presets import BUILT_IN, load_preset
from tests.support.backend import recorded
from tests.support.served import Served, serving, wait_until
from tests.support.tiny_video_models import tiny_video_model

pytestmark = pytest.mark.timeout(240)

PAGES, HEIGHT, WIDTH = 12, 360, 640
NOT_READ = "this server has no language model: click the object, or draw a box around it"
PROJECT = 2


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    tiny_video_model("edgetam").save_pretrained(folder / "model")
    card = json.loads((BUILT_IN["clicks-edgetam"] / "preset.json").read_text())
    (folder / "preset.json").write_text(json.dumps({**card, "name": "clicks", "segmenter": "model"}))
    return folder


@pytest.fixture(scope="module")
def served(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "media" / "demo").mkdir(parents=True)
    generator = np.random.default_rng(0)
    still = np.kron(generator.integers(0, 256, (9, 16, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    for page in range(PAGES):
        picture = np.roll(still, 8 * page, axis=1)
        cv2.imwrite(str(folder / "media" / "demo" / f"{page:05}.jpg"), picture)
    options = ("--local-files-root", str(folder / "media"), "--expression-key", "expr", "--refine-after", "1")
    with serving(preset, folder, *options, "--label-studio-url", "http://127.0.0.1:1") as server:
        body = recorded("predict_interactive_click_frames")
        setup = {**recorded("setup"), "project": body["project"], "schema": body["label_config"]}
        post(server, "/setup", {**setup, "hostname": "http://127.0.0.1:1", "access_token": None})
        yield server


def post(server: Served, path: str, body: Any) -> Any:
    response = requests.post(server.url + path, json=body, timeout=200)
    assert response.ok, response.text
    return response.json() if response.content else None


def get(server: Served, path: str) -> Any:
    return requests.get(server.url + path, timeout=60).json()


def call(server: Served, *results: dict[str, Any]) -> list[dict[str, Any]]:
    """An interactive call about results, with a field for messages; the results of its answer."""
    body = recorded("predict_interactive_click_frames")
    body["params"]["context"]["result"] = list(results) or body["params"]["context"]["result"]
    body["label_config"] = body["label_config"].replace(
        "</View>",
        '<RectangleLabels name="around" toName="frames" smart="true"><Label value="object"/></RectangleLabels>'
        '<TextArea name="status" toName="frames" maxSubmissions="0"/></View>',
    )
    body["tasks"][0] |= {"drafts": [], "predictions": [], "annotations": []}
    (answer,) = post(server, "/predict", body)["results"]
    found: list[dict[str, Any]] = answer["result"]
    return found


def pages(results: list[dict[str, Any]]) -> set[int]:
    return {result["item_index"] for result in results if result["type"] == "brushlabels"}


def texts(results: list[dict[str, Any]]) -> str:
    return " ".join(text for one in results if one["type"] == "textarea" for text in one["value"]["text"])


def typed(text: str) -> dict[str, Any]:
    value = {"text": [text]}
    return {"id": "t", "from_name": "expression", "to_name": "frames", "type": "textarea", "value": value}


def test_clicks_and_boxes_are_answered_on_all_pages(served: Served) -> None:
    clicked = call(served)
    assert len(pages(clicked)) > 1
    value = {"x": 20, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["object"]}
    box = {"id": "b", "from_name": "around", "to_name": "frames", "type": "rectanglelabels", "item_index": 3}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    boxed = call(served, {**box, **size, "value": value})
    assert len(pages(boxed)) > 1
    assert "language model" not in texts(clicked) + texts(boxed)


def test_expressions_are_answered_in_plain_english(served: Served) -> None:
    answer = call(served, typed("the red ball"))
    assert not pages(answer)
    assert texts(answer) == NOT_READ
    assert NOT_READ in texts(call(served, typed("#2")))
    assert "language model" not in texts(call(served, typed("delete object 1")))
    assert "no language model" in requests.get(f"{served.url}/understands", timeout=60).text


def test_a_batch_is_refused_for_each_of_its_tasks(served: Served) -> None:
    body = recorded("predict_interactive_text_frames")
    body["params"]["context"] = None
    answer = post(served, "/predict", body)
    assert answer["results"] == [[]]
    assert answer["pending"] == []
    (reason,) = answer["errors"].values()
    assert reason.startswith(
        "predictions by text take a language model, and this server has none; open the task"
    )


def test_corrections_are_kept_and_a_refinement_says_why_it_trains_nothing(served: Served) -> None:
    post(served, "/webhook", recorded("webhook_annotation_created_frames_brush"))
    kept = wait_until(lambda: get(served, f"/projects/{PROJECT}/corrections")["usable"])
    assert kept == 1
    status = get(served, f"/projects/{PROJECT}/refinement")
    assert (status["refine_after"], status["current"], status["history"]) == (0, None, [])  # none by itself
    for _ in range(2):  # asked for by Label Studio, and by the command line
        before = len(get(served, f"/projects/{PROJECT}/refinement")["history"])
        if before:
            post(served, f"/projects/{PROJECT}/refine", {})
        else:
            post(served, "/webhook", {**recorded("webhook_start_training"), "project": {"id": PROJECT}})

        def ended(before: int = before) -> Any:
            history = get(served, f"/projects/{PROJECT}/refinement")["history"]
            return history if len(history) > before else None

        latest = wait_until(ended)[0]
        assert latest["state"] == "not enough data"
        assert (
            "nothing to train: soft prompts steer a language model, and this server has none"
            in latest["reason"]
        )


def test_the_library_names_what_it_lacks(preset: Path) -> None:
    with pytest.raises(NoLanguageModelError, match="answers clicks and boxes alone"):
        SteerSeg.from_pretrained(preset)
    with pytest.raises(NoLanguageModelError):
        _ = load_preset(preset).language_model
