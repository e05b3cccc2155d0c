"""The order in which workers take jobs: by urgency, and by who has the video."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.models.affinity import Sighting, VideoAffinity
from ml_backend.models.messages import ProgressReport
from ml_backend.models.queue import JobQueue, ModelJob, Priority
from steerseg.errors import Cancelled


class Waiting:
    """A queue whose time a test sets, and three workers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.affinity = VideoAffinity()
        self.queue: JobQueue[str, str] = JobQueue(self.affinity, patience=1.0, clock=lambda: self.now)

    def add(
        self, name: str, priority: Priority = Priority.BATCH, video: str | None = None
    ) -> ModelJob[str, str]:
        return self.queue.submit(name, priority, None, video)

    def take(self, worker: int) -> str | None:
        job = self.queue.take(worker, 0)
        return None if job is None else job.request


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_the_most_urgent_goes_first_and_equals_keep_their_order(waiting: Waiting) -> None:
    jobs = [waiting.add(name, priority) for name, priority in [("r", 2), ("b1", 1), ("b2", 1), ("i", 0)]]  # type: ignore[arg-type]
    assert waiting.queue.lengths == {Priority.INTERACTIVE: 1, Priority.BATCH: 2, Priority.REFINEMENT: 1}
    assert waiting.queue.count_before(Priority.REFINEMENT) == 3
    assert waiting.queue.promote(jobs[2], Priority.INTERACTIVE)
    assert not waiting.queue.promote(jobs[2], Priority.BATCH)
    assert [waiting.take(0) for _ in range(5)] == ["b2", "i", "b1", "r", None]


def test_a_job_that_is_put_back_keeps_its_position(waiting: Waiting) -> None:
    first, _ = waiting.add("first"), waiting.add("second")
    assert waiting.queue.take(0, 0) is first
    waiting.queue.put_back(first)
    assert [waiting.take(1), waiting.take(1)] == ["first", "second"]


def test_a_withdrawn_job_is_not_taken_nor_put_back(waiting: Waiting) -> None:
    job = waiting.add("a")
    assert waiting.queue.withdraw(job)
    assert waiting.take(0) is None
    running = waiting.add("b")
    assert waiting.queue.take(0, 0) is running
    assert not waiting.queue.withdraw(running)
    waiting.queue.put_back(running)
    with pytest.raises(Cancelled):
        running.result(0)
    assert len(waiting.queue) == 0


def test_a_job_waits_for_the_worker_that_has_its_video(waiting: Waiting) -> None:
    assert waiting.affinity.note(0, "film") is Sighting.NEW
    waiting.add("known", video="film")
    waiting.add("unknown", video="other")
    assert waiting.take(1) == "unknown"  # the other one of the same urgency
    assert waiting.take(1) is None
    assert waiting.take(0) == "known"


def test_it_waits_no_longer_than_the_patience(waiting: Waiting) -> None:
    waiting.affinity.note(0, "film")
    waiting.add("known", video="film")
    waiting.now = 50.0  # while no worker is free, nothing is left to anyone
    assert waiting.take(1) is None
    waiting.now = 50.9
    assert waiting.take(1) is None
    waiting.now = 51.0
    assert waiting.take(1) == "known"


def test_one_worker_stays_in_reserve_for_what_is_left_to_another(waiting: Waiting) -> None:
    waiting.affinity.note(0, "film")
    waiting.add("click", Priority.INTERACTIVE, "film")
    for number in range(3):
        waiting.add(f"batch {number}")
    assert waiting.take(1) is None  # in reserve: it takes nothing less urgent
    assert waiting.take(2) == "batch 0"  # no other one stays
    assert waiting.take(1) is None
    waiting.add("urgent", Priority.INTERACTIVE)
    assert waiting.take(1) == "urgent"
    assert waiting.take(2) is None  # takes its place
    assert waiting.take(1) == "batch 1"
    waiting.now = 1.0
    assert waiting.take(2) == "click"
    assert waiting.take(0) == "batch 2"


def test_after_the_patience_a_worker_still_prefers_its_own_videos(waiting: Waiting) -> None:
    waiting.affinity.note(0, "film")
    waiting.affinity.note(1, "show")
    for name, video in [("film 1", "film"), ("film 2", "film"), ("show 1", "show"), ("new", None)]:
        waiting.add(name, video=video)
    assert waiting.take(2) == "new"
    waiting.now = 5.0
    waiting.add("later", Priority.REFINEMENT, "show")
    assert waiting.take(1) == "show 1"
    assert waiting.take(1) == "film 1"  # before what is less urgent
    assert waiting.take(0) == "film 2"
    assert waiting.take(1) == "later"


def test_a_reserve_is_free_again_when_the_worker_with_the_video_comes(waiting: Waiting) -> None:
    waiting.affinity.note(0, "film")
    waiting.add("click", Priority.INTERACTIVE, "film")
    waiting.add("batch")
    assert waiting.take(1) is None
    assert waiting.take(0) == "click"
    assert waiting.take(1) == "batch"


def test_a_lost_worker_has_no_videos(waiting: Waiting) -> None:
    waiting.affinity.note(0, "film")
    waiting.affinity.note(1, "film")
    waiting.affinity.forget(0)
    assert waiting.affinity.holders("film") == {1}
    waiting.affinity.forget(1)
    assert waiting.affinity.note(0, "film") is Sighting.NEW
    assert waiting.affinity.note(0, "film") is Sighting.SAME_WORKER
    assert waiting.affinity.note(1, "film") is Sighting.OTHER_WORKER
    assert waiting.affinity.note(1, None) is Sighting.NONE


def test_only_the_latest_videos_are_remembered(waiting: Waiting) -> None:
    for number in range(33):
        waiting.affinity.note(0, number)
    assert not waiting.affinity.holders(0)
    assert waiting.affinity.holders(32) == {0}


def test_a_job_that_is_put_back_is_in_no_stage(waiting: Waiting) -> None:
    job: ModelJob[str, Any] = waiting.add("a")
    assert waiting.take(0) == "a"
    job.note(ProgressReport(job.number, "tracking", 0.5))
    waiting.queue.put_back(job)
    assert (job.stage, job.fraction) == ("", 0.0)
    assert waiting.take(0) == "a"


def test_closing_ends_what_waits(waiting: Waiting) -> None:
    jobs: list[ModelJob[str, Any]] = [waiting.add("a"), waiting.add("b", Priority.REFINEMENT)]
    waiting.queue.promote(jobs[1], Priority.BATCH)
    waiting.queue.close()
    for job in jobs:
        with pytest.raises(Cancelled):
            job.result(0)
    with pytest.raises(Cancelled):
        waiting.add("late")
    assert waiting.take(0) is None


def test_what_a_worker_begins_next_is_not_what_another_reads_ahead(waiting: Waiting) -> None:
    for name in ("first", "second", "third"):
        waiting.add(name, video=f"film of {name}")
    for worker, name in ((0, "first"), (1, "second"), (0, "first")):
        assert [job.request for job in waiting.queue.expect_next(worker)] == [name]
    assert len(waiting.queue) == 3, "they wait as before"
    assert waiting.take(2) == "third"
    assert waiting.take(1) == "second", "its own, although another came first"
    assert waiting.affinity.note(1, "film of second") is Sighting.NEW, "it was only read ahead"
    assert waiting.affinity.note(1, "film of second") is Sighting.SAME_WORKER


def test_a_worker_is_told_of_several_jobs_and_others_take_what_it_has_not_begun(waiting: Waiting) -> None:
    for name in ("first", "second", "third", "fourth"):
        waiting.add(name, video=f"film of {name}")
    ahead = [job.request for job in waiting.queue.expect_next(0, most=3)]
    assert ahead == ["first", "second", "third"]
    assert [job.request for job in waiting.queue.expect_next(1, most=3)] == ["fourth"]
    assert [waiting.take(1) for _ in range(2)] == ["fourth", "third"], "the last of what is only read ahead"
    assert waiting.affinity.note(1, "film of third") is Sighting.NEW
    assert [waiting.take(0) for _ in range(2)] == ["first", "second"]


def test_no_free_worker_waits_for_one_that_only_reads_ahead(waiting: Waiting) -> None:
    waiting.add("first", video="film")
    waiting.queue.expect_next(0)
    waiting.add("refine", Priority.REFINEMENT)
    assert waiting.take(1) == "first", "before what is less urgent"
    waiting.affinity.note(1, "film")
    waiting.add("again", video="film")
    assert waiting.take(0) is None, "worker 1 has seen the film; what worker 0 read no longer counts"
    assert waiting.take(1) == "again"
    assert waiting.take(0) == "refine"


def test_nothing_is_upcoming_where_a_worker_accepts_nothing_of_it(waiting: Waiting) -> None:
    assert waiting.queue.expect_next(0) == []
    waiting.add("first", video="film")
    assert waiting.queue.expect_next(0, lambda _: False) == []
    assert not waiting.affinity.readers("film")


def test_what_a_worker_read_ahead_is_forgotten_with_it(waiting: Waiting) -> None:
    waiting.add("first", video="film")
    waiting.queue.expect_next(0)
    assert waiting.affinity.readers("film") == {0}
    waiting.affinity.forget(0)
    assert not waiting.affinity.readers("film")
