"""Videos become tasks: every frame that was asked for, in order, and videos that a browser plays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend.importing.sources import find_videos
from ml_backend.importing.tasks import PreparedTask, import_videos, prepare_tasks
from ml_backend.label_studio.config import FRAMES_EXAMPLE, VIDEO_EXAMPLE, parse_controls
from steerseg.errors import ConfigError, ExpressionError, VideoError
from steerseg.video import file_kind, load_video, write_video

FRAMES = parse_controls(FRAMES_EXAMPLE)
VIDEO = parse_controls(VIDEO_EXAMPLE)
BOTH = parse_controls(
    "<View>"
    + FRAMES_EXAMPLE.removeprefix("<View>").removesuffix("</View>")
    + VIDEO_EXAMPLE.removeprefix("<View>").removesuffix("</View>")
    + "</View>"
)


def film(count: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of rising brightness, so that a frame tells its own number."""
    for t in range(count):
        yield np.full((48, 64, 3), 10 + 2 * t, dtype=np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "My clip (1).mp4"
    write_video(path, film(40), 20.0)
    return path


def prepare(root: Path, controls: object, sources: object, **options: object) -> list[PreparedTask]:
    options = {"media_dir": root / "served" / "steerseg", "document_root": root / "served", **options}
    return prepare_tasks(controls, sources, **options)  # type: ignore[arg-type]


def served(root: Path, url: str) -> Path:
    prefix = "/data/local-files/?d="
    assert url.startswith(prefix)
    return root / "served" / url.removeprefix(prefix)


@pytest.mark.parametrize(
    ("served", "told"),
    [
        ([], True),
        (["/files/elsewhere"], True),
        (["/files/imported/steerseg"], False),
        (["/files/imported"], False),
    ],
)
def test_media_that_no_storage_serves_are_told_of(
    tmp_path: Path, clip: Path, served: list[str], told: bool
) -> None:
    """Label Studio may see the same folders under another root."""

    class Projects:
        def get(self, project: int) -> dict[str, str]:
            return {"label_config": FRAMES_EXAMPLE}

    class Tasks:
        def create(self, project: int, tasks: list[Any]) -> list[int]:
            return list(range(len(tasks)))

    class Storages:
        def of_project(self, project: int) -> list[dict[str, str]]:
            return [{"path": path} for path in served]

    client: Any = SimpleNamespace(projects=Projects(), tasks=Tasks(), storages=Storages())
    root = tmp_path / "root"
    report = import_videos(client, 1, [clip], media_dir=root / "imported" / "steerseg", document_root=root)
    assert len(report.tasks) == 1
    assert [("--storage-path" in warning) for warning in report.warnings] == [True] * told


def test_pages_are_all_frames_in_order(tmp_path: Path, clip: Path) -> None:
    (task,) = prepare(tmp_path, FRAMES, [clip], expression=" the  dog ")
    assert list(task.data) == ["expression", "frames", "fps", "stride", "pts", "source"]
    assert (task.data["expression"], task.data["fps"], task.data["stride"]) == ("the dog", 20.0, 1)
    assert task.data["source"] == "My clip (1).mp4"
    pages = [served(tmp_path, url) for url in task.data["frames"]]
    assert [page.name for page in pages] == [f"{i:05d}.jpg" for i in range(40)]
    assert pages[0].parent.name.startswith("my-clip-1-")
    shades = [np.asarray(Image.open(page)).mean() for page in pages]
    assert np.allclose(shades, [10 + 2 * t for t in range(40)], atol=3)
    assert task.data["pts"] == [round(t / 20, 6) for t in range(40)]
    manifest = json.loads((pages[0].parent / "manifest.json").read_text())
    assert manifest["frame_indices"] == list(range(40))
    assert manifest["frames"] == [page.name for page in pages]
    assert len(load_video(pages[0].parent)) == 40, "the manifest is no page"


def test_stride_takes_every_third_frame(tmp_path: Path, clip: Path) -> None:
    (task,) = prepare(tmp_path, FRAMES, [clip], stride=3)
    pages = [served(tmp_path, url) for url in task.data["frames"]]
    assert len(pages) == task.pages == 14
    assert np.asarray(Image.open(pages[5])).mean() == pytest.approx(10 + 2 * 15, abs=3)
    assert task.data["fps"] == pytest.approx(20.0)
    assert task.data["pts"][1] == pytest.approx(3 / 20)
    assert "expression" not in task.data


def test_a_second_import_finds_what_is_written(tmp_path: Path, clip: Path) -> None:
    first = prepare(tmp_path, BOTH, [clip], expression="a")
    pages = served(tmp_path, first[0].data["frames"][0])
    written = pages.stat().st_mtime_ns
    second = prepare(tmp_path, BOTH, [clip], expression="b")
    assert second[0].data | {"expression": "a"} == first[0].data
    assert pages.stat().st_mtime_ns == written
    assert not list((tmp_path / "served").rglob(".writing-*"))


def test_too_many_pages_recommend_a_stride(tmp_path: Path, clip: Path) -> None:
    for again in range(2):  # also where the pages are already written
        with pytest.raises(VideoError, match=r"about 40 frames.*--stride 4 \(10 pages\)"):
            prepare(tmp_path, FRAMES, [clip], max_pages=10)
        if not again:
            prepare(tmp_path, FRAMES, [clip])
    with pytest.raises(VideoError, match="--stride 2"):
        prepare(tmp_path, FRAMES, [clip], max_pages=39)
    (task,) = prepare(tmp_path, FRAMES, [clip], max_pages=10, stride=4)
    assert task.pages == 10


def test_playable_videos_are_copied_as_they_are(tmp_path: Path, clip: Path) -> None:
    (task,) = prepare(tmp_path, VIDEO, [clip])
    copy = served(tmp_path, task.data["video"])
    assert copy.read_bytes() == clip.read_bytes()
    assert copy.suffix == ".mp4"
    assert (task.data["fps"], task.pages, task.note) == (20.0, 0, "")


def write(path: Path, codec: str, pixel_format: str, times: list[int], rate: int = 20) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.bit_rate = 4_000_000
        for image, time in zip(film(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.avi", "mpeg4", "yuv420p"), ("a.mkv", "libx264", "yuv420p"), ("a.mp4", "libx264", "yuv444p")],
)
def test_videos_that_browsers_do_not_play_are_encoded(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    write(tmp_path / name, codec, pixel_format, list(range(12)))
    (task,) = prepare(tmp_path, VIDEO, [tmp_path / name])
    path = served(tmp_path, task.data["video"])
    kind = file_kind(path)
    assert (kind.codec, kind.pixel_format) == ("h264", "yuv420p")
    assert "browsers do not play" in task.note
    video = load_video(path)
    assert len(video) == 12
    assert np.allclose(video.frames.mean(axis=(1, 2, 3)), [10 + 2 * t for t in range(12)], atol=4)


def test_variable_rates_are_made_constant(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", "libx264", "yuv420p", [0, 1, 2, 6, 7, 8, 15, 16])
    (task,) = prepare(tmp_path, VIDEO, [tmp_path / "a.mp4"])
    assert "rate varies" in task.note
    video = load_video(served(tmp_path, task.data["video"]))
    assert len(video) == 8
    assert np.allclose(np.diff(video.pts), 1 / task.data["fps"], atol=1e-3)


def test_a_fixed_rate_that_does_not_fit_is_refused(tmp_path: Path, clip: Path) -> None:
    controls = parse_controls(VIDEO_EXAMPLE.replace('frameRate="$fps"', ""))
    with pytest.raises(VideoError, match=r'frameRate="\$fps"'):
        prepare(tmp_path, controls, [clip])


def test_folders_of_frames(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for i, image in enumerate(film(5)):
        Image.fromarray(image).save(folder / f"{i}.png")
    (task,) = prepare(tmp_path, BOTH, [folder], fps=10)
    assert task.pages == 5
    assert task.data["fps"] == 10.0
    assert len(load_video(served(tmp_path, task.data["video"]))) == 5
    with pytest.raises(VideoError, match="about 5 frames"):
        prepare(tmp_path, FRAMES, [folder], max_pages=3)


def test_sources_may_be_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MP4", "notes.txt", "deep/c.webm", "frames/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda sources: [path.name for path in find_videos(sources)]  # noqa: E731
    assert names([tmp_path]) == ["a.MP4", "b.mp4"]
    assert names([tmp_path / "*.mp4", str(tmp_path / "b.mp4")]) == ["b.mp4"]
    assert names([f"{tmp_path}/**/*.webm"]) == ["c.webm"]
    assert names([tmp_path / "frames"]) == ["frames"]
    for nothing in ([], [tmp_path / "*.avi"], [tmp_path / "missing.mp4"], [tmp_path / "*.txt"]):
        with pytest.raises(VideoError):
            find_videos(nothing)


def test_a_csv_gives_several_tasks_a_video(tmp_path: Path, clip: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(
        f'Video, Expression\n{clip.name},the dog\n{clip},"the cat, left"\n\n', encoding="utf-8-sig"
    )
    tasks = prepare(tmp_path, FRAMES, [], csv_file=table)
    assert [task.data["expression"] for task in tasks] == ["the dog", "the cat, left"]
    assert tasks[0].data["frames"] == tasks[1].data["frames"]


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("film,expression\na,b\n", ConfigError, "'video' and 'expression'"),
        ("", ConfigError, "none"),
        ("video,expression\n", ExpressionError, "no rows"),
        ("video,expression\nmissing.mp4,the dog\n", ExpressionError, "row 2.*does not exist"),
        ("video,expression\nlist.csv,\n", ExpressionError, "row 2 lacks its expression"),
        ("video,expression\n,the dog\n", ExpressionError, "row 2 lacks its video"),
    ],
)
def test_a_bad_csv_says_where(tmp_path: Path, text: str, error: type[Exception], hint: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(error, match=hint):
        prepare(tmp_path, FRAMES, [], csv_file=table)


def test_bad_videos_are_all_named(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "one.mp4").write_bytes(b"no video")
    (tmp_path / "two.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"(?s)no task was imported.*one\.mp4.*two\.mp4"):
        prepare(tmp_path, FRAMES, [tmp_path / "one.mp4", clip, tmp_path / "two.mp4"])


def test_what_does_not_fit_is_refused(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(ConfigError, match="--kind frames"):
        prepare(tmp_path, FRAMES, [clip], kind="video")
    with pytest.raises(ConfigError, match="--kind video"):
        prepare(tmp_path, VIDEO, [clip], kind="both")
    with pytest.raises(ConfigError, match="document root"):
        prepare(tmp_path, FRAMES, [clip], media_dir=tmp_path / "served")
    with pytest.raises(ExpressionError):
        prepare(tmp_path, FRAMES, [clip], expression="  ")
    with pytest.raises(ConfigError, match="stride"):
        prepare(tmp_path, FRAMES, [clip], stride=0)
