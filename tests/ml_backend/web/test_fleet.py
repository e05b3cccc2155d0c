"""What a person and a monitor see of workers and of a cluster; and who may fetch media."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.answers import FleetReport, Health
from ml_backend.cli.fleet import describe_fleet
from ml_backend.models.activity import CurrentJob, WorkerActivity, WorkLog
from ml_backend.models.fleet.fleet import ClusterState, FleetStatus
from ml_backend.models.fleet.messages import NodeStatus
from ml_backend.models.workers import WorkerState, WorkerStatus
from ml_backend.settings import Settings, load_settings
from ml_backend.web.door import server_names
from steerseg.errors import ConfigError
from tests.support.backend import Backend, MakeBackend, recorded
from tests.support.pages import text_of
from tests.support.requests import introduce

NODE = NodeStatus("ab12", "gpu-1", "10.0.0.7", gpus=2, cpus=32, workers=2, wanted=2, problem="")
UP = FleetStatus("auto", ClusterState.CONNECTED, "", (NODE,))
BUSY = WorkerActivity(
    index=3,
    status=WorkerStatus(WorkerState.BUSY, None, 1, None, "cuda", "gpu-1"),
    job=CurrentJob(17, "propose", "batch", "tracking", 0.5, 1.4),
    done=12,
    busy=0.75,
)


def test_the_page_and_the_report_show_what_runs_where(backend: Backend) -> None:
    backend.post("/predict", introduce(backend))
    report = backend.client.get("/fleet").get_json()
    (worker,) = report["workers"]
    assert report["cluster"] is None
    assert (worker["state"], worker["host"], worker["job"]) == ("ready", "", None)
    assert worker["done"] >= 1
    assert 0 <= worker["busy"] <= 1
    page = backend.client.get("/pages/workers").get_data(as_text=True)
    assert "this server" in page
    assert "Cluster" not in page


def test_the_page_shows_the_cluster_and_a_page_without_workers_says_so(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = replace(NODE, host="head", gpus=0, workers=0, wanted=0)
    ill = replace(NODE, host="gpu-2", problem="the host has another version")
    cluster = replace(UP, nodes=(NODE, idle, ill))
    report = FleetReport((BUSY,), {"interactive": 0}, cluster)
    monkeypatch.setattr(backend.service, "fleet_report", lambda: report)
    page = text_of(backend.client, "/pages/workers")
    assert 'class="badge connected"' in page
    assert "2 of 2" in page
    assert '<span class="soft">none</span>' in page
    assert '<td class="failed">the host has another version</td>' in page
    overview = backend.service.overview()
    assert "No worker is there" not in text_of(backend.client, "/")
    monkeypatch.setattr(backend.service, "overview", lambda: replace(overview, workers=()))
    assert "No worker is there. Jobs wait" in text_of(backend.client, "/")


def test_the_command_shows_nodes_devices_work_and_throughput() -> None:
    shown = "\n".join(describe_fleet(FleetReport((BUSY,), {"interactive": 0, "batch": 4}, UP).to_json()))
    for words in (
        "cluster auto: connected",
        "gpu-1",
        "2 GPUs, 32 cores, 2 of 2 workers",
        "propose, tracking",
    ):
        assert words in shown
    assert "75%" in shown
    assert "4 batch" in shown
    assert "1.2 jobs a minute" in shown


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (FleetStatus("auto", ClusterState.LOST, "its head does not answer", ()), "out of reach"),
        (replace(UP, nodes=(replace(NODE, problem="the host has another version"),)), "gpu-1: the host has"),
        (replace(UP, nodes=(replace(NODE, gpus=0, wanted=0),)), "STEERSEG_CLUSTER_WORKER_CPUS"),
        (UP, ""),
    ],
)
def test_health_says_what_is_amiss_with_the_cluster(status: FleetStatus, words: str) -> None:
    health = Health("v1", (BUSY.status,), 0, (), cluster=status).to_json()
    assert health["status"] == ("DEGRADED" if words else "UP")
    assert words in "".join(health["problems"])
    assert health["cluster"]["state"] == str(status.state)
    assert health["workers"][0]["host"] == "gpu-1"


def test_health_without_a_cluster_speaks_of_none(backend: Backend) -> None:
    health = backend.client.get("/health").get_json()
    assert "cluster" not in health
    assert "host" not in health["workers"][0]


def test_media_need_the_token_even_where_pages_need_a_password(make_backend: MakeBackend) -> None:
    backend = make_backend(basic_auth_username="u", basic_auth_password="p")
    assert backend.client.get("/media/" + "0" * 64, auth=("u", "p")).status_code == 401
    assert backend.client.get("/fleet").status_code == 401
    assert recorded("setup")


def test_health_tells_what_the_models_do_without() -> None:
    whole = WorkerStatus(WorkerState.READY, None, 0, None)
    lacking = replace(whole, switched_off="SAM 3's concepts are off")
    workers = Health("v1", (whole, lacking), 0, ()).to_json()["workers"]
    assert "switched_off" not in workers[0]
    assert workers[1]["switched_off"] == "SAM 3's concepts are off"


def test_throughput_counts_the_last_ten_minutes() -> None:
    now = [0.0]
    log = WorkLog(lambda: now[0])
    status = WorkerStatus(WorkerState.READY, None, 0, None)
    for _ in range(10):
        log.begin()
        now[0] += 30
        log.end(answered=True)
        now[0] += 30
    activity = log.activity(0, status, None)
    assert (activity.done, activity.busy) == (10, 0.5)
    now[0] += 570
    log.begin()
    now[0] += 30
    activity = log.activity(0, status, None)
    assert (activity.done, activity.busy) == (0, 0.05)


def test_a_cluster_takes_the_place_of_this_machines_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(cluster="auto").devices == ()
    assert Settings(cluster="head:6379", device="cuda:0").devices == ("cuda:0",)
    assert Settings(cluster_media="http://backend:9090").cluster_media == "http://backend:9090"
    assert "backend" in server_names(Settings(cluster_media="http://backend:9090"))
    assert "videos" not in server_names(Settings(cluster_media="s3://videos"))
    for name, value in [
        ("cluster", "head"),
        ("cluster", "http://head:1"),
        ("cluster", "ray://head:10001"),
        ("cluster_media", "shared/videos"),
        ("cluster_media", "http://user@backend:9090"),
    ]:
        with pytest.raises(ConfigError, match=f"STEERSEG_{name.upper()}"):
            load_settings(**{name: value})


def test_the_cache_of_hosts_is_of_their_own_home() -> None:
    assert Settings().cluster_cache_dir.expanduser().is_relative_to(Path.home())
