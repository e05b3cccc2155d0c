"""An annotator who prompts a backend under test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.region_masks import masks_by_page, page_masks
from ml_backend.label_studio.results import instance_id
from steerseg.masks import decode_rle
from tests.support.backend import VERSION, Backend, recorded

OBJECTS = '<Choices name="which" toName="frames"><Choice value="object"/><Choice value="other"/></Choices>'


STATUS = '<TextArea name="status" toName="frames" maxSubmissions="0"/>'


TASK = 5


Result = dict[str, Any]


class Annotator:
    """One person at one task: what stands on the pages, and calls as Label Studio's page makes them."""

    def __init__(self, backend: Backend, number: int = 1, objects: str = OBJECTS) -> None:
        self.backend = backend
        self.number = number
        self.body = recorded("predict_interactive_click_frames")
        self.body["label_config"] = self.body["label_config"].replace("</View>", objects + STATUS + "</View>")
        setup = {**recorded("setup"), "project": self.body["project"], "schema": self.body["label_config"]}
        backend.post("/setup", setup)
        self.click = self.body["params"]["context"]["result"][0]
        self.draft: dict[str, Result] = {}
        self.texts: list[str] = []
        self.chosen: str | None = None
        self.clicks = 0

    def call(self, context: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Send a call with the present draft; accept the answer into the draft, and return it."""
        task = {**self.body["tasks"][0], "predictions": [], "drafts": []}
        if self.draft:
            person = f"someone@example.com, {self.number}"
            task["drafts"] = [{"created_username": person, "result": list(self.draft.values())}]
        body = {**self.body, "tasks": [task], "params": {"context": {"result": list(context)}}}
        (item,) = self.backend.post("/predict", body)["results"]
        assert item["model_version"] == VERSION
        for result in item["result"]:
            self.draft[result["id"]] = result
        return list(item["result"])

    def type(self, text: str) -> list[Result]:
        self.texts.append(text)
        typed = {"id": "e", "from_name": "expression", "to_name": "frames", "type": "textarea"}
        context = [{**typed, "value": {"text": self.texts}}]
        if self.chosen is not None:
            choice = {"id": "c", "from_name": "which", "to_name": "frames", "type": "choices"}
            context.append({**choice, "value": {"choices": [self.chosen]}})
        return self.call(context)

    def point(self, page: int, label: str = "object", **changes: Any) -> list[Result]:
        self.clicks += 1
        value = {**self.click["value"], "keypointlabels": [label], "labels": [label]}
        return self.call(
            [{**self.click, "id": f"k{self.clicks}", "item_index": page, "value": value, **changes}]
        )

    def series(self, index: int = 0) -> dict[int, Result]:
        """What stands on the pages of one object."""
        name = instance_id(TASK, "", index)
        found = {r["id"]: r for r in self.draft.values() if r["id"].startswith(name)}
        return {region["item_index"]: region for region in found.values()}

    @property
    def status(self) -> str:
        return str(self.draft["status-frames"]["value"]["text"][0])


def top(region: Result) -> int:
    """The highest row of a region's mask; the test's model process says by it how many prompts it was given."""
    (mask,) = page_masks([region])
    return int(np.flatnonzero(mask.mask.any(axis=1))[0])


def painted(region: Result) -> Result:
    """The region after a stroke, as a draft has it."""
    points = {"relativePoints": [50, 50, 80, 50], "relativeStrokeWidth": 10, "type": "add"}
    return {**region, "value": {**region["value"], "touches": [points]}}


def decoded_pages(results: Iterable[Mapping[str, Any]]) -> dict[int, NDArray[np.bool_]]:
    """The (H, W) mask of each page that results have mask regions on."""
    return {page: decode_rle(rle) for page, rle in masks_by_page(page_masks(results)).items()}
