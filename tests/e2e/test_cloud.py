"""Tasks whose media lie in an S3 bucket, which a real Label Studio signs addresses of or proxies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from ml_backend.demo.samples import Sample
from ml_backend.demo.servers import BackendServer, LabelStudioServer, free_port
from ml_backend.demo.verifying import shapes_of
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaHost
from tests.e2e.conftest import LABEL_CONFIGS, PRESET, commands_of, missing
from tests.support.label_studio import retrieve_predictions, until, wait_for_predictions

BUCKET = "videos"
BIG_BYTES = 500 * 2**20
KEYS = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@dataclass(frozen=True)
class S3:
    """An S3 server on the loopback address.

    Attributes:
        url: Its address.
        client: Talks to it.
        digest: SHA-256 of the object ``big``.
    """

    url: str
    client: Any
    digest: str


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """With the bucket ``videos`` and its object ``big``, which has 500 MiB."""
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        missing(f"no S3 server to test with: {error}")
    big = tmp_path_factory.mktemp("s3") / "big"
    with big.open("wb") as file:
        for start in range(0, BIG_BYTES, 50 * 2**20):
            file.seek(start)
            file.write(f"from {start}".encode())
        file.truncate(BIG_BYTES)
    with big.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=url, **KEYS)
        client.create_bucket(Bucket=BUCKET)
        client.upload_file(str(big), BUCKET, "big")
        yield S3(url, client, digest)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def cloud_backend(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendServer]:
    """A backend that may follow a signed address to the loopback address, where this bucket lies."""
    server = BackendServer(
        tmp_path_factory.mktemp("cloud-backend"),
        free_port(),
        label_studio,
        preset=PRESET,
        settings={"STEERSEG_ALLOW_PRIVATE_ADDRESSES": "true"},
    )
    with server.process():
        yield server


def add_task(client: LabelStudioClient, project: int, s3: S3, data: dict[str, Any], *, presign: bool) -> int:
    """Let a project have the bucket as a source storage, and give it a task."""
    storage = {
        **KEYS,
        "project": project,
        "title": BUCKET,
        "bucket": BUCKET,
        "s3_endpoint": s3.url,
        "presign": presign,
        "use_blob_urls": True,
    }
    client.write("POST", "/api/storages/s3/", storage, "add the bucket")
    (task,) = client.tasks.create(project, [{"data": data}])
    return task


@pytest.mark.parametrize("presign", [True, False], ids=["signed", "proxied"])
def test_half_a_gigabyte_arrives_whole(
    client: LabelStudioClient, s3: S3, tmp_path: Path, presign: bool
) -> None:
    label_config = (LABEL_CONFIGS / "video.xml").read_text(encoding="utf-8")
    project = int(client.projects.create("half a gigabyte", label_config)["id"])
    uri = f"s3://{BUCKET}/big"
    task = add_task(client, project, s3, {"video": uri}, presign=presign)
    host = MediaHost(client.url, client.auth_headers)
    media = MediaStore(tmp_path, host=host, download_timeout=600, allow_private_addresses=True)
    path = media.fetch(uri, task_id=task)
    assert path.name == s3.digest


@pytest.mark.parametrize("presign", [True, False], ids=["signed", "proxied"])
def test_a_task_in_the_cloud_goes_the_whole_way(
    client: LabelStudioClient,
    cloud_backend: BackendServer,
    samples: list[Sample],
    s3: S3,
    tmp_path: Path,
    presign: bool,
) -> None:
    """Batch, an annotator's call, the webhook and what follows from it, and an export with pictures."""
    run = commands_of(cloud_backend)
    s3.client.upload_file(str(samples[0].path), BUCKET, "clip.mp4")
    title = f"cloud {'signed' if presign else 'proxied'}"
    run("connect", "--title", title, "--label-config", str(LABEL_CONFIGS / "video.xml"))
    found = client.projects.find(title)
    assert found is not None
    project = int(found["id"])
    data = {"video": f"s3://{BUCKET}/clip.mp4", "expression": samples[0].expression, "fps": 12}
    task = add_task(client, project, s3, data, presign=presign)
    retrieve_predictions(client, project)
    predictions = wait_for_predictions(client, project)[task]
    track = shapes_of(predictions[-1]["result"])

    (model,) = client.backends.of_project(project)
    typed = {
        "id": "typed",
        "type": "textarea",
        "from_name": "expression",
        "to_name": "video",
        "value": {"text": [samples[0].expression]},
    }
    answer = client.write(
        "POST",
        f"/api/ml/{model['id']}/interactive-annotating",
        {"task": task, "context": {"result": [typed]}},
        "ask as an annotator does",
        timeout=120,
    )
    assert shapes_of(answer["data"]["result"])

    verdict = {
        "type": "choices",
        "from_name": "verdict",
        "to_name": "video",
        "value": {"choices": ["accept"]},
    }
    client.write(
        "POST",
        f"/api/tasks/{task}/annotations/",
        {"result": [*track, verdict], "parent_prediction": predictions[-1]["id"]},
        "submit",
    )
    report = f"{cloud_backend.url}/projects/{project}/corrections"
    until(lambda: requests.get(report, timeout=30).json()["usable"] == 1, "the correction")
    run("export", str(project), "--format", "coco", "--output", str(tmp_path / "out"))
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [sequence["task"] for sequence in provenance["sequences"].values()] == [task]
