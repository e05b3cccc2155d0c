"""The outcomes of tasks, folded into the answer of their batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ml_backend.database.projects import Project
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.task import Task
from ml_backend.models.queue import Priority
from ml_backend.predictions.batch import BatchAnswer, Ending, TaskOutcome
from ml_backend.predictions.model_versions import ModelVersion
from ml_backend.predictions.results import Prediction
from ml_backend.predictions.work import TaskRequest, TaskWork

CONFIG = (
    '<View><Video name="v" value="$video"/><VideoRectangle name="box" toName="v"/>'
    '<Labels name="label" toName="v"><Label value="object"/></Labels></View>'
)


def outcome(task_id: int, ending: Ending, *scores: float, message: str | None = None) -> TaskOutcome:
    project = Project(1, "1", CONFIG, "", {}, datetime.now(UTC))
    version = ModelVersion("v1", None)
    request = TaskRequest(project, Task(task_id, {}), parse_controls(CONFIG), version, Priority.BATCH)
    predictions = tuple(Prediction(({"id": "a"},), score, "v1") for score in scores)
    return TaskOutcome(TaskWork(request), ending, predictions, message=message)


def item(score: float) -> dict[str, Any]:
    return {"result": [{"id": "a"}], "score": score, "model_version": "v1"}


def test_every_task_has_its_item_in_order() -> None:
    outcomes = [
        outcome(5, Ending.ANSWERED, 0.8),
        outcome(3, Ending.FAILED, message="the video is gone"),
        outcome(9, Ending.ANSWERED, 0.2, 0.7),
        outcome(4, Ending.LATE),
        outcome(8, Ending.EMPTY, message="nothing in the video matches 'the dog'"),
        outcome(2, Ending.PUSHED),
    ]
    assert BatchAnswer.of(outcomes, "v1").to_json() == {
        "results": [item(0.8), [], [item(0.2), item(0.7)], [], [], []],
        "model_version": "v1",
        "errors": {"3": "the video is gone", "8": "nothing in the video matches 'the dog'"},
        "pending": [4],
        "presence": {},
        "not_there": [],
    }


def test_a_batch_without_tasks_has_an_answer_as_well() -> None:
    answer = BatchAnswer.of([], "v1").to_json()
    assert answer == {
        "results": [],
        "model_version": "v1",
        "errors": {},
        "pending": [],
        "presence": {},
        "not_there": [],
    }
