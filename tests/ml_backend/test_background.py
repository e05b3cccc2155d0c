"""Background loops: turns follow one another, errors end nothing, and are seen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ml_backend.background import BackgroundLoop
from ml_backend.metrics import Metrics
from tests.support.requests import wait_until

WAIT = 10.0  # seconds after which a test gives up


@contextmanager
def running(turn: Callable[[], float | None], pause: float = 0.01) -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop("test", turn, pause=pause)
    loop.start()
    yield loop
    loop.close(WAIT)
    assert not loop.status.alive


class Turns:
    """Counts turns; each returns or raises what it is given, and the last of these from then on."""

    def __init__(self, *outcomes: float | BaseException | None) -> None:
        self._outcomes = list(outcomes)
        self._taken = threading.Semaphore(0)

    def __call__(self) -> float | None:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        self._taken.release()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def await_one(self) -> None:
        assert self._taken.acquire(timeout=WAIT)

    def await_none(self) -> None:
        assert not self._taken.acquire(timeout=0.05)


def test_a_turn_follows_after_the_seconds_that_the_last_one_returned() -> None:
    turns = Turns(0.0, 0.01, 0.01)
    with running(turns):
        for _ in range(5):
            turns.await_one()


def test_a_loop_without_work_waits_until_it_is_notified() -> None:
    turns = Turns(None)
    with running(turns) as loop:
        turns.await_one()
        turns.await_none()
        loop.notify()
        turns.await_one()
        turns.await_none()


def test_what_is_notified_during_a_turn_is_not_lost() -> None:
    entered, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def turn() -> None:
        entered.release()
        assert go_on.acquire(timeout=WAIT)

    with running(turn) as loop:
        assert entered.acquire(timeout=WAIT)
        loop.notify()
        go_on.release()
        assert entered.acquire(timeout=WAIT)
        go_on.release()


@pytest.mark.parametrize("error", [OverflowError("too large"), OSError("no disk"), SystemExit(3)])
def test_whatever_a_turn_raises_is_logged_counted_and_shown_and_the_loop_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    turns = Turns(error, error, None)
    with caplog.at_level(logging.ERROR), running(turns) as loop:
        metrics = Metrics()
        metrics.watch(
            queue_lengths=dict,
            workers=dict,
            refinements=dict,
            loops=[loop],
            set_aside=lambda: 0,
            deliveries=lambda: 0,
        )
        for _ in range(3):
            turns.await_one()
        loop.notify()
        turns.await_one()  # the third turn has ended
        status = loop.status
        count = metrics.registry.get_sample_value("steerseg_background_errors_total", {"loop": "test"})
    assert (status.alive, status.failing, status.errors, count) == (True, False, 2, 2.0)
    assert status.error == f"{type(error).__name__}: {error}"
    assert status.to_json()["error_at"] == status.error_at.isoformat() if status.error_at else False
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error, error]


def test_a_failing_loop_is_seen_and_pauses_even_when_it_is_notified() -> None:
    turns = Turns(OverflowError("too large"))
    with running(turns, pause=WAIT) as loop:
        turns.await_one()
        loop.notify()
        turns.await_none()
        wait_until(lambda: loop.status.failing)
        assert loop.status.alive
        assert loop.status.problem == "the background loop 'test' fails: OverflowError: too large"
    assert "has ended; start the server again" in loop.status.problem


def test_closing_ends_waits_and_pauses_and_may_be_repeated() -> None:
    for outcome in (None, 1000.0, OverflowError("too large")):
        turns = Turns(outcome)
        with running(turns, pause=1000.0) as loop:
            turns.await_one()
        loop.close()
        assert loop.closing


def test_a_loop_that_never_began_can_be_closed() -> None:
    loop = BackgroundLoop("test", lambda: None, pause=1.0)
    assert not loop.started
    loop.close()
    assert not loop.status.alive
