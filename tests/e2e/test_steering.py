"""An annotator steers in a real browser: texts, clicks, boxes, strokes, several objects, texts beside boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.demo.samples import Sample
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.region_masks import page_masks
from ml_backend.label_studio.results import instance_id
from tests.e2e.conftest import ARTEFACTS, Project
from tests.support.label_studio import LabelingPage, until


def expect_status(labeling: LabelingPage, *texts: str) -> None:
    """Wait until the status has any of these texts: an answer is put on the page after it has arrived."""
    until(lambda: any(some in labeling.status() for some in texts), f"a status with {texts}", limit=30)


def series(labeling: LabelingPage, task: int, place: int = 0) -> dict[int, dict[str, Any]]:
    """The regions of one object by page."""
    name = instance_id(task, "", place)
    return {r["item_index"]: r for r in labeling.of_type("brushlabels") if r["id"].startswith(name)}


def mask_of(region: dict[str, Any]) -> NDArray[np.bool_]:
    return page_masks([region])[0].mask


def middle_of(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The middle of a mask, in fractions of the page."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) / mask.shape[1], float(rows.mean()) / mask.shape[0]


def test_words_clicks_boxes_and_strokes_steer_an_object_on_all_pages(
    labeling: LabelingPage, frames_project: Project, client: LabelStudioClient, samples: list[Sample]
) -> None:
    data = {"frames": client.tasks.get(frames_project.first_task)["data"]["frames"]}
    (task,) = client.tasks.create(frames_project.id, [{"data": data}])
    labeling.open(frames_project.id, task, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask(samples[0].expression)
    first = series(labeling, task)
    page = min(first)
    assert "Understood as" in labeling.status()

    middle = middle_of(mask_of(first[page]))
    for number in range(page):
        labeling.turn_page()
        labeling.wait_for_page(number + 1)
    labeling.mark("positive", middle, middle)
    expect_status(labeling, "1 click on the object.")
    assert set(first) <= set(series(labeling, task))
    labeling.page.screenshot(path=ARTEFACTS / "steering-click.png")

    labeling.turn_page()
    labeling.wait_for_page(page + 1)
    rows, columns = np.nonzero(mask_of(series(labeling, task)[page + 1]))
    height, width = first[page]["original_height"], first[page]["original_width"]
    # A drag that begins on the canvas' very edge may begin beside it.
    left, top = max(1, columns.min()), max(1, rows.min())
    corners = (left / width, top / height), (columns.max() / width, rows.max() / height)
    labeling.mark("box", *corners)
    expect_status(labeling, "1 click on the object; 1 box")

    # A stroke on this page: it stays to the pixel, and the other pages follow once Enter is pressed.
    labeling.use_tool("move-tool")
    x, y = middle_of(mask_of(series(labeling, task)[page + 1]))
    box = labeling.canvas.bounding_box()
    assert box is not None
    labeling.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    labeling.use_tool("brush-tool")
    labeling.drag((0.1, 0.85), (0.3, 0.85))
    middle_of_stroke = int(0.85 * height), int(0.2 * width)
    stroked = mask_of(series(labeling, task)[page + 1])
    assert stroked[middle_of_stroke], "the stroke is a part of the object's region"
    labeling.page.keyboard.press("Escape")

    def drafted() -> bool:
        """Whether Label Studio has saved the draft with the stroke, which is how strokes get to the backend."""
        regions = [region for draft in client.tasks.get(task)["drafts"] for region in draft["result"]]
        painted = [one for one in regions if one["type"] == "brushlabels" and one["item_index"] == page + 1]
        return any(mask_of(one)[middle_of_stroke] for one in painted)

    until(drafted, "a draft with the stroke")
    labeling.answered(lambda: labeling.type_expression(samples[0].expression))
    expect_status(labeling, f"Frame {page + 2} stays as you left it.")
    assert (mask_of(series(labeling, task)[page + 1]) == stroked).all()
    labeling.page.screenshot(path=ARTEFACTS / "steering-stroke.png")

    # Another object beside it, and another candidate for it.
    before = {number: mask_of(region) for number, region in series(labeling, task).items()}
    labeling.page.locator("label", has_text="object 2").first.click()
    labeling.ask("the backpack")
    added = series(labeling, task, 1)
    assert {region["value"]["brushlabels"][0] for region in added.values()} == {"object 2"}
    labeling.page.screenshot(path=ARTEFACTS / "steering-objects.png")
    labeling.answered(lambda: labeling.type_expression("#2"))
    expect_status(labeling, "#2 of", "no #2")
    after = {number: mask_of(region) for number, region in series(labeling, task).items()}
    assert after.keys() == before.keys()
    assert all((after[number] == before[number]).all() for number in before)

    shown = {region["id"] for region in labeling.of_type("brushlabels")}
    labeling.submit()
    labeling.page.wait_for_timeout(2000)  # for the call that Label Studio makes after a submission
    (stored,) = client.tasks.get(task)["annotations"]
    kept = {region["id"] for region in stored["result"] if region["type"] == "brushlabels"}
    assert shown <= kept


def test_the_message_beside_a_video_can_be_selected(labeling: LabelingPage, video_project: Project) -> None:
    """The editor lists it as a span of the timeline."""
    labeling.open(video_project.id, video_project.first_task)
    labeling.switch_on_auto_annotation()
    labeling.ask("the backpack")
    for place in range(labeling.listed()):
        labeling.page.locator(".lsf-outliner-item").nth(place).click()
        labeling.page.wait_for_timeout(500)
    labeling.page.screenshot(path=ARTEFACTS / "steering-video-message.png")
    labeling.ask("the globe")
    assert len(labeling.of_type("videorectangle")) == 1


def test_a_text_beside_a_box_track_tracks_that_box_anew(
    labeling: LabelingPage, video_project: Project, samples: list[Sample]
) -> None:
    _, task, *_ = sorted(video_project.predictions)  # what it asks for is there
    labeling.open(video_project.id, task)
    labeling.switch_on_auto_annotation()
    (before,) = labeling.of_type("videorectangle")
    field = labeling.page.get_by_placeholder("text for this box, then Enter").first
    field.fill("the animal")

    labeling.answered(lambda: field.press("Enter"))
    until(
        lambda: labeling.of_type("videorectangle")[0]["meta"]["text"][0] == "the animal",
        "a box track by the box's own text",
        limit=30,
    )
    (track,) = labeling.of_type("videorectangle")
    assert track["id"] == before["id"]
    assert track["value"]["labels"] == before["value"]["labels"]
    assert track["meta"]["text"][0] == "the animal"
    assert labeling.texts("region_expression") == ["the animal"]
    labeling.page.screenshot(path=ARTEFACTS / "steering-video.png")
