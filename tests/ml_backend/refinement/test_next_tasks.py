"""What to label next: the order and its reasons, what has no place in it, and what is written into Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ml_backend.corrections.event_reader import annotation_digest
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import AnnotationRow, OrderMode, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.api.tasks import Tasks
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import ORDER_KEY
from ml_backend.predictions.tasks import TaskStore
from ml_backend.refinement.labelling_order import CorrectedTask, OpenTask, order_tasks
from ml_backend.refinement.next_tasks import NextTasks, OrderWriter
from ml_backend.settings import Settings
from tests.support.backend import FakeLabelStudio
from tests.support.databases import EACH_DATABASE
from tests.support.refinement_world import correct, film

pytestmark = EACH_DATABASE

# --- the order


def task(number: int, expression: str, certainty: float = 0.5, video: str = "") -> OpenTask:
    return OpenTask(number, expression, video or f"video{number}", certainty)


def test_the_least_certain_comes_first_among_equals() -> None:
    ordered = order_tasks([task(1, "the dog", 0.9), task(2, "the dog", 0.1), task(3, "the dog", 0.4)], (), 10)
    assert [one.task.id for one in ordered] == [2, 3, 1]
    assert ordered[0].reasons[0] == "certainty 0.10"
    assert ordered[0].text.startswith("001 · ")


def test_a_word_that_many_tasks_use_and_nobody_corrected_comes_before_one_that_is_known() -> None:
    blicks = [task(number, "the blick", 0.5) for number in range(10)]
    dogs = [task(number, "the dog", 0.45) for number in range(10, 20)]
    known = [CorrectedTask("the dog", f"other{number}") for number in range(8)]
    first = order_tasks([*blicks, *dogs], known, 3)
    assert [one.task.expression for one in first] == ["the blick"] * 3
    assert "“blick” is in 10 open tasks, in none that was corrected" in first[0].reasons


def test_picks_count_as_corrected_so_that_words_and_videos_take_turns() -> None:
    tasks = [task(number, "the blick", video="one") for number in range(3)]
    tasks += [task(number, "the wug", video="two") for number in range(3, 6)]
    ordered = order_tasks(tasks, (), 6)
    assert {one.task.video for one in ordered[:2]} == {"one", "two"}
    assert {one.task.expression for one in ordered[:2]} == {"the blick", "the wug"}


def test_an_order_ends_at_its_limit_and_repeats_itself() -> None:
    tasks = [task(number, "the blick", -1.0) for number in range(9)]
    assert order_tasks(tasks, (), 4) == order_tasks(tasks[::-1], (), 4)
    assert len(order_tasks(tasks, (), 4)) == 4
    assert "nothing was found" in order_tasks(tasks, (), 1)[0].reasons
    assert order_tasks([], (), 4) == []


# --- in a project


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(tmp_path / "steerseg.sqlite")
    ProjectStore(database).save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
    return database


def propose(database: Database, number: int, score: float, version: str = "base") -> None:
    key = ProposalKey(f"digest{number}", "the blick", version)
    ProposalStore(database).add(key, project_id=1, task_id=number, path="none", score=score, margin=None)


def test_open_tasks_have_a_place_by_their_newest_proposal(database: Database) -> None:
    for number, score in ((1, 0.9), (2, 0.3), (3, 0.2), (4, 0.1)):
        propose(database, number, score)
    propose(database, 1, 0.05, version="base+r1")
    with database.writing() as session:
        for annotation, number in ((7, 3), (8, 4)):
            session.add(AnnotationRow(id=annotation, project_id=1, task_id=number, deleted=number == 4))
    order = NextTasks(database).order(1)
    assert [one.task.id for one in order.tasks] == [1, 4, 2], "task 3 is annotated, and 4 is no more"
    assert order.open == 3
    assert NextTasks(database).order(1, limit=1).open == 3
    correct(database, 1, 9, film(9)[1])
    assert NextTasks(database).order(1).open == 3


def test_who_corrected_a_part_of_a_film_corrected_the_film(database: Database) -> None:
    for number in (10_001, 10_002, 10_003):
        propose(database, number, 0.5)
        source = "other.mp4" if number == 10_003 else "film.mp4"
        TaskStore(database).note(1, number, {"frames": [f"{number}.jpg"], "source": source})
    correct(database, 1, 1, film(1)[1], source="film.mp4")  # of task 10 001
    order = NextTasks(database).order(1)
    said = {one.task.id: "nobody corrected its video yet" in one.reasons for one in order.tasks}
    assert said == {10_002: False, 10_003: True}


def test_the_order_is_written_where_a_person_wants_it_and_removed_again(
    database: Database, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    fake_label_studio.tasks += [
        {"id": number, "data": {"frames": ["a.jpg"], "nested": {"own": number}}, "total_predictions": 1}
        for number in (1, 2, 3)
    ]
    propose(database, 1, 0.9)
    propose(database, 2, 0.1)
    settings = Settings(
        data_dir=tmp_path, label_studio_url=fake_label_studio.url, label_studio_api_key="k" * 40
    )
    writer = OrderWriter(database, Connections(settings), NextTasks(database))
    writer._look()
    assert all(ORDER_KEY not in task["data"] for task in fake_label_studio.tasks), "nobody asked for it"

    writer.switch(1, on=True)
    writer._look()
    written = {task["id"]: task["data"].get(ORDER_KEY) for task in fake_label_studio.tasks}
    assert written[2] is not None
    assert written[2].startswith("001 · certainty 0.10")
    assert written[1] is not None
    assert written[3] is None
    assert sorted(filter(None, written.values())) == [written[2], written[1]], "as text sorts"

    writer.switch(1, on=False)
    writer._look()
    assert [task["data"] for task in fake_label_studio.tasks] == [
        {"frames": ["a.jpg"], "nested": {"own": number}} for number in (1, 2, 3)
    ]
    known = ProjectStore(database).find(1)
    assert known is not None
    assert known.labelling_order is OrderMode.OFF


def test_what_others_wrote_meanwhile_stays(
    database: Database, fake_label_studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_label_studio.tasks.append({"id": 1, "data": {"frames": ["a.jpg"]}, "total_predictions": 1})
    propose(database, 1, 0.9)
    settings = Settings(
        data_dir=tmp_path, label_studio_url=fake_label_studio.url, label_studio_api_key="k" * 40
    )
    writer = OrderWriter(database, Connections(settings), NextTasks(database))
    read = Tasks.of_project

    def changed_meanwhile(*arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
        for task in list(read(*arguments, **options)):
            fake_label_studio.tasks[0]["data"] = {"frames": ["a.jpg"], "weather": "rain"}
            yield task

    monkeypatch.setattr(Tasks, "of_project", changed_meanwhile)
    writer.switch(1, on=True)
    writer._look()
    data = fake_label_studio.tasks[0]["data"]
    assert data.pop(ORDER_KEY).startswith("001")
    assert data == {"frames": ["a.jpg"], "weather": "rain"}


def test_why_an_order_was_not_written_is_said(database: Database, tmp_path: Path) -> None:
    propose(database, 1, 0.9)
    writer = OrderWriter(database, Connections(Settings(data_dir=tmp_path)), NextTasks(database))
    writer.switch(1, on=True)
    writer._look()
    assert "no token for Label Studio" in writer.problem(1)


def test_the_order_in_a_tasks_data_changes_no_annotation() -> None:
    annotation = {"result": [], "updated_at": datetime.now(UTC).isoformat()}
    data = {"frames": ["a.jpg"]}
    assert annotation_digest(annotation, data) == annotation_digest(annotation, data | {ORDER_KEY: "001"})
