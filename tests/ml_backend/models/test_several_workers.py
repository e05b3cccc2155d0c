"""One queue and several workers: who gets which job, who makes way, and what the death of one costs."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ml_backend.models.affinity import Sighting
from ml_backend.models.executor import Executor
from ml_backend.models.job_observer import JobEnd, SilentObserver
from ml_backend.models.messages import ProposeRequest, Yielded
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.models.workers import ProcessWorker, WorkerState
from steerseg.errors import Cancelled, ConfigError, ModelError
from tests.support import executor_targets as targets
from tests.support.inline_worker import InlineWorker
from tests.support.worker_suite import wait_until

pytestmark = pytest.mark.timeout(120)

Make = Callable[..., Executor[Any, Any]]
KILLS = 3


class Named(targets.Commands):
    """Says which worker answers, by its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def who(self, reporter: Any, video: str) -> int:
        return self.number

    def hold(self, reporter: Any, video: str, started: Path, release: Path) -> int:
        self.wait_for(reporter, started, release)
        return self.number


class Seen(SilentObserver):
    """Keeps what an executor tells."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, Sighting]] = []
        self.ends: list[JobEnd] = []
        self.stages: list[str] = []

    def began(self, job: ModelJob[Any, Any], worker: int, waited: float, sighting: Sighting) -> None:
        assert waited >= 0
        self.begun.append((worker, sighting))

    def spent(self, job: ModelJob[Any, Any], stage: str, seconds: float) -> None:
        self.stages.append(stage)

    def ended(self, job: ModelJob[Any, Any], worker: int, end: JobEnd, seconds: float) -> None:
        self.ends.append(end)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Executor[Any, Any]] = []

    def build(factories: Sequence[Callable[[], Any]] | None = None, **given: Any) -> Executor[Any, Any]:
        chosen = factories if factories is not None else [partial(Named, number) for number in range(2)]
        executor: Executor[Any, Any] = Executor([InlineWorker(factory) for factory in chosen], **given)
        made.append(executor)
        return executor

    yield build
    for executor in made:
        executor.close()


def about_video(request: tuple[Any, ...]) -> Any:
    return request[1] if request[0] in ("who", "hold") else None


def ready(executor: Executor[Any, Any]) -> None:
    wait_until(lambda: all(status.state is WorkerState.READY for status in executor.statuses))


def test_free_are_the_workers_that_would_begin_a_new_job_at_once(make: Make, tmp_path: Path) -> None:
    executor = make()
    assert executor.free_for(Priority.BATCH) == 0, "none has loaded its models"
    executor = make(warm=True)
    ready(executor)
    assert executor.free_for(Priority.REFINEMENT) == 2
    release = tmp_path / "release"
    held = [executor.submit(("hold", video, tmp_path / video, release)) for video in ("a", "b")]
    wait_until((tmp_path / "a").exists)
    wait_until((tmp_path / "b").exists)
    assert executor.free_for(Priority.INTERACTIVE) == 0
    waiting = executor.submit(("who", "c"), priority=Priority.REFINEMENT)
    release.touch()
    for job in [*held, waiting]:
        job.result()
    wait_until(lambda: executor.free_for(Priority.REFINEMENT) == 2)


def test_a_job_goes_to_the_worker_that_has_its_video(make: Make, tmp_path: Path) -> None:
    executor = make(video_of=about_video, patience=60.0, warm=True)
    ready(executor)
    executor.observe(seen := Seen())
    release = tmp_path / "release"
    held = {video: executor.submit(("hold", video, tmp_path / video, release)) for video in ("a", "b")}
    wait_until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    release.touch()
    first = {video: job.result() for video, job in held.items()}
    assert sorted(first.values()) == [0, 1]
    again = [(video, executor.submit(("who", video))) for video in "abbaab"]
    assert [job.result() for _, job in again] == [first[video] for video, _ in again]
    assert [sighting for _, sighting in seen.begun] == [Sighting.NEW] * 2 + [Sighting.SAME_WORKER] * 6


def test_a_job_whose_worker_is_long_busy_goes_to_another(make: Make, tmp_path: Path) -> None:
    executor = make(video_of=about_video, patience=0.05)
    release = tmp_path / "release"
    held = executor.submit(("hold", "a", tmp_path / "started", release))
    wait_until((tmp_path / "started").exists)
    other = executor.submit(("who", "a")).result()
    release.touch()
    assert held.result() != other


def test_a_worker_that_has_the_video_puts_down_what_is_less_urgent(make: Make, tmp_path: Path) -> None:
    executor = make(video_of=about_video, patience=60.0, warm=True)
    ready(executor)
    first = executor.submit(("who", "a")).result()
    # Both refine; only the one that has the video is asked to make way.
    slices = [
        executor.submit(("until_yield", tmp_path / str(number)), priority=Priority.REFINEMENT)
        for number in range(2)
    ]
    wait_until(lambda: all((tmp_path / str(number)).exists() for number in range(2)))
    assert executor.submit(("who", "a"), priority=Priority.INTERACTIVE).result() == first
    for job in slices:
        executor.cancel(job)


def test_nobody_makes_way_while_a_worker_is_free(make: Make, tmp_path: Path) -> None:
    executor = make(warm=True)
    ready(executor)
    refining = executor.submit(("until_yield", tmp_path / "started"), priority=Priority.REFINEMENT)
    wait_until((tmp_path / "started").exists)
    for number in range(20):
        assert executor.submit(("echo", number), priority=Priority.INTERACTIVE).result() == number
    assert not refining.future.done()
    executor.cancel(refining)
    with pytest.raises(Cancelled):
        refining.result()


def test_as_many_make_way_as_are_needed_and_the_least_urgent_first(make: Make, tmp_path: Path) -> None:
    executor = make([targets.commands] * 3)
    running = {
        name: executor.submit(("until_yield", tmp_path / name), priority=priority)
        for name, priority in [
            ("batch", Priority.BATCH),
            ("slice 1", Priority.REFINEMENT),
            ("slice 2", Priority.REFINEMENT),
        ]
    }
    wait_until(lambda: all((tmp_path / name).exists() for name in running))
    release = tmp_path / "release"
    clicks = []
    for number in range(2):
        clicks.append(
            executor.submit(
                ("wait_for", tmp_path / f"click {number}", release), priority=Priority.INTERACTIVE
            )
        )
        wait_until((tmp_path / f"click {number}").exists)
        put_down = [name for name, job in running.items() if job.future.done()]
        assert len(put_down) == number + 1
        assert "batch" not in put_down
    third = executor.submit(("echo", 3), priority=Priority.INTERACTIVE)
    assert running["batch"].result() == "put down"
    assert third.result() == 3
    release.touch()
    assert [click.result() for click in clicks] == ["released"] * 2


def test_a_running_and_a_waiting_job_are_cancelled_and_the_other_worker_goes_on(
    make: Make, tmp_path: Path
) -> None:
    executor = make()
    release = tmp_path / "release"
    running = [executor.submit(("wait_for", tmp_path / str(number), release)) for number in range(2)]
    wait_until(lambda: all((tmp_path / str(number)).exists() for number in range(2)))
    waiting = executor.submit(("echo", 1))
    executor.cancel(waiting)
    executor.cancel(running[0])
    for job in (waiting, running[0]):
        with pytest.raises(Cancelled):
            job.result()
    release.touch()
    assert running[1].result() == "released"


def test_a_worker_that_cannot_load_its_models_costs_no_job(make: Make) -> None:
    executor = make([targets.unloadable, targets.commands, targets.unloadable])
    assert [executor.submit(("echo", number)).result() for number in range(30)] == list(range(30))
    states = [status.state for status in executor.statuses]
    assert states[1] in (WorkerState.READY, WorkerState.BUSY)
    assert set(states[::2]) <= {WorkerState.FAILED, WorkerState.STOPPED}


def test_where_no_worker_can_load_its_models_the_reason_is_told(make: Make) -> None:
    executor = make([targets.unloadable] * 2)
    for _ in range(2):
        with pytest.raises(ConfigError, match="expected demo"):
            executor.submit(("echo", 1)).result()


def test_a_request_goes_to_a_worker_that_accepts_it(make: Make) -> None:
    executor = make([])
    executor.add(InlineWorker(targets.commands, refuses="echo"))
    executor.add(InlineWorker(targets.commands))
    assert [executor.submit(("echo", number)).result() for number in range(20)] == list(range(20))
    assert executor.submit(("counted",)).result() in (1, 21)


def test_a_request_that_no_worker_accepts_is_refused(make: Make) -> None:
    executor = make([])
    for _ in range(2):
        executor.add(InlineWorker(targets.commands, refuses="echo"))
    with pytest.raises(ConfigError, match="does not echo"):
        executor.submit(("echo", 1)).result()


def test_jobs_wait_for_workers_that_come_and_outlive_those_that_go(make: Make, tmp_path: Path) -> None:
    executor = make([], max_attempts=1)
    job = executor.submit(("wait_for", tmp_path / "started", tmp_path / "release"))
    assert executor.statuses == []
    for _ in range(5):  # more often than it may be begun on workers that it kills
        index = executor.add(InlineWorker(targets.commands))
        wait_until((tmp_path / "started").exists)
        executor.remove(index)
        assert executor.statuses == []
        wait_until(lambda: executor.queue_length == 1)
        (tmp_path / "started").unlink()
    (tmp_path / "release").touch()
    executor.remove(executor.add(InlineWorker(targets.commands)))  # gone at once
    last = executor.add(InlineWorker(targets.commands))
    assert job.result() == "released"
    assert last == 6
    wait_until(lambda: executor.activities[0].job is None)
    (activity,) = executor.activities
    assert (activity.index, activity.job) == (last, None)


def test_the_observer_learns_how_each_job_ended(make: Make, tmp_path: Path) -> None:
    executor = make([targets.commands] * 2)
    executor.observe(seen := Seen())
    assert executor.submit(("break_once", tmp_path / "marker")).result() == "in a new one"
    assert executor.submit(("echo", 1)).result() == 1
    with pytest.raises(ModelError):
        executor.submit(("surprise",)).result()
    assert seen.ends == [JobEnd.LOST, JobEnd.DONE, JobEnd.DONE, JobEnd.FAILED]
    assert seen.stages == ["echo"]


def test_killed_processes_cost_no_job_and_double_none(tmp_path: Path) -> None:
    workers = [ProcessWorker(targets.commands, device="cpu") for _ in range(2)]
    executor: Executor[Any, Any] = Executor(workers, warm=True, max_attempts=KILLS + 1)
    ended: list[int] = []
    rng = random.Random(7)
    try:
        jobs = [executor.submit(("slow_echo", number)) for number in range(60)]
        for number, job in enumerate(jobs):
            job.future.add_done_callback(lambda _, number=number: ended.append(number))
        for kill in range(KILLS):
            wait_until(lambda kill=kill: len(ended) >= (kill + 1) * 60 // (KILLS + 1))
            pids = [status.pid for status in executor.statuses if status.pid is not None]
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
        assert [job.result() for job in jobs] == list(range(60))
        assert sorted(ended) == list(range(60))
        assert {status.device for status in executor.statuses} == {"cpu"}
    finally:
        executor.close()


class MakesWay:
    """Proposes until somebody waits, or a file says that it may end."""

    def __init__(self, release: Path) -> None:
        self._release = release
        self.begun = 0

    def __call__(self, request: Any, reporter: Any) -> Any:
        if not isinstance(request, ProposeRequest):
            return request
        self.begun += 1
        wait_until(lambda: reporter.should_yield or self._release.exists())
        return Yielded() if reporter.should_yield else "proposed"


def test_a_proposal_makes_way_is_begun_again_and_ends_however_often_somebody_clicks(tmp_path: Path) -> None:
    handler, seen = MakesWay(tmp_path / "release"), Seen()
    executor: Executor[Any, Any] = Executor([InlineWorker(lambda: handler)])
    executor.observe(seen)
    try:
        proposal = executor.submit(ProposeRequest(tmp_path / "film", "the dog", None, 1))
        for click in range(3):
            wait_until(lambda count=click: handler.begun == count + 1)
            assert executor.submit(click, priority=Priority.INTERACTIVE).result() == click
        wait_until(lambda: handler.begun == 4)
        late = executor.submit("late", priority=Priority.INTERACTIVE)
        assert not proposal.future.done()
        (tmp_path / "release").touch()
        assert (proposal.result(), late.result()) == ("proposed", "late")
        assert (proposal.yields, proposal.attempts) == (3, 1)
    finally:
        executor.close()
    assert sorted(seen.ends) == [JobEnd.DONE] * 5 + [JobEnd.YIELDED] * 3


def test_a_proposal_that_makes_way_no_more_shields_no_other(tmp_path: Path) -> None:
    handlers = [MakesWay(tmp_path / f"release {index}") for index in range(2)]
    executor: Executor[Any, Any] = Executor(
        [InlineWorker(lambda handler=handler: handler) for handler in handlers]
    )
    try:
        first = executor.submit(ProposeRequest(tmp_path / "a", "the dog", None, 1))
        first.yields = 3
        second = executor.submit(ProposeRequest(tmp_path / "b", "the dog", None, 1))
        wait_until(lambda: all(handler.begun for handler in handlers))
        click = executor.submit("click", priority=Priority.INTERACTIVE)
        assert click.result() == "click"
        assert (first.yields, second.yields) == (3, 1)
        for index in range(2):
            (tmp_path / f"release {index}").touch()
        assert [job.result() for job in (first, second)] == ["proposed"] * 2
    finally:
        executor.close()


def test_a_proposal_goes_on_where_another_worker_is_free(tmp_path: Path) -> None:
    handlers = [MakesWay(tmp_path / "release") for _ in range(2)]
    executor: Executor[Any, Any] = Executor(
        [InlineWorker(lambda handler=handler: handler) for handler in handlers],
        video_of=lambda request: request.media if isinstance(request, ProposeRequest) else request,
        warm=True,
    )
    try:
        wait_until(lambda: all(status.state is WorkerState.READY for status in executor.statuses))
        proposal = executor.submit(ProposeRequest(tmp_path / "film", "the dog", None, 1))
        wait_until(lambda: any(handler.begun for handler in handlers))
        click = executor.submit(tmp_path / "film", priority=Priority.INTERACTIVE)
        assert click.result() == tmp_path / "film"
        assert proposal.yields == 0
        (tmp_path / "release").touch()
        assert proposal.result() == "proposed"
    finally:
        executor.close()
