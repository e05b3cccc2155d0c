"""Servers killed at any moment, with a refinement in training and a champion in use: nothing is lost or doubled."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.database.database import Database
from ml_backend.refinement.version_store import NewVersion, VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Settings
from steerseg.soft_prompts import SoftPrompts
from tests.adversarial.support_storms import (
    IllLabelStudio,
    Promises,
    StormServer,
    ill_label_studio,
    rows,
    storm_server,
)
from tests.support.refinement_world import make_world, save_preset
from tests.support.storm_driver import MODEL

pytestmark = pytest.mark.timeout(3600)
_MOMENTS = ("training", "trying", "starting", "preparing", "training candidate", "training fold")


@pytest.fixture
def label_studio() -> Iterator[IllLabelStudio]:
    with ill_label_studio() as served:
        yield served


def prepared(folder: Path) -> Path:
    """A world with corrections to learn from, and a champion that is in use."""
    world = make_world(folder / "world", save_preset(folder / "preset", steps=40))
    store = Settings(data_dir=world / "data").database
    (world / "data" / "store.sqlite").rename(store)
    database = Database(store)
    line = PromptLine(VersionStore(database), world / "data", MODEL)
    pair = SoftPrompts.load(world / "preset" / "soft_prompts").averaged(
        SoftPrompts.load(world / "preset" / "soft_prompts"), 0.5
    )
    pair.save(folder / "champion")
    new = NewVersion(line.keep(folder / "champion", pair.digest), pair.digest, MODEL, "imported", None)
    assert line.promote(1, line.versions.add(1, new).name, by="test") == ""
    database.close()
    return world


def check_champion(world: Path) -> str:
    """The champion that the database names; its files must be whole."""
    database = Database(Settings(data_dir=world / "data").database)
    line = PromptLine(VersionStore(database), world / "data", MODEL)
    champion = line.champion(1)
    assert champion is not None
    line.check(champion)
    database.close()
    return champion.name


def wait_for_the_moment(server: StormServer, database: Path, moment: str, chance: random.Random) -> None:
    """Wait for a phase of a refinement, or for no more than the start of the server."""
    if moment == "starting":
        time.sleep(chance.uniform(0.0, 3.0))
        return
    newest = "SELECT state, phase FROM refinements ORDER BY id DESC LIMIT 1"
    while not server.up.wait(0.2):
        server.assert_alive()
    # A refinement that goes on may be beyond the phase already, and end: then its end is the moment.
    while all(
        state in ("waiting", "running") and not phase.startswith(moment)
        for state, phase in rows(database, newest)
    ):
        server.assert_alive()
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 0.5))


def test_kills_lose_and_double_nothing(
    tmp_path: Path, label_studio: IllLabelStudio, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("campaign_kills", default=0)
    if not kills:
        pytest.skip("a campaign of minutes: pytest tests/adversarial/test_kills.py --campaign-kills 50")
    chance = random.Random(kills)
    world, promises = prepared(tmp_path), Promises()
    database = Settings(data_dir=world / "data").database
    first = check_champion(world)
    phases: Counter[str] = Counter()
    for number in range(kills):
        with storm_server(world, label_studio.url, promises) as server:
            wait_for_the_moment(server, database, _MOMENTS[number % len(_MOMENTS)], chance)
        phases.update(
            phase for (phase,) in rows(database, "SELECT phase FROM refinements WHERE state = 'running'")
        )
        check_champion(world)
    assert phases, "no refinement was running at any kill"

    states = "SELECT count(*) FROM refinements WHERE state IN ('waiting', 'running')"
    with storm_server(world, label_studio.url, promises, quiet=True) as server:
        while rows(database, states) != [(0,)]:
            server.assert_alive()
            time.sleep(0.2)
    label_studio_had = label_studio.counts()
    with storm_server(world, label_studio.url, promises, quiet=True) as server:  # what was left is taken up
        owed = set(promises.tasks)
        while owed & {task for (task,) in rows(database, "SELECT task_id FROM deliveries")}:
            server.assert_alive()
            time.sleep(0.2)
        seen = set(promises.events)
        while not seen <= {number for (number,) in rows(database, "SELECT id FROM annotations")}:
            server.assert_alive()
            time.sleep(0.2)

    stored = [number for (number,) in rows(database, "SELECT id FROM annotations")]
    assert seen <= set(stored), "acknowledged events are there"
    assert len(stored) == len(set(stored))
    assert rows(database, "SELECT * FROM set_aside") == []
    by_version = Counter((one["task"], one["model_version"]) for one in label_studio.predictions)
    assert set(by_version.values()) == {2}, "each prediction once, with its alternative"
    assert owed <= {task for task, _ in by_version}, "every promise was kept"
    assert set(label_studio_had) <= set(label_studio.counts())
    (ended,) = rows(database, "SELECT DISTINCT state FROM refinements WHERE finished_at IS NOT NULL")
    assert ended == ("promoted",)
    assert check_champion(world) != first
    print(
        f"{kills} kills in {dict(phases)}: {len(seen)} events and {len(owed)} predictions promised, 0 lost, 0 doubled"
    )
