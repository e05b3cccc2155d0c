"""Servers of one PostgreSQL database that are killed at any moment: the next one takes over, and nothing is lost."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.adversarial.support_storms import Promises, StormServer, ill_label_studio, rows
from tests.support.postgresql import Databases
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(3600)
_FEW = 2
"""Kills without ``--campaign-kills``."""


def test_a_stand_by_server_goes_on_with_what_was_promised(
    tmp_path: Path, postgresql: Databases, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("campaign_kills", default=0) or _FEW
    chance = random.Random(kills)
    address = postgresql.make()
    (tmp_path / "data").mkdir()
    environment = {"STEERSEG_DATABASE_URL": address.url.render_as_string(hide_password=False)}
    promises, waited = Promises(), []
    with ill_label_studio() as label_studio, contextlib.ExitStack() as started:

        def start(*, quiet: bool = False) -> StormServer:
            server = StormServer(tmp_path, label_studio.url, promises, environment, quiet=quiet)
            started.callback(server.kill)
            return server

        def alive(server: StormServer) -> bool:
            server.assert_alive()
            return server.up.wait(0.05)

        leader = start()
        wait_until(lambda: alive(leader))
        for number in range(kills):
            successor = start(quiet=number == kills - 1)
            wait_until(lambda: successor.waits.wait(0.05))  # noqa: B023
            time.sleep(chance.uniform(0.0, 1.5))
            assert not successor.up.is_set(), "one works at a time"
            leader.kill()
            killed = time.monotonic()
            wait_until(lambda: alive(successor))  # noqa: B023
            waited.append(time.monotonic() - killed)
            leader = successor

        def settled() -> bool:
            leader.assert_alive()
            # Also what was promised and never announced.
            owed = rows(address, "SELECT task_id FROM deliveries")
            known = {number for (number,) in rows(address, "SELECT id FROM annotations")}
            return not owed and promises.events <= known

        wait_until(settled)
        stored = Counter((one["task"], one["model_version"]) for one in label_studio.predictions)
        assert promises.events, "something was acknowledged"
        assert promises.tasks <= {task for task, _ in stored}, "every promise was kept"
        assert set(stored.values()) <= {2}, "each prediction once, with its alternative"
        assert rows(address, "SELECT * FROM set_aside") == []
        assert rows(address, "SELECT term FROM steerseg_terms") == [(kills + 1,)]
    print(
        f"{kills} kills: {len(promises.events)} events and {len(promises.tasks)} predictions promised, 0 lost, "
        f"0 doubled; taken over after {max(waited):.1f} s at most"
    )
