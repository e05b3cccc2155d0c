"""An event is one commit; what follows from it is written once, in order, whatever is killed in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, update

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore, StoredEvent
from ml_backend.database.projects import ProjectStore
from ml_backend.database.set_aside import SetAsideStore
from ml_backend.database.tables import EventRow, RefinementRow, SteeringRow, SubmittedRow
from ml_backend.interactive.lifecycle import StateLifecycle
from ml_backend.interactive.state import TaskState
from ml_backend.interactive.store import TaskStateKey, TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages
from ml_backend.label_studio.connections import Connections
from ml_backend.predictions.deliveries import Deliveries
from ml_backend.refinement.store import RefinementStore
from ml_backend.refinement.training_events import TrainingHandler
from ml_backend.settings import Settings
from tests.support.backend import Backend
from tests.support.databases import EACH_DATABASE
from tests.support.killing import Watch, killed_at

pytestmark = EACH_DATABASE

TRAINING = "min_annotations_to_start_training"
PROJECT = {"id": 1, TRAINING: 7}


def key(task: int, annotator: int = 3) -> TaskStateKey:
    return TaskStateKey(1, task, annotator, "frames")


def submission(number: int, task: int, annotator: int = 3) -> dict[str, Any]:
    annotation = {"id": number, "task": task, "completed_by": annotator, "result": []}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": PROJECT}


class Receiving:
    """A database that receives events, with all that hears of them."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(data_dir=folder)
        self.database = Database(settings.database)
        self.events = EventStore(self.database)
        self.projects = ProjectStore(self.database)
        self.steering = TaskStateStore(self.database)
        connections = Connections(settings)
        self.handlers = (
            StateLifecycle(
                self.steering,
                SubmittedPages(self.database, self.steering, connections),
                Deliveries(self.database, 9).promise,
            ),
            TrainingHandler(self.projects, RefinementStore(self.database).request),
        )

    def receive(self, body: dict[str, Any]) -> int:
        return self.events.add(body["action"], 1, body)

    def dispatch(self) -> int:
        return self.events.dispatch(self.handlers).number

    def hold(self, task: int, message: str, annotator: int = 3) -> None:
        """Let an annotator have a task in hands."""
        self.steering.change(key(task, annotator), lambda _: TaskState(message=message))

    def dump(self) -> list[tuple[Any, ...]]:
        with self.database.reading() as session:
            rows = [
                *(
                    (row.task_id, row.annotator, row.state["message"])
                    for row in session.scalars(select(SteeringRow))
                ),
                *((row.annotation_id, row.state["message"]) for row in session.scalars(select(SubmittedRow))),
                *((tuple(row.triggers), str(row.state)) for row in session.scalars(select(RefinementRow))),
            ]
        return [*rows, *((project.id, project.min_annotations) for project in self.projects.all())]


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[Receiving]:
    made = prepared(tmp_path)
    yield made
    made.database.close()


def prepared(folder: Path) -> Receiving:
    """Three tasks in an annotator's hands, of which one is submitted and one is deleted; and training is asked for."""
    made = Receiving(folder)
    made.projects.save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
    for task in (5, 6, 7):
        made.hold(task, f"task {task}")
    made.receive(submission(70, 5))
    made.receive({"action": "TASKS_DELETED", "tasks": [{"id": 6}], "project": PROJECT})
    made.receive({"action": "START_TRAINING", "project": PROJECT})
    return made


EXPECTED = [(7, 3, "task 7"), (70, "task 5"), (("Start training",), "waiting"), (1, 7)]


def test_what_an_event_says_is_written_once(receiving: Receiving) -> None:
    assert receiving.events.unprocessed() == [], "nothing is read before it was dispatched"
    assert receiving.dispatch() == 3
    assert receiving.dump() == EXPECTED
    receiving.hold(5, "begun anew")
    assert receiving.dispatch() == 0
    assert (5, 3, "begun anew") in receiving.dump()
    assert [event.id for event in receiving.events.unprocessed()] == [1, 2, 3]


def test_a_kill_between_the_commit_and_what_follows_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """SIGKILL before the n-th statement or commit of dispatching, for every n."""
    for number in range(1, 200):
        folder = tmp_path / str(number)
        prepared(folder).database.close()
        killed = _killed_at(folder, number)
        resumed = Receiving(folder)
        resumed.dispatch()
        assert resumed.dump() == EXPECTED, f"killed at statement {number}"
        resumed.database.close()
        if not killed:
            break
    assert number > 20


def _killed_at(folder: Path, number: int) -> bool:
    """Dispatch in a process that kills itself; return whether it came so far."""

    def dispatch(watch: Watch) -> None:
        receiving = Receiving(folder)
        watch(receiving.database, "commit")
        receiving.dispatch()

    return killed_at(number, dispatch)


def test_events_wait_in_order_while_the_database_refuses(receiving: Receiving) -> None:
    heard: list[int] = []

    def refuse(event: StoredEvent) -> None:
        heard.append(event.id)
        receiving.projects.note_min_annotations(1, 99)
        if event.id == 2:
            raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        receiving.events.dispatch([refuse])
    assert heard == [1, 2]
    assert receiving.dispatch() == 2
    assert (1, 7) in receiving.dump()


def test_an_event_that_nobody_foresaw_is_set_aside_until_it_is_taken_again(
    receiving: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(event: StoredEvent) -> None:
        if event.id == 1:
            receiving.hold(8, "half done")
            raise ZeroDivisionError("of nobody")

    first = receiving.events.dispatch([*receiving.handlers, stumble])
    assert (first.number, first.set_aside) == (2, {1})
    assert (5, 3, "task 5") in receiving.dump(), "nothing of it is written"
    assert [event.id for event in receiving.events.unprocessed()] == [2, 3]
    assert "webhook event 1 (ANNOTATION_CREATED) is set aside" in caplog.text
    (aside,) = SetAsideStore(receiving.database).listed(1)
    assert (aside.kind, aside.source, aside.project_id) == ("event", "1", 1)
    assert aside.error == "unexpected ZeroDivisionError: of nobody"

    assert receiving.events.take_again(1) == 1
    assert receiving.dispatch() == 1
    assert receiving.dump() == EXPECTED
    assert SetAsideStore(receiving.database).count() == 0
    assert [event.id for event in receiving.events.unprocessed()] == [1, 2, 3]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_no_database_holds_sets_its_event_aside(receiving: Receiving, number: int) -> None:
    receiving.hold(9, "task 9")
    receiving.receive(submission(number, 7))
    receiving.receive({"action": "PROJECT_UPDATED", "project": {**PROJECT, TRAINING: number}})
    receiving.receive(submission(71, 9))
    receiving.dispatch()
    assert {(71, "task 9"), (7, 3, "task 7")} <= set(receiving.dump())
    assert {one.source for one in SetAsideStore(receiving.database).listed()} == {"4", "5"}


def test_what_is_no_json_any_more_is_set_aside(receiving: Receiving) -> None:
    with receiving.database.writing() as session:
        session.execute(update(EventRow).where(EventRow.id.in_([1, 3])).values(payload="{'a': nan"))
    assert receiving.dispatch() == 1
    assert [event.id for event in receiving.events.unprocessed()] == [2]
    with receiving.database.writing() as session:
        session.execute(update(EventRow).where(EventRow.id == 2).values(payload="[" * 100_000))
    assert receiving.events.unprocessed() == []
    assert SetAsideStore(receiving.database).count() == 3


def test_a_webhook_is_one_commit(backend: Backend) -> None:
    ProjectStore(backend.database).save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
    commits: list[Any] = []
    sqlalchemy_event.listen(backend.database._engine, "commit", commits.append)
    backend.post("/webhook", submission(70, 5))
    backend.post("/webhook", {"action": "START_TRAINING", "project": PROJECT})
    assert len(commits) == 2
    with backend.database.reading() as session:
        assert list(session.scalars(select(EventRow.dispatched_at))) == [None, None]


def test_stores_write_in_one_transaction(receiving: Receiving) -> None:
    def write() -> None:
        with receiving.database.writing():
            receiving.receive(submission(71, 7))
            receiving.hold(9, "not kept")
            assert receiving.events.count() == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert receiving.events.count() == 3
    assert receiving.steering.get(key(9)) == TaskState()
