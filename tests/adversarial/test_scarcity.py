"""A server with few descriptors, and one whose clock jumps: both keep their promises."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.settings import Settings
from tests.adversarial.support_storms import (
    ILLNESSES,
    IllLabelStudio,
    Promises,
    StormServer,
    ill_label_studio,
    rows,
    storm_server,
)
from tests.support.requirements import missing

pytestmark = pytest.mark.timeout(240)
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
def label_studio() -> Iterator[IllLabelStudio]:
    with ill_label_studio() as served:
        yield served


def kept(server: StormServer, promises: Promises, label_studio: IllLabelStudio, database: Path) -> bool:
    """Whether everything that was promised until now was kept."""
    server.assert_alive()
    time.sleep(0.1)
    known = {number for (number,) in rows(database, "SELECT id FROM annotations")}
    stored = label_studio.counts()
    both = all(stored.get(task, 0) >= 2 for task in promises.tasks)  # the prediction and its alternative
    return both and set(promises.events) <= known


def set_clock(clock: Path, jump: str) -> None:
    """Let a clock jump at once: who reads the file sees the old text or the new one."""
    new = clock.with_suffix(".new")
    new.write_text(jump)
    new.rename(clock)


def test_with_64_descriptors_every_promise_is_kept(tmp_path: Path, label_studio: IllLabelStudio) -> None:
    promises = Promises()
    with storm_server(tmp_path, label_studio.url, promises, descriptors=64) as server:
        while len(promises.tasks) < 18:
            server.assert_alive()
            time.sleep(0.1)
        owed = Promises(set(promises.events), set(promises.tasks))
        while not kept(server, owed, label_studio, Settings(data_dir=tmp_path / "data").database):
            pass
    assert {label_studio.counts()[task] for task in owed.tasks} == {2}


@pytest.mark.timeout(1800)
def test_a_clock_that_jumps_delays_no_promise(
    tmp_path: Path, label_studio: IllLabelStudio, request: pytest.FixtureRequest
) -> None:
    """Label Studio is ill before each jump, so that a next attempt is noted by the clock of before it."""
    if not request.config.getoption("campaign_clock", default=False):
        pytest.skip("a campaign of minutes: pytest tests/adversarial/test_scarcity.py --campaign-clock")
    if FAKETIME is None:
        missing("no libfaketime; Debian has it (apt-get install libfaketime)")
    clock, promises = tmp_path / "clock", Promises()
    set_clock(clock, "+0")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    database = Settings(data_dir=tmp_path / "data").database
    with storm_server(tmp_path, label_studio.url, promises, environment=environment) as server:
        while not server.up.wait(0.5):
            server.assert_alive()
        for jump in ("+1d", "-1d", "-10y", "+30y", "+0"):
            label_studio.illness = ILLNESSES["500"]
            while rows(database, "SELECT count(*) FROM deliveries WHERE error IS NOT NULL") == [(0,)]:
                server.assert_alive()
                time.sleep(0.05)
            owed = Promises(set(promises.events), set(promises.tasks))
            set_clock(clock, jump)
            label_studio.illness = None
            while not kept(server, owed, label_studio, database):
                pass
    assert {label_studio.counts()[task] for task in owed.tasks} == {2}
    years = {str(at)[:4] for (at,) in rows(database, "SELECT received_at FROM events")}
    assert len(years) >= 3, "the clock did jump"
