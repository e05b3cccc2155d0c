"""Expressions beside a video: which track each makes, and which label that gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml_backend.label_studio.results import instance_id
from tests.support.backend import Backend, recorded

pytestmark = pytest.mark.timeout(120)
CONFIGURATIONS = Path(__file__).parents[3] / "label_config"
TASK = 3


class Desk:
    """An annotator at a video task: what stands on it, and texts as Label Studio's page sends them."""

    def __init__(self, backend: Backend, configuration: str) -> None:
        self.backend = backend
        self.body = recorded("predict_interactive_text_video")
        self.body["label_config"] = (CONFIGURATIONS / configuration).read_text(encoding="utf-8")
        self.draft: dict[tuple[str, str], dict[str, Any]] = {}
        setup = {**recorded("setup"), "project": self.body["project"], "schema": self.body["label_config"]}
        backend.post("/setup", setup)

    def type(self, text: str) -> str:
        """Type a text; return the message."""
        task = {**self.body["tasks"][0], "predictions": [], "drafts": [{"result": list(self.draft.values())}]}
        typed = {"id": "e", "from_name": "expression", "to_name": "video", "type": "textarea"}
        context = {"result": [{**typed, "value": {"text": [text]}}]}
        body = {**self.body, "tasks": [task], "params": {"context": context}}
        (item,) = self.backend.post("/predict", body)["results"]
        self.draft |= {(result["id"], result["from_name"]): result for result in item["result"]}
        (message,) = [r["value"]["text"][0] for r in item["result"] if r["from_name"] == "status"]
        return str(message)

    def labels(self) -> dict[str, list[str] | None]:
        """By id of each track, its labels."""
        tracks = (result for result in self.draft.values() if result["type"] == "videorectangle")
        return {track["id"]: track["value"].get("labels") for track in tracks}


def test_a_named_object_gets_a_track_of_its_own(backend: Backend) -> None:
    desk = Desk(backend, "video.xml")
    assert desk.type("the ball").startswith("Object 1 is “the ball”, tracked on")
    assert desk.type("object 2: the box").startswith("Object 2 is “the box”, tracked on")
    first, second = instance_id(TASK, "", 0), instance_id(TASK, "", 1)
    assert desk.labels() == {first: ["object 1"], second: ["object 2"]}
    desk.type("the other ball")
    assert desk.labels() == {first: ["object 1"], second: ["object 2"]}, "the first track is replaced"
    assert json.dumps(desk.draft[second, "box"]).count("the box") == 1


def test_a_class_follows_the_expression_and_is_never_guessed(backend: Backend) -> None:
    desk = Desk(backend, "video_classes.xml")
    desk.type("the animal that stays")
    first, second = instance_id(TASK, "", 0), instance_id(TASK, "", 1)
    assert desk.labels() == {first: ["animal"]}
    desk.type("object 2: the vehicle")
    assert desk.labels() == {first: ["animal"], second: ["vehicle"]}
    desk.type("the ball")
    assert desk.labels() == {first: None, second: ["vehicle"]}


def test_commands_are_no_expressions_of_a_video(backend: Backend) -> None:
    assert "is for masks on frames" in Desk(backend, "video_classes.xml").type("delete object 2")
