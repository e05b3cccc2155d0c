"""What is asked for and is not in the video: no mask, a verdict that is ready to submit, and no stored prediction."""

from __future__ import annotations

import re

from ml_backend.label_studio.client import LabelStudioClient
from tests.e2e.conftest import ARTEFACTS, Command, Project
from tests.support.label_studio import LabelingPage, until


def verdict(labeling: LabelingPage) -> list[str]:
    return [
        choice
        for item in labeling.of_type("choices")
        if item["from_name"] == "verdict"
        for choice in item["value"]["choices"]
    ]


def checked(labeling: LabelingPage) -> bool:
    return labeling.page.locator("label", has_text="Not visible").first.locator("input").is_checked()


def test_what_is_not_there_is_ready_to_be_submitted_as_such(
    labeling: LabelingPage,
    frames_project: Project,
    client: LabelStudioClient,
    steerseg_backend: Command,
) -> None:
    frames = client.tasks.get(frames_project.first_task)["data"]["frames"]
    data = {"frames": frames, "expression": "the purple giraffe"}
    (task,) = client.tasks.create(frames_project.id, [{"data": data}])
    told = steerseg_backend("predict", str(frames_project.id))
    assert re.search(rf"1 tasks ask for what is hardly in their video.*\n  task {task}: presence 0\.", told)
    assert not client.predictions.of_task(task), "an empty prediction is never stored"
    labeling.open(frames_project.id, task, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask("the purple giraffe")
    assert "is hardly in the video (presence 0." in labeling.status()
    until(lambda: checked(labeling), "the verdict", limit=10)
    assert verdict(labeling) == ["Not visible"]
    labeling.page.screenshot(path=ARTEFACTS / "absent-verdict.png")
    labeling.ask("the backpack")
    assert labeling.of_type("brushlabels")
    until(lambda: not checked(labeling), "no verdict on what was found", limit=10)
    assert verdict(labeling) == []
    (other,) = client.tasks.create(frames_project.id, [{"data": data}])
    labeling.open(frames_project.id, other, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask("the purple giraffe")
    until(lambda: checked(labeling), "the verdict", limit=10)
    result = labeling.submit()["result"]
    assert [item["value"]["choices"] for item in result if item["from_name"] == "verdict"] == [
        ["Not visible"]
    ]
    assert not [item for item in result if item["type"] == "brushlabels"]
