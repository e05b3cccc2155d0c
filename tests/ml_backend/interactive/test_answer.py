"""Clicks, boxes, paint and expressions as Label Studio sends them: the state that they make, and the answers."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle

from ml_backend.interactive.mask_regions import read_mask_regions
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.region_masks import page_masks
from steerseg.masks import encode_rle
from tests.support.annotator import OBJECTS, TASK, Annotator, painted, top
from tests.support.backend import Backend, MakeBackend, recorded
from tests.support.databases import EACH_DATABASE
from tests.support.requests import wait_until, with_expression

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def annotator(backend: Backend) -> Annotator:
    return Annotator(backend)


def test_clicks_and_boxes_of_any_page_add_up_and_move_all_pages(annotator: Annotator) -> None:
    annotator.type("the ball")
    before = set(annotator.series())
    annotator.point(3)
    assert {top(region) for region in annotator.series().values()} == {1}
    assert before <= set(annotator.series()) == set(range(12))
    annotator.point(7, "negative")
    box = {"type": "rectanglelabels", "from_name": "around"}
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["box"]}
    annotator.point(9, **box, value=value)
    assert {top(region) for region in annotator.series().values()} == {3}
    assert "2 clicks: 1 on the object, 1 beside it; 1 box" in annotator.status


@EACH_DATABASE
def test_the_same_call_twice_counts_once_and_gives_the_same_answer(annotator: Annotator) -> None:
    annotator.type("the ball")
    draft = dict(annotator.draft)
    first = annotator.point(3)
    annotator.draft, annotator.clicks = draft, 0
    assert annotator.point(3) == first
    assert "1 click on the object." in annotator.status
    assert [job.kind for job in JobStore(annotator.backend.database).newest()] == ["steer", "propose"]


@EACH_DATABASE
def test_prompts_outlast_a_restart_and_end_with_the_submission(
    make_backend: MakeBackend, annotator: Annotator
) -> None:
    annotator.type("the ball")
    annotator.point(3)
    annotator.backend.service.close()
    annotator.backend = make_backend()
    annotator.point(4)
    assert {top(region) for region in annotator.series().values()} == {2}

    submitted = recorded("webhook_annotation_created_frames_brush")
    submitted["annotation"] |= {"task": TASK, "completed_by": annotator.number}
    annotator.backend.post("/webhook", submitted)
    annotator.point(5)
    assert "1 click" in annotator.status
    assert "2 clicks" not in annotator.status


def test_people_do_not_steer_each_other(backend: Backend) -> None:
    one, other = Annotator(backend, 1), Annotator(backend, 2)
    for person in (one, other):
        person.type("the ball")
        person.point(3)
    one.point(4)
    assert "2 clicks" in one.status
    other.point(5)
    assert "2 clicks" in other.status


def test_a_click_is_a_job_that_can_be_cancelled_and_asked_for_again(
    annotator: Annotator, tmp_path: Path
) -> None:
    backend, release = annotator.backend, tmp_path / "release"
    annotator.type("the ball")
    busy = with_expression(recorded("predict_batch_video"), f"wait {release}")
    busy |= {"project": annotator.body["project"]}
    predicting = threading.Thread(target=backend.post, args=("/predict", busy))
    predicting.start()
    wait_until(Path(f"{release}.started").exists)
    clicking = threading.Thread(target=annotator.point, args=(3,))
    clicking.start()

    def waiting() -> list[str]:
        jobs = backend.client.get("/jobs").get_json()["jobs"]
        return [job["name"] for job in jobs if (job["kind"], job["state"]) == ("steer", "queued")]

    wait_until(lambda: len(waiting()) == 1)
    (name,) = waiting()
    assert backend.client.post(f"/jobs/{name}/cancel").status_code == 202
    clicking.join()
    assert annotator.status == "cancelled before it began"
    release.touch()
    predicting.join()
    assert backend.client.post(f"/jobs/{name}/cancel").status_code == 409
    annotator.clicks = 0
    annotator.point(3)
    assert {top(region) for region in annotator.series().values()} == {1}


def test_a_deleted_object_is_forgotten(annotator: Annotator) -> None:
    annotator.type("the ball")
    annotator.point(3)
    for region in annotator.series().values():
        del annotator.draft[region["id"]]
    annotator.point(4)
    assert "1 click on the object." in annotator.status


@EACH_DATABASE
def test_a_painted_page_stays_and_the_others_follow_it(annotator: Annotator) -> None:
    annotator.type("the ball")
    mine = annotator.series()[4]
    annotator.draft[mine["id"]] = painted(mine)
    del annotator.draft[annotator.series()[6]["id"]]  # not visible there
    answer = annotator.type("the ball")
    pages = {region["item_index"] for region in answer if "item_index" in region}
    assert pages.isdisjoint({4, 6})
    assert "Frames 5, 7 stay" in annotator.status
    assert annotator.draft[mine["id"]] == painted(mine)
    annotator.point(2)
    assert annotator.draft[mine["id"]] == painted(mine)
    assert 6 not in annotator.series()


def test_what_stands_there_already_is_not_sent_again(annotator: Annotator) -> None:
    assert annotator.type("the ball")
    again = annotator.type("the ball")
    assert [region["type"] for region in again] == ["textarea", "textarea"], (
        "the message, and the expression in force"
    )


def test_another_object_is_added_beside_the_first(annotator: Annotator) -> None:
    annotator.type("the ball")
    first = annotator.series(0)
    annotator.chosen = "other"
    annotator.type("the box")
    assert annotator.series(0) == first
    assert {region["value"]["brushlabels"][0] for region in annotator.series(1).values()} == {"other"}
    annotator.type("object: the sphere")
    assert {region["meta"]["text"][0] for region in annotator.series(0).values()} == {"the sphere"}


def test_several_objects_come_with_labels_in_order(annotator: Annotator) -> None:
    annotator.type("the two balls")
    labels = [
        {region["value"]["brushlabels"][0] for region in annotator.series(index).values()} for index in (0, 1)
    ]
    assert labels == [{"object"}, {"other"}]
    assert annotator.status.startswith("Tracked 2 objects for “the two balls”: object on 10 of 12 frames")


def test_a_candidate_is_picked_by_its_number(annotator: Annotator) -> None:
    annotator.type("the ball")
    assert "#2 (" in annotator.status
    before = {page: encode_rle(page_masks([r])[0].mask) for page, r in annotator.series().items()}
    annotator.type("#2")
    after = {page: encode_rle(page_masks([r])[0].mask) for page, r in annotator.series().items()}
    assert set(before) < set(after) == set(range(12))
    assert before[0] != after[0]
    annotator.type("#7")
    assert "no #7" in annotator.status


def test_where_a_mask_is_gone_a_blank_one_takes_its_place(annotator: Annotator) -> None:
    annotator.type("the ball")
    annotator.type("#2")  # on all frames
    annotator.type("#1")  # on the first ten
    last = page_masks([annotator.series()[11]])[0]
    assert not last.mask.any()


def test_an_expression_that_matches_nothing_leaves_the_pages_alone(annotator: Annotator) -> None:
    annotator.type("the ball")
    before = annotator.series()
    annotator.type("nothing here")
    assert annotator.series() == before
    assert "The closest match was at the top left of frame 1" in annotator.status


def test_what_is_hardly_there_leaves_the_pages_alone_until_it_is_chosen(annotator: Annotator) -> None:
    annotator.type("absent ball")
    assert annotator.series() == {}
    assert "is hardly in the video" in annotator.status
    annotator.type("#1")
    assert annotator.series()


NUMBERS = '<Choices name="which" toName="frames"><Choice value="1"/><Choice value="2"/></Choices>'


def test_two_instances_of_one_class_are_steered_apart(backend: Backend) -> None:
    annotator = Annotator(backend, objects=NUMBERS)
    annotator.type("the ball")
    annotator.chosen = "2"
    annotator.type("the other object")  # its class is the first that its expression names
    first, second = annotator.series(0), annotator.series(1)
    assert first.keys() == second.keys() != set()
    assert not {r["id"] for r in first.values()} & {r["id"] for r in second.values()}
    annotator.type("the object that stays")
    labels = {r["value"]["brushlabels"][0] for r in annotator.series(1).values()}
    assert labels == {"object"} == {r["value"]["brushlabels"][0] for r in annotator.series(0).values()}
    before = dict(annotator.series(0))
    annotator.point(3, label="negative")
    assert annotator.series(0) == before, "a click steers the chosen instance alone"


def test_paint_beside_an_instance_of_its_class_is_no_part_of_it(backend: Backend) -> None:
    annotator = Annotator(backend, objects=NUMBERS)
    annotator.type("the ball")
    (region,) = [r for r in annotator.draft.values() if r.get("item_index") == 2]
    side = parse_controls(annotator.body["label_config"]).frames
    assert side is not None
    copy = {**region, "id": "byHand"}
    read = read_mask_regions([*annotator.draft.values(), copy], side, TASK)
    assert list(read.adopted.get(0, {})) == [2], "the same place: a part"
    elsewhere = {**region, "id": "far", "value": {**region["value"]}}
    spot = np.zeros((region["original_height"], region["original_width"]), dtype=np.uint8)
    spot[:4, :4] = 255
    elsewhere["value"]["rle"] = mask2rle(spot)
    read = read_mask_regions([*annotator.draft.values(), elsewhere], side, TASK)
    assert read.adopted == {}


def test_an_open_vector_in_the_draft_is_named_in_the_status(backend: Backend) -> None:
    vectors = (
        '<VectorLabels name="path" toName="frames" closable="true"><Label value="object"/></VectorLabels>'
    )
    annotator = Annotator(backend, objects=OBJECTS + vectors)
    annotator.type("the ball")
    (shown,) = [r for r in annotator.draft.values() if r.get("item_index") == 2]
    path = [{"id": f"v{x}", "x": x, "y": x * x / 100, "prevPointId": None} for x in (10, 40, 90)]
    value = {"vertices": path, "closed": False, "vectorlabels": ["object"]}
    drawn = {**shown, "id": "line", "from_name": "path", "type": "vectorlabels", "value": value}
    annotator.draft["line"] = drawn
    before = annotator.series()
    annotator.point(3)
    assert "'line' (vectorlabels) is no area" in annotator.status
    assert "Close the path" in annotator.status
    assert annotator.series() == before
    value["closed"] = True
    annotator.point(3)
    assert "1 click on the object" in annotator.status
