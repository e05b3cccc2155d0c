"""The tables of refinements: one at a time, remembered triggers, and one transaction at the end."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import PromptStatus, RefinementState
from ml_backend.refinement.gate import GateMetrics, Judgement, Outcome, Scheme
from ml_backend.refinement.store import RefinementStore
from ml_backend.refinement.version_store import NewVersion, VersionStore
from tests.support.databases import EACH_DATABASE

pytestmark = EACH_DATABASE

TIME = datetime(2026, 11, 22, tzinfo=UTC)
PROMOTE = Judgement(Outcome.PROMOTED, "better", GateMetrics(scheme=Scheme.HELD_OUT))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "store.sqlite")
    for project in (1, 2):
        ProjectStore(made).save(
            project, uid=str(project), label_config="<View/>", hostname="", extra_params={}
        )
    return made


def new(digest: str) -> NewVersion:
    return NewVersion(f"prompts/{digest}", digest, "model", "refined", parent_id=None)


def test_a_trigger_during_a_run_is_remembered_for_afterwards(database: Database) -> None:
    refinements = RefinementStore(database)
    first = refinements.request(1, "start training")
    assert refinements.request(1, "schedule").id == first.id
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    for _ in range(2):
        running = refinements.request(1, "command line")
    assert running.id == first.id
    assert running.triggers == ("start training", "schedule")
    assert running.remembered == ("command line",)
    assert refinements.settle(first.id, PROMOTE).state is RefinementState.PROMOTED
    (waiting,) = refinements.active(1)
    assert waiting.state is RefinementState.WAITING
    assert waiting.triggers == ("command line",)
    assert refinements.settle(first.id, PROMOTE).finished_at is not None
    assert len(refinements.active(1)) == 1


def test_triggers_at_the_same_time_are_one_refinement(database: Database) -> None:
    refinements = RefinementStore(database)
    threads = [threading.Thread(target=refinements.request, args=(1, f"t{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = refinements.active(1)
    assert len(only.triggers) == 8


def test_promotion_is_one_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    refinements, versions = RefinementStore(database), VersionStore(database)
    first = refinements.request(1, "t")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("ml_backend.refinement.store._end", fail)
    with pytest.raises(RuntimeError):
        refinements.settle(first.id, PROMOTE, new("d1"))
    assert versions.versions(1) == []
    assert refinements.active(1)[0].state is RefinementState.RUNNING
    monkeypatch.undo()
    refinements.settle(first.id, PROMOTE, new("d1"))
    (champion,) = versions.versions(1)
    assert (champion.status, champion.reason) == (PromptStatus.CHAMPION, "promoted: better")
    assert versions.champion(2) is None


def test_a_kept_back_candidate_stays_to_be_looked_at(database: Database) -> None:
    refinements, versions = RefinementStore(database), VersionStore(database)
    first = refinements.request(1, "t")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    refinements.settle(first.id, Judgement(Outcome.KEPT_BACK, "no gain", GateMetrics()), new("d1"))
    (candidate,) = versions.versions(1)
    assert (candidate.status, candidate.reason) == (PromptStatus.CANDIDATE, "kept back: no gain")
    assert versions.champion(1) is None


def test_a_champion_that_was_changed_meanwhile_is_left_alone(database: Database) -> None:
    refinements, versions = RefinementStore(database), VersionStore(database)
    first = refinements.request(1, "t")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    by_hand = versions.add(1, new("d0"))
    versions.promote(1, by_hand.name, by="hand")
    ended = refinements.settle(first.id, PROMOTE, new("d1"))
    assert ended.state is RefinementState.KEPT_BACK
    assert "changed meanwhile" in ended.reason
    champion = versions.champion(1)
    assert champion is not None
    assert champion.name == by_hand.name


def test_a_champion_of_another_model_gives_way(database: Database) -> None:
    """It is not in use, so a refinement begins from the preset's own prompts."""
    refinements, versions = RefinementStore(database), VersionStore(database)
    of_before = versions.add(1, replace(new("d0"), model="of before"))
    versions.promote(1, of_before.name, by="hand")
    first = refinements.request(1, "t")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    assert refinements.settle(first.id, PROMOTE, new("d1")).state is RefinementState.PROMOTED
    champion = versions.champion(1)
    assert champion is not None
    assert champion.digest == "d1"
    assert versions.version(1, of_before.name).status is PromptStatus.RETIRED


def test_trials_are_kept_once_and_dropped_by_a_restart(database: Database) -> None:
    refinements = RefinementStore(database)
    first = refinements.request(1, "t")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    refinements.add_trial(first.id, "a", candidate=0.5, champion=0.25)
    refinements.add_trial(first.id, "a", candidate=0.9, champion=0.9)
    assert refinements.trials(first.id) == {"a": (0.5, 0.25)}
    refinements.leave_out(first.id, "b", "b is gone")
    refinements.restart(first.id, "the preset was changed")
    again = refinements.get(first.id)
    assert again is not None
    assert (again.state, again.left_out) == (RefinementState.WAITING, frozenset())
    assert again.notes == ("b is gone", "the preset was changed")
    assert refinements.trials(first.id) == {}


def test_a_cancelled_one_stays_so_and_its_remembered_trigger_waits(database: Database) -> None:
    refinements = RefinementStore(database)
    first = refinements.request(1, "a request")
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    refinements.request(1, "Start training")
    assert refinements.cancel(first.id, "cancelled on request")
    assert not refinements.cancel(first.id, "once more")
    assert not refinements.cancel(99, "never was")
    (waiting,) = refinements.active(1)
    assert waiting.triggers == ("Start training",)
    # Whoever still carries it on changes nothing any more.
    assert not refinements.note_progress(first.id, "training candidate", 1, 2)
    refinements.restart(first.id, "the preset was changed")
    refinements.begin(first.id, champion_id=None, base_version="other", at=TIME)
    refinements.settle(first.id, PROMOTE, new("aaaaaaaa"))
    ended = refinements.get(first.id)
    assert ended is not None
    assert (ended.state, ended.base_version, ended.phase) == (RefinementState.CANCELLED, "base", "")
    assert VersionStore(database).versions(1) == []


def test_the_corrections_of_a_cancelled_one_do_not_ask_for_it_again(database: Database) -> None:
    refinements = RefinementStore(database)
    before = datetime.now(UTC)
    assert refinements.cancel(refinements.request(1, "5 corrections").id, "not now")
    begun = refinements.last_begun(1)
    assert begun is not None, "though it never began"
    assert before <= begun <= datetime.now(UTC)
    second = refinements.request(1, "a request")
    refinements.begin(second.id, champion_id=None, base_version="base", at=TIME)
    refinements.cancel(second.id, "not now")
    assert refinements.last_begun(1) == TIME


def test_only_runs_that_looked_at_the_corrections_count_as_begun(database: Database) -> None:
    refinements = RefinementStore(database)
    assert refinements.last_begun(1) is None
    first = refinements.request(1, "t")
    assert refinements.last_begun(1) is None
    refinements.begin(first.id, champion_id=None, base_version="base", at=TIME)
    assert refinements.last_begun(1) == TIME
    refinements.fail(first.id, "the disk is full")
    assert refinements.last_begun(1) is None
    assert refinements.latest(1)[0].reason == "the disk is full"
