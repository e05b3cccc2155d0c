"""What an annotator sees at the desk: the whole picture, which never moves, and what to switch on."""

from __future__ import annotations

import re

import pytest

from ml_backend.demo.samples import Sample
from ml_backend.label_studio.client import LabelStudioClient
from tests.e2e.conftest import ARTEFACTS, Project
from tests.support.label_studio import LabelingPage, until

SIZES = ((1440, 900), (1280, 720))
PICTURES = {"frames.xml": ".lsf-image", "video.xml": ".lsf-video__main", "video_and_frames.xml": ".lsf-image"}


def picture(labeling: LabelingPage, selector: str) -> tuple[float, float]:
    """The picture's upper and lower edge on the screen, in pixels."""
    box = labeling.page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"], box["y"] + box["height"]


def bottom_of_the_desk(labeling: LabelingPage) -> float:
    """Where the bar with *Submit* begins."""
    box = labeling.page.get_by_role("button", name="Submit").bounding_box()
    assert box is not None
    return box["y"]


def shows(labeling: LabelingPage, text: str | re.Pattern[str]) -> bool:
    return labeling.page.get_by_text(text).first.is_visible()


@pytest.mark.parametrize("project", ["frames_project", "video_project", "both_project"])
def test_the_picture_is_on_screen_and_does_not_move(
    labeling: LabelingPage,
    project: str,
    samples: list[Sample],
    client: LabelStudioClient,
    request: pytest.FixtureRequest,
) -> None:
    made: Project = request.getfixturevalue(project)
    (task,) = client.tasks.create(made.id, [{"data": client.tasks.get(made.first_task)["data"]}])
    name = {"frames_project": "frames.xml", "video_project": "video.xml"}.get(project, "video_and_frames.xml")
    for width, height in SIZES:
        labeling.page.set_viewport_size({"width": width, "height": height})
        labeling.open(made.id, task, predicted=False)
        labeling.page.locator(PICTURES[name]).first.wait_for()
        if (width, height) == SIZES[0]:
            assert shows(labeling, re.compile("^Auto-Annotation is off")), "the page says what to switch on"
        labeling.switch_on_auto_annotation()
        assert not shows(labeling, re.compile("^Auto-Annotation is off"))
        before = picture(labeling, PICTURES[name])
        assert before[0] < 0.4 * height
        assert before[1] <= bottom_of_the_desk(labeling)
        labeling.page.screenshot(path=ARTEFACTS / f"desk-{name}-{width}.png")
        if width == SIZES[0][0]:
            for text in ("the backpack", samples[0].expression):
                labeling.ask(text)
                assert picture(labeling, PICTURES[name]) == before


def test_the_page_says_which_key_or_tool_a_click_lacks(
    labeling: LabelingPage, frames_project: Project
) -> None:
    labeling.open(frames_project.id, frames_project.first_task)
    labeling.switch_on_auto_annotation()
    labeling.page.evaluate("document.activeElement.blur()")
    assert shows(labeling, re.compile("^Click: 5"))
    labeling.page.keyboard.press("5")
    until(lambda: shows(labeling, re.compile("^Press M")), "the hint to take the tool", limit=10)
    labeling.page.keyboard.press("m")
    until(lambda: shows(labeling, re.compile("^Click: 5")), "no hint that anything lacks", limit=10)
    labeling.page.keyboard.press("5")  # the label is let go, as Label Studio does after each click
    until(lambda: shows(labeling, re.compile("^Before each click")), "the hint to choose a label", limit=10)
