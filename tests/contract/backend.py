"""A whole backend with its threads and a real worker process: the only file here that knows how it is put together."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flask.testing import FlaskClient

from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.task import Task, task_value
from ml_backend.label_studio.task_media import Media, MediaLoader
from ml_backend.models.executor import Executor
from ml_backend.models.fingerprint import model_fingerprint
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import build_service
from steerseg.soft_prompts import SoftPrompts
from tests.contract import models

VERSION = "steerseg-contract"
PAGE = Path(__file__).with_name("page.jpg")
WIDTH = 256
"""Of the embeddings of the demo's model."""

_OPEN_WORK = (
    "SELECT count(*) FROM events WHERE processed_at IS NULL",
    "SELECT count(*) FROM corrections WHERE state = 'pending' OR (state = 'usable' AND NOT propagated)",
    "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')",
    "SELECT count(*) FROM refinements WHERE state IN ('waiting', 'running')",
    "SELECT count(*) FROM deliveries",
)


class PagesOnDisk:
    """Pages come from the local-files root, as in a real backend; a video is nothing but its name."""

    def __init__(self, settings: Settings) -> None:
        self._pages = MediaLoader(settings)

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        video = controls.video
        address = None if video is None else task_value(task.data, video.data_key)
        if controls.frames is None and address:
            return Media(Path("video"), hashlib.sha256(address.encode()).hexdigest(), video=video)
        return self._pages.load(task, controls, host)


@dataclass(frozen=True)
class Backend:
    """A running backend, asked as Label Studio, browsers and operators ask it.

    Attributes:
        client: Flask's test client of its app.
        data_dir: Its data folder.
    """

    client: FlaskClient
    data_dir: Path

    @property
    def database(self) -> Path:
        """Its database file."""
        return self.data_dir / "steerseg.sqlite"

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and return the answer, which must be a success."""
        response = self.client.post(path, json=body)
        assert response.status_code in (200, 201, 202), response.get_data(as_text=True)
        return response.get_json()

    def settle(self) -> None:
        """Wait until all that followed from the requests so far is in the database."""
        while self._count(*_OPEN_WORK):
            time.sleep(0.01)

    def await_running_job(self) -> None:
        """Wait until a model works."""
        while not self._count("SELECT count(*) FROM jobs WHERE state = 'running'"):
            time.sleep(0.01)

    def _count(self, *queries: str) -> int:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return sum(connection.execute(query).fetchone()[0] for query in queries)


@contextmanager
def running_backend(folder: Path, **settings: Any) -> Iterator[Backend]:
    """A backend with its data and the pages of the recorded tasks below a folder; it is closed at the end."""
    given = {
        "data_dir": folder / "data",
        "local_files_root": write_pages(folder / "media"),
        "expression_key": "expr",
        **settings,
    }
    chosen = Settings(**given)
    service = build_service(
        chosen,
        executor=Executor.local([models.answering], max_attempts=chosen.max_attempts),
        loader=PagesOnDisk(chosen),
        base_version=VERSION,
        model=model_fingerprint(chosen.preset),
    )
    service.start()
    try:
        yield Backend(create_app(service).test_client(), chosen.data_dir)
    finally:
        service.close()


def write_pages(root: Path) -> Path:
    """Write the pages that the recorded tasks name; each differs by a comment alone, and so does its digest."""
    content = PAGE.read_bytes()
    (root / "demo").mkdir(parents=True, exist_ok=True)
    for page in range(models.PAGES):
        comment = b"\xff\xfe\x00\x04" + f"{page:02}".encode()
        (root / "demo" / f"{page:05}.jpg").write_bytes(content[:2] + comment + content[2:])
    return root


def write_version(folder: Path, number: int, *, model: str | None = None) -> Path:
    """Write a prompt version as ``steerseg-backend versions PROJECT import`` takes it.

    Args:
        folder: Where to.
        number: Tells it from others.
        model: Fingerprint of the vision-language model that it is for; that of the preset where left out.
    """
    SoftPrompts(torch.full((2, WIDTH), float(number)), torch.zeros(2, WIDTH)).save(folder)
    described = {
        "format": 1,
        "name": f"r{number}",
        "model": model_fingerprint("demo") if model is None else model,
        "curve": [1 / (step + number) for step in range(40)],
        "metrics": {
            "held_out": {
                "videos": 5,
                "candidate": 0.71,
                "champion": 0.65,
                "gain": {"mean": 0.06, "low": 0.01, "high": 0.11, "count": 5},
            },
            "regression": None,
        },
        "reason": "better on 5 held-out videos",
    }
    (folder / "version.json").write_text(json.dumps(described), "utf-8")
    return folder
