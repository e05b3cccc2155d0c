"""Videos become tasks: every frame that was asked for, in order, and videos that a browser plays."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend.importing.sources import find_videos
from ml_backend.importing.strides import Cut
from ml_backend.importing.tasks import (
    MAX_PAGES,
    PreparedTask,
    PreparedTasks,
    import_videos,
    prepare_tasks,
)
from ml_backend.label_studio.config import FRAMES_EXAMPLE, VIDEO_EXAMPLE, parse_controls
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.models.workers import with_import_advice
from steerseg.errors import ConfigError, ExpressionError, VideoError
from steerseg.video import VideoLimits, file_kind, load_video, write_video
from steerseg.video.isolation import IsolatedStream
from steerseg.video.player import read_timeline
from tests.support.counted_videos import KINDS, CountedVideo, number_of

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


def prepared(root: Path, controls: object, sources: object, **options: Any) -> PreparedTasks:
    stride, most = options.pop("stride", 1), options.pop("max_pages", MAX_PAGES)
    cut = Cut(stride, most, options.pop("split_pages", None))
    options = {"media_dir": root / "served" / "steerseg", "document_root": root / "served", **options}
    return prepare_tasks(controls, sources, cut=cut, **options)  # type: ignore[arg-type]


def prepare(root: Path, controls: object, sources: object, **options: Any) -> list[PreparedTask]:
    return list(prepared(root, controls, sources, **options).tasks)


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
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("phone.mov", "libx265", "yuv420p"),
    ],
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
    assert "constant rate" in task.note
    video = load_video(served(tmp_path, task.data["video"]))
    assert len(video) == 8
    assert np.allclose(np.diff(video.pts), 1 / task.data["fps"], atol=1e-3)


def test_frames_that_come_milliseconds_late_are_shown_all(tmp_path: Path) -> None:
    """The player seeks 2 ms past a frame's time: one that is later gave way to the frame before it."""
    times = np.arange(40) / 25 + np.where(np.arange(40) % 2, 0.015, 0.0)
    frames = [np.full((32, 32, 3), 6 * number, dtype=np.uint8) for number in range(40)]
    write_video(tmp_path / "jitter.mp4", frames, 25, pts=times)
    (task,) = prepare(tmp_path, VIDEO, [tmp_path / "jitter.mp4"])
    assert "constant rate" in task.note
    timeline = read_timeline(served(tmp_path, task.data["video"]))
    assert FrameNumbers.of(timeline, task.data["fps"]).shows_all


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
    for name in ("b.mp4", "a.MP4", "notes.txt", "deep/c.webm", "deep/er/d.m2v", "deep/E.QT", "frames/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda sources: [video.path.name for video in find_videos(sources).videos]  # noqa: E731
    assert names([tmp_path]) == ["a.MP4", "b.mp4", "E.QT", "c.webm", "d.m2v", "frames"]
    assert names([tmp_path / "deep"]) == ["E.QT", "c.webm", "d.m2v"]
    assert names([tmp_path / "*.mp4", str(tmp_path / "b.mp4")]) == ["b.mp4"]
    assert names([f"{tmp_path}/**/*.webm"]) == ["c.webm"]
    assert names([tmp_path / "frames"]) == ["frames"]
    for nothing in ([], [tmp_path / "*.avi"], [tmp_path / "missing.mp4"], [tmp_path / "*.txt"]):
        with pytest.raises(VideoError):
            find_videos(nothing)


def test_every_file_that_is_passed_over_is_named(tmp_path: Path) -> None:
    """A stray picture beside folders of videos hides none of them."""
    for name in (
        "stray.JPG",
        "notes.txt",
        ".hidden.mp4",
        "one/a.MOV",
        "one/cover.png",
        "two/b.ts",
        "shots/1.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([tmp_path, tmp_path / "gone.mp4"])
    assert [video.path.name for video in found.videos] == ["a.MOV", "shots", "b.ts"]
    passed = [Path(line.split(": ")[0]).name for line in found.passed_over]
    assert sorted(passed) == [".hidden.mp4", "cover.png", "notes.txt", "stray.JPG"]
    (problem,) = found.problems
    assert "gone.mp4" in problem
    twice = find_videos([tmp_path, tmp_path / "one"])
    assert (len(twice.videos), twice.problems) == (3, ())


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


def test_what_is_good_is_imported_and_the_rest_is_named(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "one.mp4").write_bytes(b"no video")
    (tmp_path / "two.mp4").write_bytes(b"")
    found = prepared(tmp_path, FRAMES, [tmp_path / "one.mp4", clip, tmp_path / "two.mp4"])
    assert [task.source for task in found.tasks] == [clip]
    assert [name in problem for name, problem in zip(("one.mp4", "two.mp4"), found.problems, strict=True)]
    with pytest.raises(VideoError, match=r"(?s)no task was imported.*one\.mp4.*two\.mp4"):
        prepare(tmp_path, FRAMES, [tmp_path / "one.mp4", tmp_path / "two.mp4"])


def test_a_long_video_becomes_several_tasks(tmp_path: Path, clip: Path) -> None:
    tasks = prepare(tmp_path, BOTH, [clip], split_pages=8, stride=2, expression="it")
    assert [(task.pages, task.part) for task in tasks] == [
        (8, "part 1 of 3"),
        (8, "part 2 of 3"),
        (4, "part 3 of 3"),
    ]
    shown = [served(tmp_path, url) for task in tasks for url in task.data["frames"]]
    assert [page.name for page in shown] == [f"{i:05d}.jpg" for i in range(20)]
    assert tasks[1].data["pts"][0] == pytest.approx(16 / 20)
    assert [task.data["first_frame"] for task in tasks] == [0, 16, 32]
    videos = [load_video(served(tmp_path, task.data["video"])) for task in tasks]
    assert [len(video) for video in videos] == [16, 16, 8], "beside pages, every frame of the video"
    assert videos[1].frames[0].mean() == pytest.approx(10 + 2 * 16, abs=4)
    whole = prepare(tmp_path, BOTH, [clip], split_pages=50)
    assert [(task.pages, task.part, task.note) for task in whole] == [(40, "", "")]
    assert "first_frame" not in whole[0].data


def test_a_stride_thins_videos_too(tmp_path: Path, clip: Path) -> None:
    (task,) = prepare(tmp_path, VIDEO, [clip], stride=4)
    video = load_video(served(tmp_path, task.data["video"]))
    assert (len(video), task.data["fps"], task.data["video_stride"]) == (10, 5.0, 4)
    assert "stride" not in task.data, "the rate of pages is divided by it"
    assert np.allclose(video.frames.mean(axis=(1, 2, 3)), [10 + 8 * t for t in range(10)], atol=4)
    assert "one frame in 4" in task.note


def test_a_video_that_is_not_thinned_names_no_stride(tmp_path: Path, clip: Path) -> None:
    (whole,) = prepare(tmp_path, VIDEO, [clip])
    (beside,) = prepare(tmp_path, BOTH, [clip], stride=4)
    parts = prepare(tmp_path, VIDEO, [clip], stride=4, split_pages=5)
    assert "video_stride" not in whole.data
    assert "video_stride" not in beside.data, "beside pages, the video has every frame"
    assert [part.data["video_stride"] for part in parts] == [4, 4]


def test_a_hint_that_is_given_works(tmp_path: Path, clip: Path) -> None:
    """A video beyond what the backend tracks is imported with a warning; each way out of it leads out."""
    limits = VideoLimits(max_memory=15 * 48 * 64 * 3)
    (task,) = prepare(tmp_path, VIDEO, [clip], limits=limits)
    assert "40 frames of 64x48 are more than the 15" in task.note
    assert "--stride 3" in task.note
    for stride in (3, "auto"):
        (task,) = prepare(tmp_path, VIDEO, [clip], limits=limits, stride=stride)
        assert "warning" not in task.note
        assert len(load_video(served(tmp_path, task.data["video"]), limits=limits)) == 14
    tasks = prepare(tmp_path, VIDEO, [clip], limits=limits, split_pages=15)
    assert [len(load_video(served(tmp_path, task.data["video"]), limits=limits)) for task in tasks] == [
        15,
        15,
        10,
    ]
    (task,) = prepare(tmp_path, FRAMES, [clip], stride="auto", max_pages=12)
    assert (task.data["stride"], task.pages) == (4, 10)


def test_what_the_backend_refuses_says_how_to_import_it(tmp_path: Path, clip: Path) -> None:
    """A video that came by upload: the status of a prediction is all that an annotator sees of the limit."""
    for limits in (VideoLimits(max_memory=15 * 48 * 64 * 3), VideoLimits(max_frames=15)):
        with pytest.raises(VideoError, match=r"steerseg-backend import --stride 3`, .* --split-pages"):
            load_video(clip, limits=with_import_advice(limits))


def test_one_picture_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the video is: of all pictures that were decoded, none outlives the next ones."""
    write(tmp_path / "long.avi", "mpeg4", "yuv420p", list(range(120)))
    living: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    original = IsolatedStream.__iter__

    class Picture(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    def counted(stream: IsolatedStream) -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for picture in original(stream):
            held = picture.view(Picture)
            living.add(held)
            most = max(most, len(living))
            yield held
            del held, picture

    monkeypatch.setattr(IsolatedStream, "__iter__", counted)
    prepare(tmp_path, BOTH, [tmp_path / "long.avi"], stride=2)
    assert 1 <= most <= 4


_IMPORTING = """
import sys
from pathlib import Path
from ml_backend.importing.tasks import prepare_tasks
from ml_backend.label_studio.config import VIDEO_EXAMPLE, parse_controls
root = Path(sys.argv[2])
(task,) = prepare_tasks(
    parse_controls(VIDEO_EXAMPLE), [sys.argv[1]], media_dir=root / "steerseg", document_root=root
).tasks
told = Path("/proc/self/status").read_text()  # getrusage() counts the process that started this one
print(int(told.split("VmHWM:")[1].split()[0]) * 1024, task.data["fps"], task.note)
"""


def test_half_a_minute_of_a_phones_video_is_transcoded_in_bounded_memory(tmp_path: Path) -> None:
    """1080p at a rate that varies; as pictures it would have 750 MB. Some phones write HEVC: see above."""
    path, seconds, rate = tmp_path / "phone.mov", 30, 4
    still = av.VideoFrame.from_ndarray(np.full((1080, 1920, 3), 90, np.uint8), format="rgb24")
    still = still.reformat(format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for number in range(seconds * rate):
            still.pts, still.time_base = 150 * number + 90 * (number % 10 == 9), Fraction(1, 600)
            container.mux(stream.encode(still))
        container.mux(stream.encode(None))
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, fps, note = done.stdout.split(" ", 2)
    assert int(peak) < 600 * 2**20
    assert float(fps) == pytest.approx(rate, rel=0.01)
    assert "its frames do not come at a constant rate" in note
    (copy,) = (tmp_path / "steerseg").rglob("*.mp4")
    assert len(read_timeline(copy).times) == seconds * rate


def test_a_table_gives_strides(tmp_path: Path, clip: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(
        f"video,expression,stride\n{clip},the dog,2\n{clip},the cat,\n{clip},it,auto\n{clip},that,0\ngone.mp4,it,\n"
    )
    found = prepared(tmp_path, FRAMES, [], csv_file=table, max_pages=60)
    assert [(task.data["expression"], task.data["stride"]) for task in found.tasks] == [
        ("the dog", 2),
        ("the cat", 1),
        ("it", 1),
    ]
    assert ["row 5" in found.problems[0], "row 6" in found.problems[1]] == [True, True]


@pytest.mark.parametrize("name", ["av1.mp4", "yuv444.mp4", "vp9.webm", "plain-12.mp4"])
def test_what_browsers_play_is_copied(tmp_path: Path, name: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    path = kind.write(tmp_path)
    (task,) = prepare(tmp_path, VIDEO, [path])
    assert task.note == ""
    assert served(tmp_path, task.data["video"]).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if not k.name.startswith("sound")], ids=lambda kind: kind.name
)
def test_every_imported_video_shows_each_frame_at_its_number(tmp_path: Path, kind: CountedVideo) -> None:
    path = kind.write(tmp_path)
    (task,) = prepare(tmp_path, VIDEO, [path])
    copy = served(tmp_path, task.data["video"])
    numbers = FrameNumbers.of(read_timeline(copy), task.data["fps"])
    assert numbers.shown[: numbers.frames].tolist() == list(range(len(kind.times)))
    assert numbers.describe_hidden() == ""
    assert [number_of(frame) for frame in load_video(copy).frames] == list(range(len(kind.times)))


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
