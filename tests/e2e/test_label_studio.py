"""The whole way in a real Label Studio: predictions stored, seen, corrected, submitted, exported."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from numpy.typing import NDArray
from playwright.sync_api import Response

from ml_backend.demo.samples import Sample
from ml_backend.demo.servers import BackendServer
from ml_backend.demo.verifying import problems_of, shapes_of
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.results import instance_id
from tests.e2e.conftest import Command, Project
from tests.support.annotator import decoded_pages
from tests.support.label_studio import LabelingPage, until


def events(backend: BackendServer, project: int) -> list[tuple[str, dict[str, Any]]]:
    """Action and payload of every webhook event that the backend has kept of a project."""
    database = backend.data_dir / "steerseg.sqlite"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT action, payload FROM events WHERE project_id = ? ORDER BY id", (project,)
        ).fetchall()
    return [(action, json.loads(payload)) for action, payload in rows]


def wait_for_event(backend: BackendServer, project: int, action: str, annotation: int) -> dict[str, Any]:
    """Wait for the event of one annotation and return its payload."""

    def arrived() -> dict[str, Any] | None:
        for name, payload in events(backend, project):
            if name == action and payload["annotation"]["id"] == annotation:
                return payload
        return None

    payload = until(arrived, f"{action} of annotation {annotation}", limit=30)
    assert payload is not None
    return payload


def export(client: LabelStudioClient, project: int, kind: str = "JSON") -> list[dict[str, Any]]:
    """What Label Studio exports."""
    answer = client.request(
        "GET", f"/api/projects/{project}/export", params={"exportType": kind}, timeout=120
    ).json()
    assert isinstance(answer, list)
    return answer


def check_predictions(project: Project) -> None:
    """Each task has ranked, valid predictions of the version that the backend names."""
    interface = LabelInterface(project.label_config)
    for found in project.predictions.values():
        assert {prediction["model_version"] for prediction in found} == {project.version}
        scores = [prediction["score"] for prediction in found]
        assert scores == sorted(scores), "Label Studio opens a task with what was stored last: the best"
        for prediction in found:
            assert problems_of(interface, prediction) == []


def places(track: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """A track's keyframes without their time, which Label Studio writes anew."""
    return [
        (box["frame"], box["enabled"], *(round(box[key], 4) for key in ("x", "y", "width", "height")))
        for box in track["value"]["sequence"]
    ]


# --- connect, import, retrieve


def test_frames_tasks_get_masks_on_their_pages(frames_project: Project, samples: list[Sample]) -> None:
    assert len(frames_project.predictions) == len(samples)
    check_predictions(frames_project)
    for task, found in frames_project.predictions.items():
        regions = shapes_of(found[-1]["result"])
        pages = [region["item_index"] for region in regions]
        assert len(set(pages)) == len(pages) > 1
        assert 0 <= min(pages) <= max(pages) < frames_project.pages[task]
        for region in regions:
            height, width = region["original_height"], region["original_width"]
            mask = np.asarray(decode_rle(region["value"]["rle"])).reshape(height, width, 4)[:, :, 3]
            assert 0 < (mask > 127).sum() < height * width


def test_video_tasks_get_box_tracks(video_project: Project, samples: list[Sample]) -> None:
    assert len(video_project.predictions) == len(samples)
    check_predictions(video_project)
    for task, found in video_project.predictions.items():
        (track,) = shapes_of(found[-1]["result"])
        sequence = track["value"]["sequence"]
        numbers = [box["frame"] for box in sequence]
        assert numbers == sorted(set(numbers))
        assert 1 <= numbers[0] <= numbers[-1] <= video_project.pages[task]
        assert track["value"]["framesCount"] == video_project.pages[task]
        for box in sequence:
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 100.01
            assert 0 <= box["y"] <= box["y"] + box["height"] <= 100.01


def test_a_task_with_video_and_frames_gets_both(both_project: Project) -> None:
    check_predictions(both_project)
    for found in both_project.predictions.values():
        kinds = [region["type"] for region in shapes_of(found[-1]["result"])]
        assert kinds.count("videorectangle") == 1
        assert kinds.count("brushlabels") > 1


def test_predictions_of_the_present_version_are_not_asked_for_again(
    client: LabelStudioClient, frames_project: Project, steerseg_backend: Command
) -> None:
    told = steerseg_backend("predict", str(frames_project.id))
    assert f"0 tasks predicted by {frames_project.version}" in told
    for task, found in frames_project.predictions.items():
        assert len(client.predictions.of_task(task)) == len(found)


def test_connecting_again_changes_nothing(
    client: LabelStudioClient, frames_project: Project, steerseg_backend: Command, backend: BackendServer
) -> None:
    hooks, models = (
        client.webhooks.of_project(frames_project.id),
        client.backends.of_project(frames_project.id),
    )
    assert [hook["url"] for hook in hooks] == [f"{backend.url}/webhook"]
    steerseg_backend("connect", "--project", str(frames_project.id))
    assert [hook["id"] for hook in client.webhooks.of_project(frames_project.id)] == [
        hook["id"] for hook in hooks
    ]
    assert [model["id"] for model in client.backends.of_project(frames_project.id)] == [
        model["id"] for model in models
    ]


# --- in the browser


def test_masks_are_seen_corrected_and_submitted(
    labeling: LabelingPage,
    frames_project: Project,
    client: LabelStudioClient,
    backend: BackendServer,
    samples: list[Sample],
) -> None:
    task = frames_project.first_task
    best = frames_project.predictions[task][-1]
    labeling.open(frames_project.id, task)
    assert samples[0].expression in labeling.status()
    assert labeling.texts("expression") == [samples[0].expression]

    proposed = labeling.of_type("brushlabels")
    assert [region["id"] for region in proposed] == [r["id"] for r in shapes_of(best["result"])]
    assert labeling.listed() > 1
    shown = [region["item_index"] for region in proposed]
    for number in range(shown[0]):
        labeling.turn_page()
        labeling.wait_for_page(number + 1)
    until(labeling.drawn_pixels, f"a mask on page {shown[0] + 1}", limit=30)

    labeling.choose("Accept")
    labeling.select_region(0)
    labeling.use_tool("brush-tool")
    labeling.drag((0.45, 0.5), (0.55, 0.55))
    annotation = labeling.submit()

    stored = client.tasks.get(task)["annotations"]
    assert [a["id"] for a in stored] == [annotation["id"]]
    masks = [region for region in stored[0]["result"] if region["type"] == "brushlabels"]
    assert len(masks) >= len(proposed)
    changed = [region["item_index"] for region in masks if region["origin"] != "prediction"]
    assert changed == [shown[0]], "the painted page, and no other"
    (verdict,) = [region for region in stored[0]["result"] if region["type"] == "choices"]
    assert verdict["value"]["choices"] == ["accept"]

    payload = wait_for_event(backend, frames_project.id, "ANNOTATION_CREATED", annotation["id"])
    assert payload["task"]["id"] == task
    assert len(payload["annotation"]["result"]) == len(stored[0]["result"])

    exported = {entry["id"]: entry for entry in export(client, frames_project.id)}
    (out,) = exported[task]["annotations"]
    assert {r["item_index"] for r in shapes_of(out["result"])} == {r["item_index"] for r in masks}
    assert export(client, frames_project.id, "JSON_MIN")


def test_box_tracks_are_seen_corrected_and_submitted(
    labeling: LabelingPage, video_project: Project, client: LabelStudioClient, backend: BackendServer
) -> None:
    task = video_project.first_task
    best = video_project.predictions[task][-1]
    labeling.open(video_project.id, task)
    (track,) = labeling.of_type("videorectangle")
    assert places(track) == places(shapes_of(best["result"])[0])
    assert labeling.listed() == 1

    labeling.choose("Accept")
    labeling.select_region(0)
    labeling.page.get_by_text("object 2", exact=True).first.click()
    annotation = labeling.submit()

    (stored,) = client.tasks.get(task)["annotations"]
    (corrected,) = shapes_of(stored["result"])
    assert corrected["value"]["labels"] == ["object 2"] != track["value"]["labels"]
    assert places(corrected) == places(track)
    payload = wait_for_event(backend, video_project.id, "ANNOTATION_CREATED", annotation["id"])
    assert payload["annotation"]["result"]

    exported = {entry["id"]: entry for entry in export(client, video_project.id)}
    assert places(shapes_of(exported[task]["annotations"][0]["result"])[0]) == places(track)


def test_video_and_frames_are_seen_and_submitted(
    labeling: LabelingPage, both_project: Project, client: LabelStudioClient
) -> None:
    task = both_project.first_task
    labeling.open(both_project.id, task)
    assert len(labeling.of_type("videorectangle")) == 1
    assert len(labeling.of_type("brushlabels")) > 1
    labeling.choose("Reject")
    labeling.submit()
    (stored,) = client.tasks.get(task)["annotations"]
    assert len(shapes_of(stored["result"])) == len(shapes_of(both_project.predictions[task][-1]["result"]))
    assert export(client, both_project.id)


def test_an_expression_that_is_typed_gets_masks(
    labeling: LabelingPage,
    frames_project: Project,
    client: LabelStudioClient,
    samples: list[Sample],
) -> None:
    # A task that names nothing to track: no prediction is stored for it, so that the annotator has to ask.
    data = {"frames": client.tasks.get(frames_project.first_task)["data"]["frames"]}
    (task,) = client.tasks.create(frames_project.id, [{"data": data}])
    labeling.open(frames_project.id, task, predicted=False)
    assert labeling.result() == []
    assert client.predictions.of_task(task) == []

    labeling.switch_on_auto_annotation()
    labeling.ask(samples[0].expression)
    assert len({region["item_index"] for region in labeling.of_type("brushlabels")}) > 1
    first = {region["id"] for region in labeling.of_type("brushlabels")}

    # Another text replaces what the first one gave.
    labeling.ask(f"{samples[0].expression} please")
    pages = [region["item_index"] for region in labeling.of_type("brushlabels")]
    assert len(pages) == len(set(pages))
    assert first & {region["id"] for region in labeling.of_type("brushlabels")}

    labeling.submit()
    (stored,) = client.tasks.get(task)["annotations"]
    assert sorted(region["item_index"] for region in shapes_of(stored["result"])) == sorted(pages)


def test_pages_that_nobody_looked_at_are_stored_with_the_last_answer(
    labeling: LabelingPage, frames_project: Project, client: LabelStudioClient
) -> None:
    """Label Studio's editor submits the first masks of pages that it has not shown, whatever took their place."""
    first = frames_project.first_task
    data = {"frames": client.tasks.get(first)["data"]["frames"]}
    (task,) = client.tasks.create(frames_project.id, [{"data": data}])
    old, new = instance_id(first, "", 0), instance_id(task, "", 0)
    found = frames_project.predictions[first][-1]
    result = [{**item, "id": str(item["id"]).replace(old, new)} for item in found["result"]]
    client.predictions.create(task, result, score=found["score"], model_version=frames_project.version)

    labeling.open(frames_project.id, task)
    labeling.switch_on_auto_annotation()
    answers: list[Response] = []
    labeling.page.on("response", lambda got: answers.append(got) if "interactive" in got.url else None)
    labeling.ask("the backpack")
    expected = decoded_pages(answers[-1].json()["data"]["result"])
    assert len(expected) > 1
    submitted = labeling.submit()
    (stored,) = client.annotations.of_task(task)
    until(
        lambda: same_masks(decoded_pages(client.annotations.get(stored["id"])["result"]), expected),
        "an annotation with the answered masks on all of its pages",
        limit=60,
    )
    kept = client.annotations.get(stored["id"])["result"]
    others = [item for item in submitted["result"] if item["type"] != "brushlabels"]
    assert [item for item in kept if item["type"] != "brushlabels"] == others


def same_masks(found: Mapping[int, NDArray[np.bool_]], expected: Mapping[int, NDArray[np.bool_]]) -> bool:
    """Whether all pages show the same, up to the edge that the editor smooths."""
    visible = {page: mask for page, mask in expected.items() if mask.any()}
    there = {page: mask for page, mask in found.items() if mask.any()}
    return there.keys() == visible.keys() and all(
        (there[page] & mask).sum() > 0.9 * (there[page] | mask).sum() for page, mask in visible.items()
    )


def test_a_bad_expression_is_explained_and_a_better_one_replaces_the_masks(
    labeling: LabelingPage, frames_project: Project, samples: list[Sample]
) -> None:
    labeling.open(frames_project.id, frames_project.first_task)
    before = {region["id"] for region in labeling.of_type("brushlabels")}
    labeling.switch_on_auto_annotation()
    labeling.type_expression("dog " * 400)
    until(lambda: "characters" in labeling.status(), "a status that says what is wrong", limit=60)
    assert {region["id"] for region in labeling.of_type("brushlabels")} == before

    labeling.ask("the backpack")
    masks = labeling.of_type("brushlabels")
    pages = [region["item_index"] for region in masks]
    assert len(pages) == len(set(pages)), "the new masks took the place of the old ones"
    assert "the backpack" in {text for region in masks for text in region["meta"]["text"]}
