"""The simulated team: what the queue's choices are worth, in simulated time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.fleet.saturation import dispatched, proposed
from benchmarks.fleet.simulation import Simulation, Team
from ml_backend.models.affinity import Sighting
from ml_backend.models.queue import Priority

ALONE = Team(annotators=0, tasks=200, workers=1, refinements=0)
SMALL = Team(annotators=12, tasks=600, workers=4, refinements=1)


def test_a_batch_over_two_workers_takes_half_the_time() -> None:
    one = Simulation(ALONE).run()
    two = Simulation(replace(ALONE, workers=2)).run()
    assert len(one.waits[Priority.BATCH]) == len(two.waits[Priority.BATCH]) == 200
    assert one.seconds / two.seconds > 1.9
    assert two.busy > 0.95


def test_to_wait_for_the_worker_with_the_video_pays() -> None:
    patient = Simulation(SMALL).run()
    hasty = Simulation(replace(SMALL, patience=0.0)).run()
    for outcome in (patient, hasty):
        assert len(outcome.waits[Priority.BATCH]) == SMALL.tasks
        # One that waits gets the next worker that is free: no job before it takes longer than this.
        assert max(outcome.waits[Priority.INTERACTIVE]) < 8.0
    shares = [one.sightings[Sighting.SAME_WORKER] / sum(one.sightings.values()) for one in (patient, hasty)]
    assert shares[0] > shares[1]
    assert sum(patient.answers) / len(patient.answers) < sum(hasty.answers) / len(hasty.answers)
    assert patient.seconds < hasty.seconds


def test_clicks_go_before_the_batch_and_that_before_refinements() -> None:
    outcome = Simulation(SMALL).run()
    middle = [outcome.wait(priority, 50) for priority in Priority if outcome.waits[priority]]
    assert middle == sorted(middle)


def test_the_same_seed_gives_the_same_day() -> None:
    assert Simulation(SMALL).run() == Simulation(SMALL).run()


def test_the_dispatcher_is_measured(tmp_path: Path) -> None:
    assert dispatched(2, 20).per_second > 0
    assert proposed(2, 3, tmp_path, tmp_path / "steerseg.sqlite").cpu_ms > 0
    assert len(list((tmp_path / "proposals").rglob("*.json.gz"))) == 3
