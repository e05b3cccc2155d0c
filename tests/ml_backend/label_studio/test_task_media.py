"""Which media a task has, and how its pages relate to its video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media, MediaLoader, positive_number
from ml_backend.settings import Settings
from steerseg.errors import VideoError

FRAMES = (
    '<BrushLabels name="mask" toName="frames"><Label value="object"/></BrushLabels>'
    '<Image name="frames" valueList="$frames"/>'
)
VIDEO = '<VideoRectangle name="box" toName="video"/><Video name="video" value="$video" frameRate="$fps"/>'


@pytest.fixture
def media_root(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    root.mkdir()
    for page in range(3):
        Image.fromarray(np.full((4, 6, 3), 80 * page, dtype=np.uint8)).save(root / f"{page}.jpg")
    (root / "clip.mp4").write_bytes(b"not decoded here")
    return root


@pytest.fixture
def loader(tmp_path: Path, media_root: Path) -> MediaLoader:
    return MediaLoader(Settings(data_dir=tmp_path / "data", local_files_root=media_root))


def load(loader: MediaLoader, config: str, data: dict[str, Any]) -> Media:
    controls: Controls = parse_controls(f"<View>{config}</View>")
    return loader.load(Task(1, data), controls, MediaHost("http://label-studio:8080"))


def pages(count: int = 3) -> list[str]:
    return [f"/data/local-files/?d={page}.jpg" for page in range(count)]


def test_pages_become_a_folder_whose_rate_is_that_of_the_pages(loader: MediaLoader) -> None:
    media = load(loader, FRAMES, {"frames": pages(), "fps": 24, "stride": 4})
    assert sorted(path.name for path in media.path.iterdir()) == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert (media.fps, media.stride) == (6.0, 4)
    assert media.frames is not None
    assert media.video is None


def test_the_digest_follows_content_and_rate(loader: MediaLoader, media_root: Path) -> None:
    first = load(loader, FRAMES, {"frames": pages()})
    assert load(loader, FRAMES, {"frames": pages()}).digest == first.digest
    assert load(loader, FRAMES, {"frames": pages(2)}).digest != first.digest
    assert load(loader, FRAMES, {"frames": pages(), "fps": 10}).digest != first.digest
    video = load(loader, VIDEO, {"video": "/data/local-files/?d=clip.mp4"})
    (media_root / "clip.mp4").write_bytes(b"changed")
    assert load(loader, VIDEO, {"video": "/data/local-files/?d=clip.mp4"}).digest != video.digest


def test_pages_are_the_media_of_a_task_that_has_both(loader: MediaLoader) -> None:
    both = {"frames": pages(), "video": "/data/local-files/?d=clip.mp4", "stride": "2"}
    media = load(loader, FRAMES + VIDEO, both)
    assert media.path.is_dir()
    assert media.frames is not None
    assert media.video is not None
    assert media.stride == 2
    only_video = load(loader, FRAMES + VIDEO, {"video": both["video"]})
    assert only_video.path.is_file()
    assert only_video.frames is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "no media under 'frames' or 'video'"),
        ({"frames": [], "video": ""}, "no media"),
        ({"frames": "one.jpg"}, "list of image addresses"),
        ({"frames": [1, 2]}, "page 0"),
        ({"frames": ["/data/local-files/?d=../../etc/passwd"]}, "page 0"),
        ({"video": 7}, "expected the address of a file"),
        ({"video": "/etc/passwd"}, "neither a URL nor a path at Label Studio"),
        ({"video": "ftp://example.org/x.mp4"}, "ftp"),
        ({"video": "http://127.0.0.1:9/x.mp4"}, "private or local address"),
    ],
)
def test_media_that_cannot_be_had_say_why(loader: MediaLoader, data: dict[str, Any], words: str) -> None:
    with pytest.raises(VideoError, match=words):
        load(loader, FRAMES + VIDEO, data)


@pytest.mark.parametrize(
    ("value", "number"),
    [(25, 25.0), ("23.976", 23.976), (0, None), (-1, None), ("x", None), (None, None), (float("nan"), None)],
)
def test_positive_numbers(value: object, number: float | None) -> None:
    assert positive_number(value) == number
