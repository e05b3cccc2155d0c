"""Waiting times of a large team by simulation, and how many jobs a second one dispatcher hands out.

    python -m benchmarks.fleet simulate
    python -m benchmarks.fleet simulate --tasks 20000 --patience 0 1 2
    python -m benchmarks.fleet saturate
    python -m benchmarks.fleet databases --proposals 300
    python -m benchmarks.fleet devices --devices cuda:0,cuda:1 --models full
    python -m benchmarks.fleet cluster

``simulate`` runs the server's queue under a clock that jumps; see :mod:`benchmarks.fleet.simulation`. ``saturate`` runs
the server's dispatcher in real time, with workers that take no time at all: first the dispatcher alone, then with the
database, where each proposal is noted, saved and found again as in the server. ``databases`` does the latter on SQLite
and on a PostgreSQL server that it starts, in turns, so that both meet the same machine. ``devices`` compares one device
at a time with all that are named, in the server's own model processes; see :mod:`benchmarks.fleet.devices`. ``cluster``
starts a Ray cluster on this machine and runs a batch on one worker and on several, which take a known time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.fleet.cluster import batch_seconds
from benchmarks.fleet.devices import compare
from benchmarks.fleet.saturation import Rate, dispatched, proposed
from benchmarks.fleet.simulation import Outcome, Simulation, Team
from ml_backend.models.affinity import Sighting
from ml_backend.models.queue import Priority
from tests.support.postgresql import Databases, cluster


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    simulate = commands.add_parser("simulate")
    simulate.add_argument("--annotators", type=int, default=Team.annotators)
    simulate.add_argument("--tasks", type=int, default=Team.tasks)
    simulate.add_argument("--workers", type=int, default=Team.workers)
    simulate.add_argument("--patience", type=float, nargs="+", default=[Team.patience])
    saturate = commands.add_parser("saturate")
    saturate.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8, 64])
    saturate.add_argument("--jobs", type=int, default=2000)
    databases = commands.add_parser("databases")
    databases.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    databases.add_argument("--proposals", type=int, default=200)
    databases.add_argument("--rounds", type=int, default=3)
    several = commands.add_parser("devices")
    several.add_argument("--devices", default="cpu,cpu")
    several.add_argument("--models", choices=("demo", "full", "tiny"), default="demo")
    several.add_argument("--count", type=int, default=8, help="videos that are proposed for in each way")
    several.add_argument("--seconds", type=float, default=30.0, help="of each of the two trainings")
    cluster_of_ray = commands.add_parser("cluster")
    cluster_of_ray.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    cluster_of_ray.add_argument("--jobs", type=int, default=200)
    cluster_of_ray.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_args()
    run = {
        "simulate": _simulate,
        "saturate": _saturate,
        "databases": _databases,
        "devices": _devices,
        "cluster": _cluster,
    }
    run[options.command](options)


def _simulate(options: argparse.Namespace) -> None:
    print(
        "| patience | hours | tasks/s | busy | job | jobs | wait p50 | wait p95 | wait p99 | answer p50 | answer p95 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for patience in options.patience:
        team = Team(
            annotators=options.annotators, tasks=options.tasks, workers=options.workers, patience=patience
        )
        began = time.monotonic()
        outcome = Simulation(team).run()
        for priority in Priority:
            print(_row(team, outcome, priority))
        clicks = sum(outcome.sightings.values()) - outcome.sightings[Sighting.NEW]
        share = outcome.sightings[Sighting.SAME_WORKER] / max(1, clicks)
        print(f"\n{share:.0%} of the further clicks on a video went to a worker that had it; ", end="")
        print(f"{time.monotonic() - began:.0f} s of computing\n")


def _row(team: Team, outcome: Outcome, priority: Priority) -> str:
    waits = [f"{outcome.wait(priority, percent):.2f} s" for percent in (50, 95, 99)]
    answers = ["", ""]
    if priority is Priority.INTERACTIVE:
        answers = [f"{np.percentile(outcome.answers, percent):.2f} s" for percent in (50, 95)]
    cells = [
        f"{team.patience:g} s",
        f"{outcome.seconds / 3600:.2f}",
        f"{team.tasks / outcome.seconds:.1f}",
        f"{outcome.busy:.0%}",
        priority.name.lower(),
        str(len(outcome.waits[priority])),
        *waits,
        *answers,
    ]
    return "| " + " | ".join(cells) + " |"


def _saturate(options: argparse.Namespace) -> None:
    print("| workers | jobs/s | ms of a core each | proposals/s with the database | ms of a core each |")
    print("|---|---|---|---|---|")
    for workers in options.workers:
        alone = dispatched(workers, options.jobs)
        with tempfile.TemporaryDirectory() as folder:
            noted = proposed(workers, options.jobs // 10, Path(folder), Path(folder) / "steerseg.sqlite")
        rates = " | ".join(f"{rate.per_second:.0f} | {rate.cpu_ms:.1f}" for rate in (alone, noted))
        print(f"| {workers} | {rates} |", flush=True)


def _devices(options: argparse.Namespace) -> None:
    devices = options.devices.split(",")
    print(f"| an hour, {options.models} on {options.devices} | one device at a time | all | ratio |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        given = {"count": options.count, "seconds": options.seconds}
        for found in compare(options.models, devices, Path(folder), **given):
            print(
                f"| {found.what} | {found.alone:.0f} | {found.together:.0f} | {found.ratio:.2f} |", flush=True
            )


def _cluster(options: argparse.Namespace) -> None:
    first = 0.0
    print("| workers | jobs | s | times one worker |")
    print("|---|---|---|---|")
    for workers in options.workers:
        seconds = batch_seconds(workers, options.jobs, options.seconds)
        first = first or seconds
        print(f"| {workers} | {options.jobs} | {seconds:.1f} | {first / seconds:.2f} |", flush=True)


def _databases(options: argparse.Namespace) -> None:
    print(
        "| workers | SQLite: proposals/s | ms of a core each | PostgreSQL: proposals/s | ms of a core each | ratio |"
    )
    print("|---|---|---|---|---|---|")
    with cluster(safe=True) as server:
        databases = Databases(server.address())
        for workers in options.workers:
            rates: dict[str, list[Rate]] = {"sqlite": [], "postgresql": []}
            for _ in range(options.rounds):
                for name, measured in rates.items():
                    with tempfile.TemporaryDirectory() as folder:
                        file = Path(folder) / "steerseg.sqlite"
                        address = file if name == "sqlite" else databases.make()
                        measured.append(proposed(workers, options.proposals, Path(folder), address))
            best = [max(measured, key=lambda rate: rate.per_second) for measured in rates.values()]
            cells = " | ".join(f"{rate.per_second:.0f} | {rate.cpu_ms:.1f}" for rate in best)
            print(f"| {workers} | {cells} | {best[1].per_second / best[0].per_second:.2f} |", flush=True)
        databases.close()


if __name__ == "__main__":
    main()
