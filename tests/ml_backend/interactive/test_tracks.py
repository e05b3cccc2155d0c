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

    def draw(self, name: str, *frames: int, label: str | None = None, text: str = "") -> list[dict[str, Any]]:
        """Draw a box at some of Label Studio's frames, and give it a label or a text; return the answer."""
        box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "enabled": True}
        geometry = {
            "sequence": [{**box, "frame": frame} for frame in frames],
            "framesCount": 12,
            "duration": 1.0,
        }
        base = {"id": name, "to_name": "video"}
        beside = {"labels": [label]} if label else {}
        context = [{**base, "from_name": "box", "type": "videorectangle", "value": {**geometry, **beside}}]
        if text:
            typed = {**base, "from_name": "region_expression", "type": "textarea"}
            context.append({**typed, "value": {**geometry, "text": [text]}})
        task = {**self.body["tasks"][0], "predictions": [], "drafts": [{"result": list(self.draft.values())}]}
        body = {**self.body, "tasks": [task], "params": {"context": {"result": context}}}
        (item,) = self.backend.post("/predict", body)["results"]
        return list(item["result"])

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


def test_a_drawn_box_is_tracked_when_it_gets_its_label(backend: Backend) -> None:
    track, status = Desk(backend, "video.xml").draw("drawn", 3, label="object 2")
    assert (track["id"], track["value"]["labels"]) == ("drawn", ["object 2"])
    assert len(track["value"]["sequence"]) > 1
    assert "meta" not in track, "nobody said what it is"
    assert (status["to_name"], status["id"]) == ("message", "status-message")
    assert "ranges" not in status["value"], "no region of the video"
    (text,) = status["value"]["text"]
    assert text.startswith("Object 2, drawn on frame 3, is tracked on 12 of 12 frames")


def test_a_track_of_several_keyframes_is_left_alone_until_its_text_asks(backend: Backend) -> None:
    desk = Desk(backend, "video_classes.xml")
    assert desk.draw("drawn", 3, 9, label="animal") == []
    track, status = desk.draw("drawn", 3, 9, label="animal", text="go")
    assert track["value"]["labels"] == ["animal"]
    assert "drawn on frame 3, 9, is tracked" in status["value"]["text"][0]


def test_a_box_without_a_label_gets_none(backend: Backend) -> None:
    track, *_ = Desk(backend, "video.xml").draw("drawn", 1)
    assert "labels" not in track["value"]


def test_a_box_on_no_frame_is_refused(backend: Backend) -> None:
    (status,) = Desk(backend, "video.xml").draw("drawn", 99, label="object 1")
    assert "is on no frame of the video" in status["value"]["text"][0]
