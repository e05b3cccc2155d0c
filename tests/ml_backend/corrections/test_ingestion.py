"""Events become corrections once: in any order, any number of times, across kills, and when some are lost."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import update

from ml_backend.corrections.annotation_store import Changes
from ml_backend.corrections.event_reader import AnnotationReader, EventContent
from ml_backend.corrections.records import Problem
from ml_backend.database.errors import StoreError
from ml_backend.database.events import StoredEvent
from ml_backend.database.projects import ProjectStore
from ml_backend.database.set_aside import SetAsideStore
from ml_backend.database.tables import CorrectionRow
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.settings import Settings
from steerseg.errors import ConfigError
from tests.support.annotation_samples import (
    FRAMES_DATA,
    HEIGHT,
    PAGES,
    WIDTH,
    annotation,
    choice,
    event_body,
    frames_config,
    mask_regions,
    square,
)
from tests.support.backend import FakeLabelStudio, MakeBackend, recorded
from tests.support.databases import EACH_DATABASE, ONLY_SQLITE
from tests.support.ingesting import Ingesting
from tests.support.killing import Watch, killed_at
from tests.support.requests import wait_until

pytestmark = EACH_DATABASE

FALLBACK = "the red ball"


def outcome_of(body: dict[str, Any]) -> EventContent:
    project = body.get("project")
    project_id = project["id"] if isinstance(project, dict) else project
    reader = AnnotationReader(lambda project, data: FALLBACK)
    return reader.read_event(StoredEvent(1, body["action"], project_id, body))


@pytest.fixture
def ingesting(tmp_path: Path) -> Iterator[Ingesting]:
    made = Ingesting(tmp_path)
    yield made
    made.close()


# --- what events say


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"])
@pytest.mark.parametrize("key", ["annotation", "annotations"])
@pytest.mark.parametrize("many", [False, True])
def test_annotations_are_found_in_every_form(action: str, key: str, many: bool) -> None:
    one = annotation(mask_regions({0: square(2)}))
    body = event_body(action, [one, {**one, "id": 8}] if many else one, key=key)
    body["task"] = [body["task"]] if many else body["task"]
    outcome = outcome_of(body)
    assert outcome.error is None
    assert [annotated.id for annotated in outcome.changes.states] == ([7, 8] if many else [7])


@pytest.mark.parametrize(
    "payload",
    [
        {"annotations": [{"id": 3}, {"id": 4}]},
        {"annotation": [{"id": 3}, {"id": 4}]},
        {"annotations": [3, 4]},
        {"annotation": {"id": 3}, "annotations": [4, 3]},
    ],
)
@pytest.mark.parametrize("action", ["ANNOTATION_DELETED", "ANNOTATIONS_DELETED"])
def test_deletions_are_found_in_every_form(action: str, payload: dict[str, Any]) -> None:
    assert outcome_of({"action": action, **payload}).changes.deleted_annotations == (3, 4)


def test_deleted_tasks_are_found() -> None:
    assert outcome_of({"action": "TASKS_DELETED", "tasks": [{"id": 5}]}).changes.deleted_tasks == (5,)


@pytest.mark.parametrize("name", ["webhook_project_updated", "webhook_start_training"])
def test_other_events_change_nothing(name: str) -> None:
    assert outcome_of(recorded(name)) == EventContent(Changes())


def test_a_skipped_annotation_needs_no_more_than_its_number() -> None:
    (annotated,) = outcome_of(recorded("webhook_annotation_created_skipped")).changes.states
    assert annotated.cancelled
    assert annotated.decisions == ()


@pytest.mark.parametrize(
    "missing",
    [
        {"task": None},
        {"project": {"id": 1}},
        {"annotation": {"id": 7, "task": 5, "project": 1}},
        {"annotation": None},
    ],
)
def test_what_an_event_left_out_is_to_be_read_from_the_project(missing: dict[str, Any]) -> None:
    outcome = outcome_of({**event_body("ANNOTATION_CREATED", annotation([])), **missing})
    assert outcome.incomplete
    assert outcome.error is not None
    assert outcome.changes == Changes()


def test_one_bad_annotation_of_many_is_no_loss_for_the_others() -> None:
    good = annotation(mask_regions({0: square(2)}))
    outcome = outcome_of(event_body("ANNOTATIONS_CREATED", [{"id": 6, "task": 5, "project": 1}, good]))
    assert [annotated.id for annotated in outcome.changes.states] == [7]
    assert outcome.incomplete


# --- order and number


def story() -> list[dict[str, Any]]:
    """What annotators did, in order: four annotations, of which one stays as it was corrected last."""

    def written(action: str, number: int, minute: int, results: list[Any], **fields: Any) -> dict[str, Any]:
        return event_body(action, annotation(results, number, minute=minute, **fields))

    other = {"task": {"id": 6, "data": FRAMES_DATA}}
    return [
        written("ANNOTATION_CREATED", 1, 1, mask_regions({0: square(2)})),
        written("ANNOTATION_CREATED", 2, 2, mask_regions({0: square(8)})),
        written("ANNOTATION_UPDATED", 1, 3, mask_regions({0: square(4), 1: square(5)})),
        written("ANNOTATION_CREATED", 3, 4, [], was_cancelled=True),
        written("ANNOTATION_UPDATED", 1, 5, [*mask_regions({0: square(4)}), choice("Reject")]),
        {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 2}], "project": {"id": 1}},
        written("ANNOTATION_UPDATED", 3, 6, mask_regions({2: square(9)})),
        event_body("ANNOTATIONS_CREATED", [annotation(mask_regions({0: square(3)}), 4, minute=7)]),
        written(
            "ANNOTATION_UPDATED",
            1,
            8,
            mask_regions({0: square(6)}) + mask_regions({1: square(6)}, label="object 2"),
        ),
        {**written("ANNOTATION_CREATED", 5, 8, mask_regions({0: square(2)}), task=6), **other},
        {"action": "TASKS_DELETED", "tasks": [{"id": 6}], "project": {"id": 1}},
        written("ANNOTATION_UPDATED", 4, 9, mask_regions({0: square(3)}), was_cancelled=True),
        written("ANNOTATION_CREATED", 9, 9, []),
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What is left when every event comes once and in order."""
    ingesting = Ingesting(tmp_path_factory.mktemp("in-order"))
    ingesting.receive(story())
    assert ingesting.ingestor.catch_up() == len(story())
    dump = ingesting.dump()
    ingesting.close()
    return dump


def test_in_order_the_newest_state_of_each_annotation_is_left(expected: list[tuple[Any, ...]]) -> None:
    corrections = [row[:2] for row in expected if len(row) == 6]
    assert corrections == [(1, "object 1"), (1, "object 2"), (3, "object 1"), (9, "")]
    assert [row[:5] for row in expected if row[0] == 9 and len(row) == 6] == [
        (9, "", "the red ball", "set aside", str(Problem.EMPTY))
    ]
    assert [row for row in expected if len(row) == 3] == [
        (1, False, False),
        (2, True, False),
        (3, False, False),
        (4, False, True),
        (5, True, False),
        (9, False, False),
    ]


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_order_and_number_of_events_do_not_matter(
    expected: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    events = story()
    extra = data.draw(st.lists(st.sampled_from(range(len(events))), max_size=6))
    order = data.draw(st.permutations([*range(len(events)), *extra]))
    cut = data.draw(st.integers(0, len(order)))
    ingesting = Ingesting(tmp_path_factory.mktemp("shuffled"))
    for part in (order[:cut], order[cut:]):
        ingesting.receive([events[index] for index in part])
        ingesting.ingestor.catch_up()
    assert ingesting.dump() == expected
    ingesting.close()


def test_what_did_not_change_keeps_its_number_and_its_state(ingesting: Ingesting) -> None:
    first = event_body("ANNOTATION_CREATED", annotation(mask_regions({0: square(2)})))
    again = event_body("ANNOTATION_UPDATED", annotation(mask_regions({0: square(2)}), minute=5))
    ingesting.receive([first])
    ingesting.ingestor.catch_up()
    (before,) = ingesting.completions.pending()
    ingesting.receive([again])
    ingesting.ingestor.catch_up()
    (after,) = ingesting.completions.pending()
    assert (after.id, after.revision) == (before.id, before.revision)
    assert after.decision.updated_at == datetime(2026, 11, 22, 15, 5, tzinfo=UTC)


def test_an_event_that_nobody_foresaw_does_not_hold_up_the_others(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_event = AnnotationReader.read_event

    def stumble(reader: AnnotationReader, event: StoredEvent, *rest: Any) -> EventContent:
        if event.id == 1:
            raise ZeroDivisionError
        return read_event(reader, event, *rest)

    monkeypatch.setattr(AnnotationReader, "read_event", stumble)
    ingesting.receive([event_body("ANNOTATION_CREATED", annotation([], number)) for number in (1, 2)])
    assert ingesting.ingestor.catch_up() == 2
    assert "ZeroDivisionError" in caplog.text
    aside = SetAsideStore(ingesting.database)
    assert [(one.kind, one.source) for one in aside.listed(1)] == [("event", "1")]
    monkeypatch.undo()
    ingesting.ingestor.take_again(1)
    assert ingesting.ingestor.catch_up() == 1
    assert aside.listed() == []
    assert {row[0] for row in ingesting.dump()} == {1, 2}


ODD: dict[str, dict[str, Any]] = {
    "a number beyond 64 bits": {"id": 2**63},
    "a task beyond 64 bits": {"task": 2**64},
    "a time that UTC does not have": {"updated_at": "9999-12-31T23:59:59-12:00"},
    "a parent beyond 64 bits": {"parent_prediction": 2**70, "lead_time": 10**400},
    "half a character": {"result": [{**mask_regions({0: square(2)})[0], "meta": {"text": ["\ud800"]}}]},
    "values of another kind": {"result": [{"type": "brushlabels", "value": {"rle": [2**40]}, "to_name": 7}]},
    "no number": {"id": None},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_one_odd_annotation_keeps_no_other_from_being_read(
    reading: Ingesting, fake_label_studio: FakeLabelStudio, odd: dict[str, Any]
) -> None:
    """Whether it comes by an event, alone or among others, or from Label Studio's list."""
    first, last = (annotation(mask_regions({0: square(2)}), number) for number in (1, 3))
    strange = {**annotation(mask_regions({0: square(3)}), 2), **odd}
    many = {**event_body("ANNOTATIONS_CREATED", first), "annotations": [first, strange, last]}
    many.pop("annotation", None)
    events = [event_body("ANNOTATION_CREATED", strange), many]
    if "\\ud800" in json.dumps(strange):  # which is refused before it is committed
        events = [event_body("ANNOTATION_CREATED", one) for one in (first, last)]
    reading.receive(events)
    assert reading.ingestor.catch_up() == 2
    assert {1, 3} <= {row[0] for row in reading.dump()}
    reading.receive([{"action": "ANNOTATIONS_DELETED", "annotations": [1, 2**63, 3], "project": {"id": 1}}])
    reading.ingestor.catch_up()
    assert reading.completions.pending(1) == [] or odd.get("id", 2) == 2

    fake_label_studio.annotations[:] = [first, {**strange, "task": 5}, {**last, "task": 6}]
    result = reading.ingestor.reconcile(1)
    assert {1, 3} <= {row[0] for row in reading.dump()}
    named = {one.source for one in SetAsideStore(reading.database).listed(1) if one.kind == "annotation"}
    assert named == set(result.unreadable)
    assert reading.corrections.counts(1).unprocessed == 0

    # It is mended: nothing is set aside any more.
    fake_label_studio.annotations[1] = annotation(mask_regions({0: square(3)}), 2, minute=50)
    reading.ingestor.take_again(1)
    assert reading.ingestor.reconcile(1).unreadable == {}
    left = SetAsideStore(reading.database).listed(1)
    assert [one for one in left if one.kind == "annotation"] == []
    assert {1, 2, 3} <= {row[0] for row in reading.dump()}


def test_what_is_set_aside_is_logged(ingesting: Ingesting, caplog: pytest.LogCaptureFixture) -> None:
    ingesting.receive([event_body("ANNOTATION_CREATED", annotation([]))])
    ingesting.ingestor.catch_up()
    assert "task 5, annotation 7: set aside (empty)" in caplog.text


def test_an_annotation_with_an_open_vector_is_set_aside_until_its_path_is_closed(
    ingesting: Ingesting,
) -> None:
    (region,) = mask_regions({0: square(2)}, "vector", proposed=False)
    for minute, closed in enumerate((False, True)):
        region["value"]["closed"] = closed
        one = annotation([region], minute=minute)
        ingesting.receive([event_body("ANNOTATION_UPDATED", one, config=frames_config("vector"))])
        ingesting.ingestor.catch_up()
        reasons = [one.reason for one in ingesting.corrections.list_set_aside(1)]
        assert [("Close the path" in reason) for reason in reasons] == ([] if closed else [True])
        assert len(ingesting.completions.pending(1)) == int(closed)


def test_a_damaged_correction_keeps_no_other_from_being_completed(ingesting: Ingesting) -> None:
    ingesting.receive(
        [event_body("ANNOTATION_CREATED", annotation(mask_regions({0: square(2)}), n)) for n in (1, 2, 3)]
    )
    ingesting.ingestor.catch_up()
    with ingesting.database.writing() as session:
        session.execute(update(CorrectionRow).where(CorrectionRow.annotation_id == 2).values(decided=b"x"))
    assert [pending.annotation_id for pending in ingesting.completions.pending(1)] == [1, 3]
    (aside,) = ingesting.corrections.list_set_aside(1)
    assert (aside.annotation_id, aside.problem) == (2, Problem.UNREADABLE)
    assert "holds a DecisionDocument that cannot be read" in aside.reason
    assert [pending.annotation_id for pending in ingesting.completions.pending(1)] == [1, 3]


# --- kills


def test_a_kill_at_any_statement_loses_and_doubles_nothing(
    expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    """SIGKILL before the n-th statement of processing, for n spread over all of them."""
    events = story()
    points = 0
    for number in range(1, 400, 7):
        folder = tmp_path / str(number)
        receiving = Ingesting(folder)
        receiving.receive(events)
        receiving.close()
        killed = _killed_at(folder, number)
        points += killed
        resumed = Ingesting(folder)
        resumed.ingestor.catch_up()
        assert resumed.dump() == expected, f"killed at statement {number}"
        resumed.close()
        if not killed:
            break
    assert points >= 20


def _killed_at(folder: Path, number: int) -> bool:
    """Process in a process that kills itself; return whether it came so far."""

    def process(watch: Watch) -> None:
        ingesting = Ingesting(folder)
        watch(ingesting.database, "commit")
        ingesting.ingestor.catch_up()

    return killed_at(number, process)


@ONLY_SQLITE
def test_on_a_full_disk_events_wait(ingesting: Ingesting) -> None:
    rng = np.random.default_rng(0)
    noise = {page: rng.random((HEIGHT, WIDTH)) > 0.5 for page in range(PAGES)}  # what cannot be compressed
    ingesting.receive([event_body("ANNOTATION_CREATED", annotation(mask_regions(noise)))])
    database = ingesting.database
    database.close()
    with contextlib.closing(sqlite3.connect(database.address)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]

    def limit(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    sqlalchemy_event.listen(database._engine, "connect", limit)
    with pytest.raises(StoreError, match="the disk is full"):
        ingesting.ingestor.catch_up()
    assert ingesting.corrections.counts(1).unprocessed == 1
    sqlalchemy_event.remove(database._engine, "connect", limit)
    database.close()
    assert ingesting.ingestor.catch_up() == 1
    assert ingesting.corrections.counts(1).pending == 1


@ONLY_SQLITE
def test_events_of_an_older_layout_are_processed(tmp_path: Path) -> None:
    layout = Path(__file__).parents[2] / "fixtures" / "store-layout-1.sql"
    path = Settings(data_dir=tmp_path).database
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(layout.read_text())
        for body in story():
            connection.execute(
                "INSERT INTO events (received_at, action, project_id, payload) VALUES (?, ?, 1, ?)",
                ("2026-11-22 15:00:00.000000", body["action"], json.dumps(body)),
            )
        connection.commit()
    ingesting = Ingesting(tmp_path)
    assert ingesting.ingestor.catch_up() == len(story())
    assert ingesting.corrections.counts(1).set_aside > 0
    ingesting.close()


# --- reading the project


@pytest.fixture
def reading(tmp_path: Path, fake_label_studio: FakeLabelStudio) -> Iterator[Ingesting]:
    made = Ingesting(tmp_path, label_studio_url=fake_label_studio.url, label_studio_api_key="key")
    ProjectStore(made.database).save(
        1, uid="1", label_config=frames_config(), hostname=fake_label_studio.url, extra_params={}
    )
    fake_label_studio.project = {"id": 1, "label_config": frames_config()}
    fake_label_studio.tasks = [
        {"id": number, "data": FRAMES_DATA, "total_annotations": 1, "total_predictions": 0}
        for number in (5, 6)
    ]
    yield made
    made.close()


def has(fake: FakeLabelStudio, *annotations: dict[str, Any]) -> None:
    """Let Label Studio have these annotations."""
    fake.annotations[:] = annotations
    for task in fake.tasks:
        task["total_annotations"] = sum(
            a["task"] == task["id"] and not a["was_cancelled"] for a in fake.annotations
        )


def test_what_webhooks_lost_is_found(reading: Ingesting, fake_label_studio: FakeLabelStudio) -> None:
    kept = annotation(mask_regions({0: square(2)}), 1)
    changed = annotation(mask_regions({0: square(4)}), 2)
    gone = annotation(mask_regions({0: square(6)}), 3)
    reading.receive([event_body("ANNOTATION_CREATED", one) for one in (kept, changed, gone)])
    changed = annotation(mask_regions({0: square(5)}), 2, minute=9)
    new = annotation(mask_regions({0: square(9)}), 4, task=6)
    has(fake_label_studio, kept, changed, new)

    result = reading.ingestor.reconcile(1)
    assert (result.annotations, result.changed, result.errors) == (3, 3, ())
    assert [pending.annotation_id for pending in reading.completions.pending(1)] == [1, 2, 4]
    assert reading.changed[-1] == 1
    # The events that were lost may still come: nothing changes any more.
    before = reading.dump()
    reading.receive(
        [
            event_body("ANNOTATION_UPDATED", changed),
            {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 3}], "project": {"id": 1}},
        ]
    )
    reading.ingestor.catch_up()
    assert reading.dump() == before
    assert reading.ingestor.reconcile(1).changed == 0


def test_reading_a_project_leads_to_what_events_lead_to(
    reading: Ingesting, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    annotations = [
        annotation(mask_regions({0: square(2)}), 1),
        annotation([*mask_regions({0: square(2)}), choice("Reject")], 2),
        annotation([], 3, task=6),
    ]
    has(fake_label_studio, *annotations)
    reading.ingestor.reconcile(1)
    by_events = Ingesting(tmp_path / "events")
    for one in annotations:
        body = event_body("ANNOTATION_CREATED", one)
        by_events.receive([{**body, "task": {"id": one["task"], "data": FRAMES_DATA}}])
    by_events.ingestor.catch_up()
    assert reading.dump() == by_events.dump()
    by_events.close()


def test_a_skipped_annotation_is_not_taken_for_a_deleted_one(
    reading: Ingesting, fake_label_studio: FakeLabelStudio
) -> None:
    drawn = annotation(mask_regions({0: square(2)}), 1)
    reading.receive([event_body("ANNOTATION_CREATED", drawn)])
    has(fake_label_studio, {**drawn, "was_cancelled": True, "updated_at": "2026-11-22T15:30:00Z"})
    reading.ingestor.reconcile(1)
    counts = reading.corrections.counts(1)
    assert (counts.pending, counts.skipped) == (0, 1)
    # Its annotator takes it back.
    has(fake_label_studio, {**drawn, "updated_at": "2026-11-22T15:40:00Z"})
    reading.ingestor.reconcile(1)
    assert reading.corrections.counts(1).pending == 1


def test_what_is_heard_while_reading_is_newer_than_what_is_read(reading: Ingesting) -> None:
    old = annotation(mask_regions({0: square(2)}), 1)
    new = annotation(mask_regions({0: square(3)}), 1, minute=5)
    (read,) = outcome_of(event_body("ANNOTATION_CREATED", old)).changes.states
    asked_at = datetime.now(UTC)
    reading.receive(
        [event_body("ANNOTATION_UPDATED", new), event_body("ANNOTATION_CREATED", {**old, "id": 2})]
    )
    reading.ingestor.catch_up()
    before = reading.dump()
    # The answer is older: it knows the first state of one annotation and nothing of the other.
    assert reading.annotations.reconcile(1, [1], [read], asked_at).changed == 0
    assert reading.dump() == before


def test_numbers_that_a_new_server_gives_again_are_believed(
    reading: Ingesting, fake_label_studio: FakeLabelStudio
) -> None:
    reading.receive(
        [
            event_body("ANNOTATION_CREATED", annotation(mask_regions({0: square(2)}), 1, minute=30)),
            {"action": "TASKS_DELETED", "tasks": [{"id": 5}], "project": {"id": 1}},
        ]
    )
    reading.ingestor.catch_up()
    assert reading.completions.pending(1) == []
    has(fake_label_studio, annotation(mask_regions({0: square(8)}), 1, minute=1))
    reading.ingestor.reconcile(1)
    assert [pending.annotation_id for pending in reading.completions.pending(1)] == [1]


def test_without_an_answer_nothing_changes(reading: Ingesting, fake_label_studio: FakeLabelStudio) -> None:
    reading.receive([event_body("ANNOTATION_CREATED", annotation(mask_regions({0: square(2)})))])
    reading.ingestor.catch_up()
    before = reading.dump()
    fake_label_studio.project = {}
    with pytest.raises(LabelStudioError):
        reading.ingestor.reconcile(1)
    assert reading.dump() == before


def test_a_project_without_a_token_says_so(ingesting: Ingesting) -> None:
    ProjectStore(ingesting.database).save(
        1, uid="1", label_config=frames_config(), hostname="http://ls", extra_params={}
    )
    with pytest.raises(ConfigError, match="STEERSEG_LABEL_STUDIO_API_KEY"):
        ingesting.ingestor.reconcile(1)


def test_corrections_whose_media_were_gone_are_tried_again(
    reading: Ingesting, fake_label_studio: FakeLabelStudio
) -> None:
    drawn = annotation(mask_regions({0: square(2)}), 1)
    reading.receive([event_body("ANNOTATION_CREATED", drawn)])
    reading.ingestor.catch_up()
    (pending,) = reading.completions.pending(1)
    reading.completions.fail(pending, Problem.MEDIA_GONE, "the server says 404")
    assert reading.completions.pending(1) == []
    assert [(one.problem, one.reason) for one in reading.corrections.list_set_aside(1)] == [
        (Problem.MEDIA_GONE, "the server says 404")
    ]
    has(fake_label_studio, drawn)
    reading.ingestor.reconcile(1)
    assert len(reading.completions.pending(1)) == 1


# --- the threads


def test_a_webhook_is_processed_right_after_it_was_acknowledged(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.service.start()
    backend.post("/webhook", recorded("webhook_annotation_created_skipped"))
    wait_until(lambda: backend.service.corrections.counts(1).skipped == 1)
    assert backend.service.corrections.counts(1).unprocessed == 0


def test_what_an_earlier_process_left_is_taken_up(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.post("/webhook", recorded("webhook_annotation_created_skipped"))
    assert backend.service.corrections.counts(1).unprocessed == 1
    backend.service.start()
    wait_until(lambda: backend.service.corrections.counts(1).skipped == 1)


def test_a_project_is_read_when_it_is_introduced_and_on_schedule(
    make_backend: MakeBackend, fake_label_studio: FakeLabelStudio
) -> None:
    fake_label_studio.project = {"id": 1, "label_config": frames_config()}
    fake_label_studio.tasks = [{"id": 5, "data": FRAMES_DATA, "total_predictions": 0}]
    has(fake_label_studio, annotation([], 1))
    backend = make_backend(reconcile_interval=0.2)
    backend.service.start()
    setup = {
        "project": "1",
        "schema": frames_config(),
        "hostname": fake_label_studio.url,
        "access_token": "t",
    }
    backend.post("/setup", setup)
    wait_until(lambda: backend.service.corrections.counts(1).set_aside == 1)
    has(fake_label_studio)
    wait_until(lambda: backend.service.corrections.counts(1).set_aside == 0)


def test_the_status_page_and_the_route_show_what_is_set_aside(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.post("/setup", {"project": "1", "schema": frames_config()})
    backend.post("/webhook", event_body("ANNOTATION_CREATED", annotation([])))
    backend.service.ingestor.catch_up()
    page = backend.client.get("/").get_data(as_text=True)
    assert "1 set aside" in page
    assert "choose the verdict" in page
    answer = backend.client.get("/projects/1/corrections").get_json()
    assert answer["set_aside"] == 1
    assert answer["problems"][0]["problem"] == "empty"
    assert answer["problems"][0]["annotation"] == 7
    assert backend.client.get("/projects/2/corrections").status_code == 404


def test_the_count_since_a_time_is_of_annotations(ingesting: Ingesting) -> None:
    assert ingesting.corrections.count_since(1, None) == 0
    assert ingesting.corrections.count_since(1, datetime.now(UTC) - timedelta(days=1)) == 0
