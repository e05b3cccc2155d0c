"""Label colours are compared with the pictures of a project, and with the objects that have masks in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.cli.colours import compare_colours
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_frames_regions
from ml_backend.settings import Settings
from steerseg.masks import encode_rle
from tests.support.backend import FakeLabelStudio

CONFIG = (Path(__file__).parents[3] / "label_config/frames.xml").read_text("utf-8")
PAGES = 3


@pytest.fixture
def project(tmp_path: Path, fake_label_studio: FakeLabelStudio) -> dict[str, Any]:
    """A project whose one task shows a small blue ball on a meadow; returns the task."""
    picture = np.full((120, 200, 3), (60, 120, 60), dtype=np.uint8)
    ball = np.zeros((120, 200), dtype=bool)
    ball[50:70, 90:110] = True
    picture[ball] = 0x2F, 0x80, 0xED
    (tmp_path / "files/clip").mkdir(parents=True)
    for page in range(PAGES):
        Image.fromarray(picture).save(tmp_path / f"files/clip/{page}.png")
    side = parse_controls(CONFIG).frames
    assert side is not None
    track = MaskTrack((encode_rle(ball),) * PAGES, np.ones(PAGES, dtype=np.float32))
    regions = tracklet_to_frames_regions(track, side, instance_id="t1", expression="the ball")
    task = {
        "id": 1,
        "data": {"frames": [f"/data/local-files/?d=clip/{page}.png" for page in range(PAGES)]},
        "total_predictions": 0,
        "predictions": [{"result": regions}],
    }
    fake_label_studio.project |= {"id": 1, "label_config": CONFIG}
    fake_label_studio.tasks.append(task)
    return task


def test_an_object_in_the_colour_of_its_own_mask_is_found(
    tmp_path: Path, fake_label_studio: FakeLabelStudio, project: dict[str, Any]
) -> None:
    client = LabelStudioClient(fake_label_studio.url, "abc")
    settings = Settings(data_dir=tmp_path / "data", local_files_root=tmp_path / "files")
    before = compare_colours(client, 1, settings, write=False)
    assert before.steps == ("the labels' colours stand out from the pictures",)
    project["total_predictions"] = 1
    (warning,) = compare_colours(client, 1, settings, write=False).warnings
    assert warning.startswith(
        "label colours hardly stand out from the pictures and the objects in them: object 1"
    )
