"""Label Studio submits pages that were not shown as they came: the last answer takes over there."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from ml_backend.corrections.event_reader import annotation_digest
from ml_backend.corrections.reviews import ReviewStore
from ml_backend.corrections.serialization import DecisionDocument
from ml_backend.database.tables import AnnotationRow, CorrectionRow, SubmittedRow
from ml_backend.interactive.state import TaskState
from ml_backend.interactive.store import TaskStateKey, TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages
from ml_backend.label_studio.api.annotations import Annotations
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.errors import LabelStudioError
from tests.support.annotator import TASK, Annotator, decoded_pages, painted, top
from tests.support.backend import Backend, FakeLabelStudio, recorded
from tests.support.databases import EACH_DATABASE
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(120)
Result = dict[str, Any]
SEEN = 3
PROJECT = 2  # of the recorded events


@pytest.fixture
def annotator(
    backend: Backend, fake_label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Annotator:
    client = LabelStudioClient(fake_label_studio.url, "0" * 40)
    monkeypatch.setattr(backend.service.connections, "client", lambda project: client)
    return Annotator(backend)


def submitted_pages(annotator: Annotator) -> SubmittedPages:
    """What completes the annotator's submissions."""
    backend = annotator.backend
    return SubmittedPages(backend.database, TaskStateStore(backend.database), backend.service.connections)


def submit(
    annotator: Annotator, fake: FakeLabelStudio, results: list[Result], **changes: Any
) -> dict[str, Any]:
    """Let Label Studio have an annotation and send its event; returns the annotation."""
    event = recorded("webhook_annotation_created_frames_brush")
    event["annotation"] |= {"task": TASK, "completed_by": annotator.number, "result": results, **changes}
    event["task"]["id"] = TASK
    event["project"]["label_config"] = annotator.body["label_config"]
    annotation: dict[str, Any] = event["annotation"]
    fake.annotations[:] = [{**annotation, "task": TASK, "was_cancelled": False}]
    annotator.backend.post("/webhook", event)
    annotator.backend.service.ingestor.catch_up()
    return annotation


def tops(results: list[Result]) -> dict[int, int]:
    """The highest row of each page's mask."""
    pages = decoded_pages(r for r in results if "item_index" in r)
    return {page: int(np.flatnonzero(mask.any(axis=1))[0]) for page, mask in pages.items() if mask.any()}


def as_submitted(before: dict[str, Result], now: dict[str, Result]) -> list[Result]:
    """What the editor gives: new masks of new regions and of pages that were shown, the first ones of others."""
    return [
        region if region.get("item_index", 0) < SEEN or number not in before else before[number]
        for number, region in now.items()
    ]


@EACH_DATABASE
def test_the_last_answer_is_on_every_page(annotator: Annotator, fake_label_studio: FakeLabelStudio) -> None:
    annotator.type("the ball")
    before = dict(annotator.draft)
    annotator.point(3)
    results = as_submitted(before, annotator.draft)
    assert set(tops(results).values()) == {1, 4}, "the editor has left something out"
    annotation = submit(annotator, fake_label_studio, results)
    assert set(tops(fake_label_studio.annotations[0]["result"]).values()) == {1}
    assert len(tops(fake_label_studio.annotations[0]["result"])) == 12
    kept = [r for r in fake_label_studio.annotations[0]["result"] if "item_index" not in r]
    assert kept == [r for r in results if "item_index" not in r]
    # What is learned from it is the same.
    completed = submitted_pages(annotator).complete(annotation, 1, TASK, annotator.body["label_config"])
    assert set(tops(list(completed["result"])).values()) == {1}
    # The editor is still open, and submits the same once more.
    fake_label_studio.annotations.clear()
    submit(annotator, fake_label_studio, results, result_count=1)
    assert set(tops(fake_label_studio.annotations[0]["result"]).values()) == {1}


def test_what_the_annotator_painted_stays(annotator: Annotator, fake_label_studio: FakeLabelStudio) -> None:
    annotator.type("the ball")
    before = dict(annotator.draft)
    annotator.point(3)
    results = as_submitted(before, annotator.draft)
    (stroke,) = [region for region in results if region.get("item_index") == 7]
    results = [painted(region) if region is stroke else region for region in results]
    submit(annotator, fake_label_studio, results)
    found = tops(fake_label_studio.annotations[0]["result"])
    assert found.pop(7) == top(painted(stroke))
    assert set(found.values()) == {1}


def test_an_answer_that_nobody_touched_is_no_hand_drawn_mask(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    annotator.type("the ball")
    annotator.point(3)
    results = [
        {**(painted(region) if region.get("item_index") == 7 else region), "origin": "manual"}
        for region in annotator.draft.values()
    ]
    annotation = submit(annotator, fake_label_studio, results)
    completed = submitted_pages(annotator).complete(annotation, 1, TASK, annotator.body["label_config"])
    origins = {r["item_index"]: r["origin"] for r in completed["result"] if "item_index" in r}
    assert {page for page, origin in origins.items() if origin == "manual"} == {3, 7}
    assert {origin for page, origin in origins.items() if page not in (3, 7)} == {"prediction"}
    assert all(0 <= r["score"] <= 1 for r in completed["result"] if r.get("origin") == "prediction")


def test_an_answer_that_was_undone_or_never_seen_stays_away(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    annotator.type("the ball")
    before = list(annotator.draft.values())
    annotator.point(3)
    submit(annotator, fake_label_studio, before)
    assert fake_label_studio.annotations[0]["result"] is before


def test_an_error_after_the_answer_changes_nothing(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    """The status shows another message than that of the answer, but pages that were shown have the answer."""
    annotator.type("the ball")
    before = dict(annotator.draft)
    annotator.point(3)
    after = dict(annotator.draft)
    annotator.type("dog " * 400)
    results = as_submitted(before, {**after, "status-frames": annotator.draft["status-frames"]})
    said = {"id": next(r["id"] for r in results if r.get("item_index") == 6), "from_name": "occluded"}
    results.append(
        {**said, "to_name": "frames", "type": "choices", "item_index": 6, "value": {"choices": ["a bit"]}}
    )
    submit(annotator, fake_label_studio, results)
    stored = fake_label_studio.annotations[0]["result"]
    assert set(tops([r for r in stored if r["type"] != "choices"]).values()) == {1}
    assert results[-1] in stored, "what was said of the region"


def test_an_annotation_that_has_all_answers_is_left_alone(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    annotator.type("the ball")
    annotator.point(3)
    results = list(annotator.draft.values())
    annotation = submit(annotator, fake_label_studio, results)
    assert fake_label_studio.annotations[0]["result"] is results
    unseen = submitted_pages(annotator)
    completed = unseen.complete(annotation, 1, TASK, annotator.body["label_config"])
    assert [(r["id"], r["value"]) for r in completed["result"]] == [(r["id"], r["value"]) for r in results]
    other = {**annotation, "id": annotation["id"] + 1, "result": []}
    assert unseen.complete(other, 1, TASK, annotator.body["label_config"]) is other


def test_our_own_change_does_not_end_what_the_annotator_began(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    annotator.type("the ball")
    before = dict(annotator.draft)
    annotator.point(3)
    annotation = submit(annotator, fake_label_studio, as_submitted(before, annotator.draft))
    annotator.draft = {r["id"]: r for r in fake_label_studio.annotations[0]["result"]}
    annotator.point(4)
    event = {**recorded("webhook_annotation_created_frames_brush"), "action": "ANNOTATION_UPDATED"}
    event["annotation"] = {**annotation, **fake_label_studio.annotations[0], "updated_by": annotator.number}
    annotator.backend.post("/webhook", event)
    annotator.point(5)
    assert "2 clicks" in annotator.status


def ask_and_submit(annotator: Annotator, fake: FakeLabelStudio, folder: Path) -> None:
    """Ask, and submit while the models still work: Label Studio stores the text and no region."""
    release = folder / "release"
    text = f"wait {release}"
    asking = threading.Thread(target=annotator.type, args=(text,))
    asking.start()
    wait_until(Path(f"{release}.started").exists)
    typed = {"id": "e", "from_name": "expression", "to_name": "frames", "type": "textarea"}
    verdict = {"id": "v", "from_name": "verdict", "to_name": "frames", "type": "choices"}
    results = [{**typed, "value": {"text": [text]}}, {**verdict, "value": {"choices": ["Accept"]}}]
    submit(annotator, fake, results)
    release.touch()
    asking.join()


@EACH_DATABASE
def test_an_answer_to_a_task_that_was_submitted_meanwhile_goes_into_the_annotation(
    annotator: Annotator, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    ask_and_submit(annotator, fake_label_studio, tmp_path)
    stored = fake_label_studio.annotations[0]
    assert len(tops(stored["result"])) == 10
    assert [r["id"] for r in stored["result"] if r["type"] == "choices"] == ["v"], "what was submitted stays"
    assert [r["value"]["text"] for r in stored["result"] if r["from_name"] == "expression"] == [
        [f"wait {tmp_path / 'release'}"]
    ]
    assert list(annotator.draft) == ["status-frames"], "the page may show another task by now"
    assert annotator.status.startswith(f"Task {TASK} was submitted while the backend worked on it.")
    completed = submitted_pages(annotator).complete(stored, 1, TASK, annotator.body["label_config"])
    assert {r["origin"] for r in completed["result"] if "item_index" in r} == {"prediction"}


def test_where_the_annotation_cannot_be_changed_the_annotator_is_told(
    annotator: Annotator, fake_label_studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator.backend.service.connections, "client", lambda project: None)
    ask_and_submit(annotator, fake_label_studio, tmp_path)
    assert "The answer is not in its annotation (no Label Studio is connected" in annotator.status
    assert "ask again, and update it" in annotator.status


# --- the project is read again


def read_again(annotator: Annotator, fake: FakeLabelStudio) -> int:
    """Read the project as Label Studio has it; return how many annotations were changed or gone."""
    task = recorded("webhook_annotation_created_frames_brush")["task"]
    fake.project = {"id": PROJECT, "title": "", "label_config": annotator.body["label_config"]}
    fake.tasks = [{**task, "id": TASK, "total_annotations": len(fake.annotations)}]
    return annotator.backend.service.ingestor.reconcile(PROJECT).changed


def corrections(annotator: Annotator) -> list[tuple[Any, ...]]:
    """What a refinement sees of the corrections, and whether each page is the annotator's work."""
    with annotator.backend.database.reading() as session:
        return [
            (
                row.annotation_id,
                row.revision,
                row.changed_at,
                [frame[2] for frame in DecisionDocument.unpack(row.decided).frames.values()],
            )
            for row in session.scalars(select(CorrectionRow))
        ]


def accept_an_answer(annotator: Annotator, fake: FakeLabelStudio) -> dict[str, Any]:
    """Submit an answer as it came; Label Studio says that all of it was drawn by hand."""
    annotator.type("the ball")
    annotator.point(3)
    return submit(annotator, fake, [{**region, "origin": "manual"} for region in annotator.draft.values()])


@EACH_DATABASE
def test_an_accepted_answer_is_the_backends_own_for_good(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    accept_an_answer(annotator, fake_label_studio)
    before = corrections(annotator)
    assert [frames.count(False) for *_, frames in before] == [11]
    assert read_again(annotator, fake_label_studio) == 0, "it is as it was"
    database = annotator.backend.database
    with database.writing() as session:
        session.execute(update(SubmittedRow).values(submitted_at=datetime.now(UTC) - timedelta(days=400)))
    states = TaskStateStore(database)
    states.change(TaskStateKey(PROJECT, 6, 1, "frames"), lambda _: TaskState(message="another task"))
    assert states.submit(8, PROJECT, 6, 1) == 1
    fake_label_studio.annotations[0]["updated_at"] = "2026-12-22T15:13:28Z"  # also where it is read once more
    assert read_again(annotator, fake_label_studio) == 1
    assert corrections(annotator) == before


@EACH_DATABASE
def test_an_annotation_with_the_digest_of_an_earlier_release_is_as_it_was(
    annotator: Annotator, fake_label_studio: FakeLabelStudio
) -> None:
    annotation = accept_an_answer(annotator, fake_label_studio)
    completed = submitted_pages(annotator).complete(annotation, PROJECT, TASK, annotator.body["label_config"])
    data = recorded("webhook_annotation_created_frames_brush")["task"]["data"]
    former = annotation_digest(completed, data)
    assert former != annotation_digest(annotation, data)
    database = annotator.backend.database
    with database.writing() as session:
        session.execute(update(AnnotationRow).values(digest=former))
    reviews = ReviewStore(database)
    reviews.accept(annotation["id"], by="a reviewer")
    before = corrections(annotator)
    assert read_again(annotator, fake_label_studio) == 0
    assert corrections(annotator) == before
    assert not reviews.of([annotation["id"]])[annotation["id"]].changed_since
    with database.reading() as session:
        assert list(session.scalars(select(AnnotationRow.digest))) == [annotation_digest(annotation, data)]


def test_last_answers_that_label_studio_did_not_take_are_written_again(
    annotator: Annotator, fake_label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise LabelStudioError("not now")

    annotator.type("the ball")
    before = dict(annotator.draft)
    annotator.point(3)
    with monkeypatch.context() as patch:
        patch.setattr(Annotations, "update", refuse)
        submit(annotator, fake_label_studio, as_submitted(before, annotator.draft))
        read_again(annotator, fake_label_studio)
    assert set(tops(fake_label_studio.annotations[0]["result"]).values()) == {1, 4}
    read = corrections(annotator)
    read_again(annotator, fake_label_studio)
    assert set(tops(fake_label_studio.annotations[0]["result"]).values()) == {1}
    read_again(annotator, fake_label_studio)
    assert read_again(annotator, fake_label_studio) == 0
    assert corrections(annotator) == read


@EACH_DATABASE
@pytest.mark.parametrize("heard", [True, False])
def test_what_was_answered_goes_with_its_annotation(
    annotator: Annotator, fake_label_studio: FakeLabelStudio, heard: bool
) -> None:
    number = accept_an_answer(annotator, fake_label_studio)["id"]
    states = TaskStateStore(annotator.backend.database)
    # What was submitted of an annotation that was never read.
    states.change(TaskStateKey(PROJECT, 6, 1, "frames"), lambda _: TaskState(message="another task"))
    states.submit(8, PROJECT, 6, 1)
    assert read_again(annotator, fake_label_studio) == 0
    assert states.submitted(number, "frames") is not None
    assert states.submitted(8, "frames") is None
    fake_label_studio.annotations.clear()
    if heard:
        event = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": number}], "project": {"id": PROJECT}}
        annotator.backend.post("/webhook", event)
        annotator.backend.service.ingestor.catch_up()
    else:
        read_again(annotator, fake_label_studio)
    assert states.submitted(number, "frames") is None
