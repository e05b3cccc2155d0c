"""The backend's own pages under test: what they hold, and media that they can show."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from PIL import Image

from ml_backend.database.projects import ProjectStore
from ml_backend.label_studio.task_media import Media
from tests.support.backend import Backend, NamedMedia

FRAMES, HEIGHT, WIDTH = 12, 36, 64  # of what `proposal_targets` proposes


def project_of(backend: Backend) -> int:
    (known,) = ProjectStore(backend.database).all()
    return known.id


def text_of(client: FlaskClient, path: str, status: int = 200, **options: Any) -> str:
    response = client.get(path, **options)
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "text/html"
    return response.get_data(as_text=True)


def token_in(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


class FilmedMedia(NamedMedia):
    """The same, with pages on disk that one can look at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, *arguments: Any) -> Media:
        media = super().load(*arguments)
        self._folder.mkdir(exist_ok=True)
        for index in range(FRAMES):
            Image.new("RGB", (WIDTH, HEIGHT), (10 * index, 90, 60)).save(self._folder / f"{index:05d}.png")
        return replace(media, path=self._folder)
