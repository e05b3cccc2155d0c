"""A whole backend with its threads and a real worker process: the only file here that knows how it is put together."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from ml_backend.app import create_app
from ml_backend.executor import Executor
from ml_backend.protocol import Task
from ml_backend.store import Store
from ml_backend.task_media import Media, MediaLoader

from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import Controls, task_value
from ml_backend.metrics import Metrics
from ml_backend.service import Service
from ml_backend.settings import Settings
from tests.contract import models

VERSION = "steerseg-contract"
PAGE = Path(__file__).with_name("page.jpg")

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

    def load(
        self, task: Task, controls: Controls, url: str | None, client: LabelStudioClient | None
    ) -> Media:
        video = controls.video
        address = None if video is None else task_value(task.data, video.data_key)
        if controls.frames is None and address:
            return Media(Path("video"), hashlib.sha256(address.encode()).hexdigest(), video=video)
        return self._pages.load(task, controls, url, client)


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
        while self._count_open_work():
            time.sleep(0.01)

    def _count_open_work(self) -> int:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return sum(connection.execute(query).fetchone()[0] for query in _OPEN_WORK)


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
    store = Store(chosen.database)
    service = Service(
        chosen,
        store=store,
        executor=Executor([models.answering], max_attempts=chosen.max_attempts),
        media=PagesOnDisk(chosen),
        metrics=Metrics(),
        base_version=VERSION,
        model="contract-model",
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
