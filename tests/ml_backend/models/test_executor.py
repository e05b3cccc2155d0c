"""The process that owns the models: results, errors, cancellation, death and replacement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from ml_backend.models.executor import Executor
from ml_backend.models.queue import Priority
from ml_backend.models.workers import WorkerState
from steerseg.errors import Cancelled, ConfigError, ModelError, SteerSegError, VideoError
from tests.support import executor_targets as targets
from tests.support.inline_worker import InlineWorker

pytestmark = pytest.mark.timeout(120)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a state that must come; the test's own time limit ends a wait for one that does not."""
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def executor() -> Iterator[Executor[Any, Any]]:
    made: Executor[Any, Any] = Executor.local([targets.commands])
    yield made
    made.close()


def test_a_request_returns_its_result_and_progress(executor: Executor[Any, Any]) -> None:
    seen: list[tuple[str, float]] = []
    ticket = executor.submit(("echo", {"a": 1}), on_progress=lambda *step: seen.append(step))
    assert ticket.result() == {"a": 1}
    assert seen == [("echo", 1.0)]
    assert (ticket.stage, ticket.fraction, ticket.attempts) == ("echo", 1.0, 1)


def test_the_process_is_not_this_one_and_is_kept(executor: Executor[Any, Any]) -> None:
    pid = executor.submit(("pid",)).result()
    assert pid != os.getpid()
    assert executor.submit(("pid",)).result() == pid
    assert executor.submit(("counted",)).result() == 3
    assert executor.statuses[0].pid == pid


def test_it_starts_lazily_or_warm() -> None:
    lazy: Executor[Any, Any] = Executor.local([targets.commands])
    warm: Executor[Any, Any] = Executor.local([targets.commands], warm=True)
    try:
        wait_until(lambda: warm.statuses[0].state is WorkerState.READY)
        assert lazy.statuses[0].state is WorkerState.STOPPED
    finally:
        lazy.close()
        warm.close()


def test_an_error_crosses_with_type_and_message(executor: Executor[Any, Any]) -> None:
    with pytest.raises(VideoError, match="give one with frames"):
        executor.submit(("fail",)).result()
    assert executor.submit(("echo", 1)).result() == 1


def test_an_unexpected_error_keeps_its_details_to_the_log(executor: Executor[Any, Any]) -> None:
    with pytest.raises(ModelError, match="ZeroDivisionError") as error:
        executor.submit(("surprise",)).result()
    assert "secret" not in str(error.value)
    with pytest.raises(ModelError, match="out of memory"):
        executor.submit(("exhaust",)).result()
    with pytest.raises(ModelError, match="sending the result"):
        executor.submit(("unpicklable",)).result()
    assert executor.submit(("echo", 1)).result() == 1


def test_a_request_that_cannot_be_sent_fails_alone(executor: Executor[Any, Any]) -> None:
    with pytest.raises(Exception, match="TypeError"):
        executor.submit(("echo", targets.Unpicklable())).result()
    assert executor.submit(("echo", 1)).result() == 1


def test_a_killed_process_is_replaced_and_its_request_tried_again(
    executor: Executor[Any, Any], tmp_path: Path
) -> None:
    before = executor.submit(("pid",)).result()
    ticket = executor.submit(("die_once", tmp_path / "marker"))
    assert ticket.result() == "survived"
    assert ticket.attempts == 2
    assert executor.submit(("pid",)).result() != before
    assert executor.statuses[0].restarts == 1


def test_a_process_that_can_do_no_more_is_replaced(executor: Executor[Any, Any], tmp_path: Path) -> None:
    before = executor.submit(("pid",)).result()
    assert executor.submit(("break_once", tmp_path / "marker")).result() == "in a new one"
    assert executor.submit(("pid",)).result() != before


@pytest.mark.parametrize(
    "error", [BlockingIOError(11, "Resource temporarily unavailable"), ValueError("odd")]
)
def test_a_process_that_does_not_start_is_started_later(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SpawnProcess.start
    failures = [error]

    def failing(process: SpawnProcess) -> None:
        if failures:
            raise failures.pop()
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", failing)
    warm: Executor[Any, Any] = Executor.local([targets.commands], warm=True)
    try:
        wait_until(lambda: not failures)
        assert warm.submit(("echo", 1)).result() == 1
    finally:
        warm.close()
    failures.append(error)
    lazy: Executor[Any, Any] = Executor.local([targets.commands])
    try:
        with pytest.raises(SteerSegError, match=r"temporarily unavailable|ValueError"):
            lazy.submit(("echo", 1)).result()
        assert lazy.submit(("echo", 1)).result() == 1
    finally:
        lazy.close()


def test_a_request_that_always_kills_is_given_up(executor: Executor[Any, Any]) -> None:
    ticket = executor.submit(("die",))
    with pytest.raises(ModelError, match="SIGKILL"):
        ticket.result()
    assert ticket.attempts == 2
    assert executor.submit(("echo", 1)).result() == 1


def test_a_process_killed_while_idle_is_replaced(executor: Executor[Any, Any]) -> None:
    pid = executor.submit(("pid",)).result()
    os.kill(pid, signal.SIGKILL)
    assert executor.submit(("pid",)).result() != pid


def test_a_silent_process_is_replaced() -> None:
    # Long enough for a process to start on a machine whose cores are taken.
    executor: Executor[Any, Any] = Executor.local([targets.commands], stall_timeout=10.0, max_attempts=1)
    try:
        with pytest.raises(ModelError, match="died"):
            executor.submit(("hang",)).result()
        assert executor.submit(("echo", 1)).result() == 1
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("factory", "error", "words"),
    [
        (targets.unloadable, ConfigError, "expected demo"),
        (targets.broken, ModelError, "loading the models"),
        (targets.dying, ModelError, "exit code 3"),
    ],
)
def test_models_that_do_not_load_fail_the_request(
    factory: Callable[[], Any], error: type[Exception], words: str
) -> None:
    executor: Executor[Any, Any] = Executor.local([factory])
    try:
        with pytest.raises(error, match=words):
            executor.submit(("echo", 1)).result()
    finally:
        executor.close()


def test_cancelling_a_waiting_and_a_running_request(executor: Executor[Any, Any], tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    running = executor.submit(("wait_for", started, release))
    waiting = executor.submit(("echo", 1))
    wait_until(started.exists)
    executor.cancel(waiting)
    with pytest.raises(Cancelled):
        waiting.result(0)
    executor.cancel(running)
    with pytest.raises(Cancelled, match="during waiting"):
        running.result()
    # The process lives on: cancelling is not killing.
    assert executor.submit(("counted",)).result() == 2
    assert executor.statuses[0].restarts == 0
    executor.cancel(running)  # has ended: nothing happens


def test_the_most_urgent_request_goes_first(executor: Executor[Any, Any], tmp_path: Path) -> None:
    started, release, log = tmp_path / "started", tmp_path / "release", tmp_path / "log"
    executor.submit(("wait_for", started, release))
    wait_until(started.exists)
    tickets = [
        executor.submit(("note", log, "batch 1")),
        executor.submit(("note", log, "refinement"), priority=Priority.REFINEMENT),
        executor.submit(("note", log, "batch 2")),
        executor.submit(("note", log, "interactive"), priority=Priority.INTERACTIVE),
    ]
    executor.promote(tickets[2], Priority.INTERACTIVE)
    assert executor.queue_length == 4
    release.touch()
    for ticket in tickets:
        ticket.result()
    assert log.read_text().split("\n")[:-1] == ["batch 2", "interactive", "batch 1", "refinement"]


def test_status_is_answered_while_the_process_works(executor: Executor[Any, Any], tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    ticket = executor.submit(("wait_for", started, release))
    wait_until(started.exists)
    assert executor.statuses[0].state is WorkerState.BUSY
    with pytest.raises(TimeoutError):
        ticket.result(0)
    release.touch()
    assert ticket.result() == "released"


def test_many_threads_get_each_their_own_result(executor: Executor[Any, Any]) -> None:
    results: dict[int, Any] = {}

    def ask(number: int) -> None:
        results[number] = executor.submit(("echo", number)).result()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: number for number in range(40)}


def test_closing_ends_everything(tmp_path: Path) -> None:
    executor: Executor[Any, Any] = Executor.local([targets.commands])
    started = tmp_path / "started"
    running = executor.submit(("wait_for", started, tmp_path / "never"))
    waiting = executor.submit(("echo", 1))
    wait_until(started.exists)
    pid = executor.statuses[0].pid
    assert pid is not None
    executor.close()
    executor.close()
    for ticket in (running, waiting):
        with pytest.raises(Cancelled):
            ticket.result(10)
    with pytest.raises(Cancelled):
        executor.submit(("echo", 1))
    wait_until(lambda: not _exists(pid))


SERVER = """
import sys, time
from pathlib import Path
from ml_backend.models.executor import Executor
from tests.support import executor_targets as targets

if __name__ == "__main__":
    executor = Executor.local([targets.commands])
    print(executor.submit(("pid",)).result(), flush=True)
    executor.submit(("hang",)).result()
"""


def test_a_worker_never_outlives_a_killed_server(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    root = Path(__file__).parents[3]
    server = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    server.kill()
    server.wait()
    wait_until(lambda: not _exists(pid))


def _exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("how", ["submitted", "promoted"])
def test_work_that_can_be_put_down_makes_way_for_the_more_urgent(
    executor: Executor[Any, Any], tmp_path: Path, how: str
) -> None:
    slice_ = executor.submit(("until_yield", tmp_path / "started"), priority=Priority.REFINEMENT)
    wait_until((tmp_path / "started").exists)
    if how == "submitted":
        urgent = executor.submit(("echo", 1), priority=Priority.BATCH)
    else:
        urgent = executor.submit(("echo", 1), priority=Priority.REFINEMENT)
        assert not slice_.future.done()
        executor.promote(urgent, Priority.INTERACTIVE)
    assert slice_.result() == "put down"
    assert urgent.result() == 1


def test_work_is_not_put_down_for_what_is_no_more_urgent(
    executor: Executor[Any, Any], tmp_path: Path
) -> None:
    slice_ = executor.submit(("until_yield", tmp_path / "started"), priority=Priority.REFINEMENT)
    wait_until((tmp_path / "started").exists)
    waiting = executor.submit(("echo", 1), priority=Priority.REFINEMENT)
    urgent = executor.submit(("until_yield", tmp_path / "urgent"), priority=Priority.BATCH)
    assert slice_.result() == "put down"
    wait_until((tmp_path / "urgent").exists)
    assert not waiting.future.done()
    executor.submit(("echo", 2), priority=Priority.INTERACTIVE)
    assert urgent.result() == "put down"
    assert waiting.result() == 1


def test_the_process_hears_what_it_probably_does_next(tmp_path: Path) -> None:
    executor: Executor[Any, Any] = Executor.local(
        [targets.commands], reads_ahead=lambda request: request[0] == "read_so_far"
    )
    try:
        running = executor.submit(("wait_for", tmp_path / "started", tmp_path / "go"))
        wait_until((tmp_path / "started").exists)
        following = [executor.submit(("read_so_far", name)) for name in ("a", "b")]
        other = executor.submit(("echo", "nothing is read ahead for it"))
        following.append(executor.submit(("read_so_far", "c")))
        (tmp_path / "go").touch()
        for job in (running, other):
            job.result()
        assert [job.result() for job in following] == [
            [[], ["b", "c"]],
            [[], ["b", "c"], ["c"]],
            [[], ["b", "c"], ["c"], ["c"], []],
        ]
        executor.submit(("touch_when_idle", tmp_path / "idle")).result()
        wait_until((tmp_path / "idle").exists)
    finally:
        executor.close()


@pytest.mark.parametrize(("read_ahead", "order"), [("", "xy"), ("note", "yx")])
def test_only_what_is_read_ahead_is_kept_for_a_worker(tmp_path: Path, read_ahead: str, order: str) -> None:
    log, begun = tmp_path / "log", [tmp_path / name for name in ("first", "second", "third")]
    go_on = [path.with_suffix(".go") for path in begun]
    executor: Executor[Any, Any] = Executor(
        [
            InlineWorker(targets.commands, reads_ahead=lambda request: request[0] == read_ahead)
            for _ in range(2)
        ],
        video_of=lambda request: request[-1] if request[0] == "note" else None,
    )
    try:
        running = [executor.submit(("wait_for", begun[i], go_on[i])) for i in range(2)]
        wait_until(lambda: all(path.exists() for path in begun[:2]))
        running.append(executor.submit(("wait_for", begun[2], go_on[2])))
        clicks = [executor.submit(("note", log, video)) for video in "xy"]
        go_on[0].touch()
        wait_until(begun[2].exists)  # its worker has heard of what is upcoming
        go_on[1].touch()
        for click in clicks:
            click.result()
        assert log.read_text().split() == list(order)
        go_on[2].touch()
        for job in running:
            job.result()
    finally:
        executor.close()
