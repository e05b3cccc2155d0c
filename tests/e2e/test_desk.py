"""What an annotator sees at the desk: the whole picture, which never moves, and what to switch on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest

from ml_backend.demo.samples import Sample
from ml_backend.label_studio.client import LabelStudioClient
from tests.e2e.conftest import ARTEFACTS, Project
from tests.support.label_studio import LabelingPage, until

SIZES = ((1440, 900), (1280, 720))
SCHEMES: tuple[Literal["light", "dark"], ...] = ("dark", "light")
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
        if (width, height) == SIZES[0] and name != "video.xml":  # a video needs no switch
            labeling.page.get_by_text(re.compile("^Auto-Annotation is off")).first.wait_for()
        labeling.switch_on_auto_annotation()
        assert not shows(labeling, re.compile("^Auto-Annotation is off"))
        before = picture(labeling, PICTURES[name])
        assert before[0] < 0.4 * height
        assert before[1] <= min(bottom_of_the_desk(labeling), height)
        for text in ("the backpack", samples[0].expression):
            labeling.ask(text)
            assert picture(labeling, PICTURES[name]) == before
        labeling.page.locator(".steerseg-status").first.hover()
        text_of_status = labeling.page.locator(".steerseg-status p").first
        assert text_of_status.evaluate("p => p.scrollHeight <= p.clientHeight"), (
            "all of it is under the mouse"
        )
        assert picture(labeling, PICTURES[name]) == before
        labeling.page.mouse.move(0, 0)
        for scheme in SCHEMES:
            labeling.page.emulate_media(color_scheme=scheme)
            labeling.page.evaluate(
                "scheme => document.documentElement.setAttribute('data-color-scheme', scheme)", scheme
            )
            labeling.page.screenshot(path=ARTEFACTS / f"desk-{name}-{width}-{scheme}.png")


def test_the_page_says_which_key_or_tool_a_click_lacks(
    labeling: LabelingPage, frames_project: Project
) -> None:
    labeling.open(frames_project.id, frames_project.first_task)
    labeling.switch_on_auto_annotation()
    labeling.page.evaluate("document.activeElement.blur()")
    assert shows(labeling, re.compile("^Click: 5"))
    labeling.page.keyboard.press("5")
    until(lambda: shows(labeling, re.compile("^Press M")), "the hint to take the tool", limit=60)
    labeling.page.keyboard.press("m")
    until(lambda: shows(labeling, re.compile("^Click: 5")), "no hint that anything lacks", limit=60)
    labeling.page.keyboard.press("5")  # the label is let go, as Label Studio does after each click
    until(lambda: shows(labeling, re.compile("^Before each click")), "the hint to choose a label", limit=60)


def test_a_task_that_is_submitted_while_the_backend_works_gets_the_answer_afterwards(
    labeling: LabelingPage,
    frames_project: Project,
    client: LabelStudioClient,
    held_models: Callable[[], None],
) -> None:
    asked, known = "the backpack in the picture", client.tasks.get(frames_project.first_task)["data"]
    (task,) = client.tasks.create(frames_project.id, [{"data": known}])

    def pages_of_the_answer(results: list[dict[str, Any]]) -> set[int]:
        masks = [one for one in results if one["type"] == "brushlabels" and one["meta"]["text"][0] == asked]
        return {one["item_index"] for one in masks}

    labeling.open(frames_project.id, task, predicted=False)
    labeling.switch_on_auto_annotation()
    with labeling.page.expect_request(lambda request: "interactive-annotating" in request.url):
        labeling.type_expression(asked)
    until(lambda: shows(labeling, re.compile("^Working on it")), "a sign of the work", limit=60)
    labeling.page.screenshot(path=ARTEFACTS / "desk-working.png")
    labeling.choose("Accept")
    submitted = labeling.submit()
    assert not pages_of_the_answer(submitted["result"])
    held_models()
    found = until(
        lambda: pages_of_the_answer(client.annotations.get(submitted["id"])["result"]),
        "the answer in the annotation",
    )
    assert len(found) > 0.8 * len(known["frames"])
    stored = client.annotations.get(submitted["id"])["result"]
    assert [one["value"]["choices"] for one in stored if one["type"] == "choices"] == [["accept"]]
    assert [one["value"]["text"] for one in stored if one["from_name"] == "expression"] == [[asked]]


def test_a_frame_is_reached_by_its_number_and_not_by_an_address(
    labeling: LabelingPage, frames_project: Project
) -> None:
    """Label Studio reads ``region`` from an address, but makes the annotation anew behind the selection."""
    task = frames_project.first_task
    results = frames_project.predictions[task][-1]["result"]
    (region, *_) = [one["id"] for one in results if one.get("item_index") == 7]
    page = labeling.page
    page.goto(f"{labeling.server.url}/projects/{frames_project.id}/data?task={task}&region={region}")
    page.wait_for_function("window.Htx?.annotationStore?.selected?.regions?.length > 0")
    page.wait_for_timeout(2000)
    assert page.evaluate("window.Htx.annotationStore.selected.selectedRegions.length") == 0
    page.locator(".lsf-pagination__page-indicator").first.click()
    number = page.locator(".lsf-pagination input").first
    number.fill("8")
    number.press("Enter")
    labeling.wait_for_page(7)


def test_a_list_of_tasks_shows_their_pictures(labeling: LabelingPage, frames_project: Project) -> None:
    labeling.page.goto(f"{labeling.server.url}/projects/{frames_project.id}/data")
    picture_of_a_task = labeling.page.locator("img[alt=Data]").first
    picture_of_a_task.wait_for()
    until(
        lambda: picture_of_a_task.evaluate("image => image.complete && image.naturalWidth > 0"),
        "the first frame of a task",
        limit=30,
    )
    assert not labeling.page.get_by_text("/data/local-files/").count(), "no addresses in its place"
    labeling.page.screenshot(path=ARTEFACTS / "desk-tasks.png")
    labeling.page.goto(f"{labeling.server.url}/projects")
    labeling.page.get_by_text(re.compile("Type what to track, correct the masks, submit.")).first.wait_for()


def test_masks_are_outlined_against_any_background(labeling: LabelingPage, frames_project: Project) -> None:
    labeling.open(frames_project.id, frames_project.first_task)
    masks = labeling.page.locator(".konvajs-content canvas[style*='opacity: 0.6']").first
    masks.wait_for()
    look = masks.evaluate("canvas => [getComputedStyle(canvas).opacity, getComputedStyle(canvas).filter]")
    assert look[0] == "1"
    assert "feMorphology" in look[1]
    labeling.page.screenshot(path=ARTEFACTS / "desk-outlines.png")


def test_the_page_says_how_paint_spreads(
    labeling: LabelingPage, frames_project: Project, client: LabelStudioClient
) -> None:
    known = client.tasks.get(frames_project.first_task)["data"]
    (task,) = client.tasks.create(frames_project.id, [{"data": known}])  # its draft is nobody else's
    labeling.open(frames_project.id, task, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.page.evaluate("document.activeElement.blur()")
    labeling.page.keyboard.press("1")
    until(lambda: shows(labeling, re.compile("^After painting")), "the hint for painting", limit=60)
    labeling.page.screenshot(path=ARTEFACTS / "desk-painting.png")
    labeling.page.keyboard.press("Escape")
    labeling.answered(lambda: labeling.type_expression(" "))
    until(lambda: "No painted frame has arrived yet." in labeling.status(), "an answer to a space", limit=30)


def test_a_video_takes_drawn_boxes_and_further_objects(
    labeling: LabelingPage, video_project: Project, client: LabelStudioClient
) -> None:
    known = client.tasks.get(video_project.first_task)["data"]
    (task,) = client.tasks.create(
        video_project.id, [{"data": {"video": known["video"], "fps": known["fps"]}}]
    )
    labeling.open(video_project.id, task, predicted=False)
    labeling.page.get_by_text(re.compile(r"of \d+$")).first.wait_for()  # the player is there
    labeling.page.wait_for_timeout(1000)
    assert not labeling.page.get_by_test_id("bottombar-auto-annotation-toggle").is_checked()
    labeling.drag((0.6, 0.5), (0.7, 0.7))
    until(lambda: labeling.listed() == 1, "the drawn box", limit=60)
    labeling.select_region()
    labeling.answered(lambda: labeling.page.keyboard.press("2"))
    until(lambda: "Object 2, drawn on frame 1, is tracked" in labeling.status(), "its track", limit=30)
    (drawn,) = labeling.of_type("videorectangle")
    assert drawn["value"]["labels"] == ["object 2"]
    labeling.page.keyboard.press("Escape")
    labeling.ask("object 3: the backpack")
    tracks = labeling.of_type("videorectangle")
    assert sorted(track["value"]["labels"][0] for track in tracks) == ["object 2", "object 3"]
    assert labeling.listed() == len(tracks), "the message is no region of the video"
    labeling.page.screenshot(path=ARTEFACTS / "desk-video-objects.png")
    annotation = labeling.submit()
    assert {result["to_name"] for result in annotation["result"] if result["from_name"] == "status"} == {
        "message"
    }
