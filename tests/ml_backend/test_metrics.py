"""What `/metrics` says is documented, and what the dashboard asks for is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ml_backend.database.tables import RefinementState
from ml_backend.metrics import Metrics
from ml_backend.models.affinity import Sighting
from ml_backend.models.job_observer import JobEnd
from ml_backend.models.messages import JOB_KINDS, ProposeRequest
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.models.workers import WorkerState, WorkerStatus

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.watch(
        queue_lengths=lambda: {priority: 3 for priority in Priority},
        workers=lambda: {
            0: WorkerStatus(WorkerState.BUSY, 1, 2, None, "cuda:0"),
            1: WorkerStatus(WorkerState.FAILED, None, 0, "no such device", "cuda:1"),
        },
        refinements=lambda: {RefinementState.RUNNING: 1, RefinementState.KEPT_BACK: 4},
        loops=[],
        set_aside=lambda: 0,
        deliveries=lambda: 5,
    )
    return made


def names(metrics: Metrics) -> set[str]:
    """The names of all metrics, as `/metrics` writes those of their samples."""
    found = set()
    for family in metrics.registry.collect():
        found.add(family.name + ("_total" if family.type == "counter" else ""))
    return found


def test_every_metric_is_documented(metrics: Metrics) -> None:
    documented = set(re.findall(r"^\| `(steerseg_\w+)", (DOCS / "fleet.md").read_text(), re.MULTILINE))
    assert documented == names(metrics)


def test_the_dashboard_asks_for_what_is_there(metrics: Metrics) -> None:
    dashboard = json.loads((DOCS / "grafana" / "steerseg.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found = re.findall(r"steerseg_\w+", target["expr"])
            assert found, panel["title"]
            asked.update(re.sub(r"_(bucket|sum|count)$", "", name) for name in found)
    assert asked == names(metrics)


def test_jobs_are_counted_by_worker(metrics: Metrics) -> None:
    request = ProposeRequest(Path("video"), "the red car", None, 1)
    job: ModelJob[ProposeRequest, None] = ModelJob(1, request, Priority.BATCH, None)
    metrics.jobs.began(job, 1, 2.5, Sighting.SAME_WORKER)
    metrics.jobs.spent(job, "tracking", 3.0)
    metrics.jobs.ended(job, 1, JobEnd.LOST, 4.0)
    text = metrics.text().decode()
    for line in (
        'steerseg_job_waiting_seconds_sum{priority="batch"} 2.5',
        'steerseg_job_videos_total{seen="same_worker"} 1.0',
        'steerseg_stage_seconds_sum{kind="propose",stage="tracking"} 3.0',
        'steerseg_worker_jobs_total{end="lost",kind="propose",worker="1"} 1.0',
        'steerseg_worker_busy_seconds_total{worker="1"} 4.0',
        'steerseg_queue_length{priority="interactive"} 3.0',
        'steerseg_worker_state{device="cuda:0",state="busy",worker="0"} 1.0',
        'steerseg_worker_state{device="cuda:1",state="ready",worker="1"} 0.0',
        'steerseg_worker_restarts{worker="0"} 2.0',
        'steerseg_refinements{state="kept back"} 4.0',
        "steerseg_deliveries_waiting 5.0",
    ):
        assert line in text


def test_every_kind_of_request_has_a_name() -> None:
    assert len(set(JOB_KINDS.values())) == len(JOB_KINDS) == 9
