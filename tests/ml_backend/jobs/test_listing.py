"""Jobs and refinements as one list: what is in it, in which order, under which names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import JobState
from ml_backend.jobs.listing import count_jobs, list_jobs, read_name
from ml_backend.jobs.progress import ProgressNotes
from ml_backend.jobs.store import JobStore
from ml_backend.models.affinity import VideoAffinity
from ml_backend.models.messages import ProgressReport
from ml_backend.models.queue import JobQueue, Priority
from ml_backend.refinement.gate import GateMetrics, Judgement, Outcome
from ml_backend.refinement.store import RefinementStore
from tests.support.databases import EACH_DATABASE

pytestmark = EACH_DATABASE

TIME = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "store.sqlite")
    for project in (1, 2, 3):
        ProjectStore(made).save(
            project, uid=str(project), label_config="<View/>", hostname="", extra_params={}
        )
    return made


def add_job(database: Database, number: int) -> int:
    return JobStore(database).add(
        "propose", f"key {number}", project_id=1, task_id=number, priority=1, expression="the ball"
    )


def test_a_refinement_is_a_job_from_its_wish_to_its_end(database: Database) -> None:
    refinements = RefinementStore(database)
    asked = refinements.request(1, "Start training")

    def listed() -> tuple[str, JobState, str, str]:
        (job,) = list_jobs(database, 10)
        return job.name, job.state, job.message, job.outcome

    name = f"refine-{asked.id}"
    assert listed() == (name, JobState.QUEUED, "", "")
    refinements.begin(asked.id, champion_id=None, base_version="base", at=TIME)
    refinements.note_progress(asked.id, "training candidate", 12, 40)
    assert listed() == (name, JobState.RUNNING, "training candidate, 12 of 40", "")
    (job,) = list_jobs(database, 10)
    assert (job.about, job.fraction, job.task_id) == ("asked for by Start training", 0.3, None)
    refinements.settle(asked.id, Judgement(Outcome.KEPT_BACK, "no better", GateMetrics()))
    assert listed() == (name, JobState.DONE, "training candidate, 12 of 40", "kept back: no better")
    refinements.fail(refinements.request(1, "again").id, "the disk is full")
    refinements.cancel(refinements.request(1, "once more").id, "not now")
    ended = [(job.state, job.outcome) for job in list_jobs(database, 2)]
    assert ended == [(JobState.CANCELLED, "not now"), (JobState.FAILED, "the disk is full")]


def test_what_runs_is_listed_however_many_came_after_it(database: Database) -> None:
    running = add_job(database, 0)
    JobStore(database).update(running, stage="tracking", fraction=0.5, attempts=1)
    waiting = RefinementStore(database).request(2, "the schedule")
    later = [add_job(database, number) for number in range(1, 30)]
    names = [job.name for job in list_jobs(database, 5)]
    assert set(names[:2]) == {str(running), f"refine-{waiting.id}"}
    assert names[2:] == [str(number) for number in reversed(later[-3:])]
    counts = count_jobs(database)
    assert (counts[JobState.RUNNING], counts[JobState.QUEUED]) == (1, 30)


def test_progress_is_told_in_words(database: Database) -> None:
    job = add_job(database, 1)
    JobStore(database).update(job, stage="grounding", fraction=0.25, attempts=1)
    assert list_jobs(database, 1)[0].message == "grounding, 25%"
    JobStore(database).update(
        job, stage="tracking", fraction=0.5, attempts=1, frames=40, message="frame 20 of 40"
    )
    assert list_jobs(database, 1)[0].to_json()["message"] == "frame 20 of 40"


def test_a_job_that_makes_way_waits_again(database: Database) -> None:
    queue: JobQueue[Any, Any] = JobQueue(VideoAffinity())
    notes = ProgressNotes(database, add_job(database, 1), earlier_attempts=1)
    notes.model_job = queue.submit("a request", Priority.BATCH, notes, None)

    def listed() -> tuple[JobState, str, str]:
        (job,) = list_jobs(database, 1)
        return job.state, job.stage, job.message

    for fraction in (0.5, 0.75):
        job = queue.take(0, 0)
        assert job is notes.model_job
        job.attempts += 1
        job.note(ProgressReport(job.number, "tracking", fraction))
        assert listed() == (JobState.RUNNING, "tracking", f"tracking, {fraction:.0%}")
        job.attempts -= 1
        queue.put_back(job)
        assert listed() == (JobState.QUEUED, "", "")
    (row,) = JobStore(database).unfinished("propose")
    assert row.attempts == 1, "those of an earlier process alone"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("7", (False, 7)),
        ("refine-12", (True, 12)),
        ("refine-", None),
        ("refine-x", None),
        ("-1", None),
        ("٣", None),
        ("9" * 30, None),
    ],
)
def test_names_are_numbers_or_refinements(name: str, read: tuple[bool, int] | None) -> None:
    assert read_name(name) == read
