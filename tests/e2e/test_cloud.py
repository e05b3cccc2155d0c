"""Tasks whose media lie in an S3 bucket, which a real Label Studio signs addresses of or proxies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from ml_backend.demo.servers import BackendServer, LabelStudioServer, free_port
from ml_backend.demo.verifying import shapes_of
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaHost
from tests.e2e.conftest import LABEL_CONFIGS, PRESET, PROXY_SECONDS, commands_of
from tests.support.cloud import KEYS, S3, SlowS3
from tests.support.label_studio import until, wait_for_predictions
from tests.support.quick_refinement import quick_preset, write_clips
from tests.support.requirements import missing

BUCKET = "videos"
BIG_BYTES = 500 * 2**20
PART = 8 * 2**20
"""Bytes of a part; Label Studio's proxy sends no more at a time."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """With the bucket ``videos``."""
    try:
        with S3.serving(BUCKET) as server:
            yield server
    except ImportError as error:
        missing(f"no S3 server to test with: {error}")


@pytest.fixture(scope="module")
def cloud_backend(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendServer]:
    """A backend that may follow a signed address to the loopback address, where this bucket lies."""
    server = BackendServer(
        tmp_path_factory.mktemp("cloud-backend"),
        free_port(),
        label_studio,
        preset=str(quick_preset(PRESET, tmp_path_factory.mktemp("preset"))),
        settings={"STEERSEG_ALLOW_PRIVATE_ADDRESSES": "true"},
    )
    with server.process():
        yield server


def add_bucket(client: LabelStudioClient, project: int, url: str, *, presign: bool) -> None:
    """Let a project have the bucket as a source storage."""
    storage = {
        **KEYS,
        "project": project,
        "title": BUCKET,
        "bucket": BUCKET,
        "s3_endpoint": url,
        "presign": presign,
        "use_blob_urls": True,
    }
    client.write("POST", "/api/storages/s3/", storage, "add the bucket")


def fetched(client: LabelStudioClient, url: str, name: str, folder: Path, *, presign: bool) -> Path:
    """An object that a task of a new project names, as the backend fetches it."""
    project = int(
        client.projects.create(name, (LABEL_CONFIGS / "video.xml").read_text(encoding="utf-8"))["id"]
    )
    add_bucket(client, project, url, presign=presign)
    uri = f"s3://{BUCKET}/{name}"
    (task,) = client.tasks.create(project, [{"data": {"video": uri}}])
    host = MediaHost(client.url, client.auth_headers)
    media = MediaStore(folder, host=host, download_timeout=600, allow_private_addresses=True)
    return media.fetch(uri, task_id=task)


@pytest.fixture(scope="module")
def half_a_gigabyte(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of the object ``half-a-gigabyte``."""
    path = tmp_path_factory.mktemp("s3") / "half-a-gigabyte"
    with path.open("wb") as file:  # sparse: it takes no space
        for start in range(0, BIG_BYTES, 50 * 2**20):
            file.seek(start)
            file.write(f"from {start}".encode())
        file.truncate(BIG_BYTES)
    s3.client.upload_file(str(path), BUCKET, path.name)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("presign", [True, False], ids=["signed", "proxied"])
def test_half_a_gigabyte_arrives_whole(
    client: LabelStudioClient, s3: S3, half_a_gigabyte: str, tmp_path: Path, presign: bool
) -> None:
    path = fetched(client, s3.url, "half-a-gigabyte", tmp_path, presign=presign)
    assert path.name == half_a_gigabyte


def test_what_the_proxy_cuts_by_time_goes_on_where_it_ended(
    client: LabelStudioClient, s3: S3, tmp_path: Path
) -> None:
    content = np.random.default_rng(0).bytes(PART + 1_000_000)
    s3.client.put_object(Bucket=BUCKET, Key="slow", Body=content)
    # A part takes longer than the proxy's patience.
    with SlowS3(s3.url, bytes_a_second=round(PART / (1.6 * PROXY_SECONDS))) as slow:
        path = fetched(client, slow.url, "slow", tmp_path, presign=False)
        starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in slow.ranges]
    assert path.read_bytes() == content
    assert starts == sorted(starts)
    assert any(start % PART for start in starts), "nothing was cut"


@pytest.mark.parametrize("presign", [True, False], ids=["signed", "proxied"])
def test_tasks_in_the_cloud_go_the_whole_way(
    client: LabelStudioClient,
    cloud_backend: BackendServer,
    s3: S3,
    tmp_path: Path,
    presign: bool,
) -> None:
    """Batch, an annotator's call, webhooks and what follows from them, a refinement, and an export with pictures."""
    run = commands_of(cloud_backend)
    title = f"cloud {'signed' if presign else 'proxied'}"
    run("connect", "--title", title, "--label-config", str(LABEL_CONFIGS / "video.xml"))
    found = client.projects.find(title)
    assert found is not None
    project = int(found["id"])
    add_bucket(client, project, s3.url, presign=presign)
    clips = write_clips(tmp_path, 2)
    for path in clips.values():
        s3.client.upload_file(str(path), BUCKET, f"{title}/{path.name}")
    tasks = client.tasks.create(
        project,
        [
            {"data": {"video": f"s3://{BUCKET}/{title}/{path.name}", "expression": expression, "fps": 12}}
            for expression, path in clips.items()
        ],
    )
    run("predict", str(project))
    predictions = wait_for_predictions(client, project)

    assert interactive_shapes(client, project, tasks[0], next(iter(clips)))
    for task in tasks:
        accept(client, task, predictions[task][-1])
    report = f"{cloud_backend.url}/projects/{project}/corrections"
    until(lambda: requests.get(report, timeout=30).json()["usable"] == 2, "the corrections")
    if not presign:  # once is enough: its media come as those of the corrections came
        assert "promoted" in run("refine", str(project), "--wait")
    run("export", str(project), "--format", "coco", "--output", str(tmp_path / "out"))
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert sorted(sequence["task"] for sequence in provenance["sequences"].values()) == sorted(tasks)
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == 20


def interactive_shapes(
    client: LabelStudioClient, project: int, task: int, expression: str
) -> list[Mapping[str, Any]]:
    """What an annotator who types an expression gets."""
    (model,) = client.backends.of_project(project)
    typed = {
        "id": "typed",
        "type": "textarea",
        "from_name": "expression",
        "to_name": "video",
        "value": {"text": [expression]},
    }
    answer = client.write(
        "POST",
        f"/api/ml/{model['id']}/interactive-annotating",
        {"task": task, "context": {"result": [typed]}},
        "ask as an annotator does",
        timeout=120,
    )
    return shapes_of(answer["data"]["result"])


def accept(client: LabelStudioClient, task: int, prediction: Mapping[str, Any]) -> None:
    """Submit a prediction as it is."""
    verdict = {
        "type": "choices",
        "from_name": "verdict",
        "to_name": "video",
        "value": {"choices": ["accept"]},
    }
    client.write(
        "POST",
        f"/api/tasks/{task}/annotations/",
        {"result": [*shapes_of(prediction["result"]), verdict], "parent_prediction": prediction["id"]},
        "submit",
    )
