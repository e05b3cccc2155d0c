"""Videos that a model process keeps, and the one that it reads ahead."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ml_backend.models.videos import RecentVideos
from steerseg.errors import Cancelled, VideoError
from steerseg.video import Progress, Video, VideoLimits, write_video
from steerseg.video.isolation import IsolatedDecoder

SIZE = 4 * 32 * 48 * 3
"""Bytes of the frames of a video."""


class CountingDecoder(IsolatedDecoder):
    """Notes what it is asked for, and waits for a sign before it begins."""

    def __init__(self) -> None:
        super().__init__(VideoLimits(), lasting=True)
        self.decoded: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def load_video(
        self, path: Path, *, stride: int = 1, fps: float | None = None, progress: Progress | None = None
    ) -> Video:
        self.decoded.append(path.name)
        self.go_on.wait(30)
        return super().load_video(path, stride=stride, fps=fps, progress=progress)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a", "b"), 1):
        write_video(folder / f"{name}.mp4", iter(np.full((4, 32, 48, 3), 60 * number, dtype=np.uint8)), 10.0)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize("most_bytes", [1 << 20, 0], ids=["kept", "too large to be kept"])
def test_a_video_that_was_read_ahead_is_decoded_once(most_bytes: int, folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, most_bytes)
    videos.read_ahead(folder / "a.mp4", None)
    videos.read_ahead(folder / "a.mp4", None)
    seen: list[tuple[str, float]] = []
    video = videos.load(folder / "a.mp4", None, lambda *step: seen.append(step))
    assert len(video) == 4
    assert decoder.decoded == ["a.mp4"]
    assert {stage for stage, _ in seen} == {"decode"}


def test_another_video_does_not_wait_for_the_one_that_is_read_ahead(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 1 << 20)
    decoder.go_on.clear()
    videos.read_ahead(folder / "a.mp4", None)
    while not decoder.decoded:
        time.sleep(0.01)
    waiting = decoder.go_on
    decoder.go_on = threading.Event()
    decoder.go_on.set()
    assert videos.load(folder / "b.mp4", None).frames[0, 0, 0, 0] > 100
    waiting.set()
    assert videos.load(folder / "a.mp4", None).frames[0, 0, 0, 0] < 100
    assert decoder.decoded == ["a.mp4", "b.mp4"]


def test_the_next_one_is_named_before_the_one_is_taken(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 0)
    videos.read_ahead(folder / "a.mp4", None)
    videos.read_ahead(folder / "b.mp4", None)
    for name in ("a.mp4", "b.mp4"):
        assert len(videos.load(folder / name, None)) == 4
    assert sorted(decoder.decoded) == ["a.mp4", "b.mp4"]


def test_what_nobody_asks_for_is_dropped(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 0)
    for name in ("a.mp4", "b.mp4"):
        videos.read_ahead(folder / name, None)
    await_what_is_read_ahead()
    assert decoder.decoded == ["a.mp4"], "there is room for no second one"
    videos.settle([])
    assert videos.nbytes == 0
    assert len(videos.load(folder / "a.mp4", None)) == 4
    assert decoder.decoded == ["a.mp4", "a.mp4"], "anew"


def await_what_is_read_ahead() -> None:
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join()


def test_what_is_read_ahead_counts_within_the_budget(folder: Path) -> None:
    decoder = CountingDecoder()
    shutil.copy(folder / "a.mp4", folder / "c.mp4")
    videos = RecentVideos(decoder, 2 * SIZE)
    for name in ("a.mp4", "b.mp4"):
        videos.load(folder / name, None)
    videos.read_ahead(folder / "c.mp4", None)
    await_what_is_read_ahead()
    assert videos.nbytes == 2 * SIZE
    videos.load(folder / "b.mp4", None)
    assert decoder.decoded == ["a.mp4", "b.mp4", "c.mp4"]
    videos.load(folder / "a.mp4", None)
    assert decoder.decoded[3:] == ["a.mp4"], "the least recently used made room"
    assert videos.nbytes == 2 * SIZE


@pytest.mark.parametrize(("most_bytes", "kept"), [(SIZE, SIZE), (SIZE - 1, 0)], ids=["fits", "too large"])
def test_what_nobody_is_to_ask_for_any_more_is_a_video_like_others(
    folder: Path, most_bytes: int, kept: int
) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, most_bytes)
    videos.read_ahead(folder / "a.mp4", None)
    await_what_is_read_ahead()
    videos.settle([(folder / "a.mp4", None)])
    assert videos.nbytes == SIZE, "its turn is still to come"
    videos.settle([(folder / "b.mp4", None)])
    assert videos.nbytes == kept
    videos.load(folder / "a.mp4", None)
    assert len(decoder.decoded) == (1 if kept else 2)


def test_what_is_not_needed_any_more_is_dropped_at_its_arrival(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 1 << 20)
    decoder.go_on.clear()
    videos.read_ahead(folder / "a.mp4", None)
    videos.settle([])
    decoder.go_on.set()
    await_what_is_read_ahead()
    assert videos.nbytes == 0


def test_what_could_not_be_read_ahead_is_said_to_whoever_asks_for_it(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 1 << 20)
    videos.read_ahead(folder / "none.mp4", None)
    assert decoder.decoded == []
    videos.read_ahead(folder / "broken.mp4", None)
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        videos.load(folder / "broken.mp4", None)
    assert decoder.decoded == ["broken.mp4"] * 2


def test_whoever_waits_for_it_can_be_cancelled(folder: Path) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 1 << 20)
    decoder.go_on.clear()
    videos.read_ahead(folder / "a.mp4", None)

    def cancel(stage: str, fraction: float) -> None:
        raise Cancelled(f"cancelled during {stage}")

    with pytest.raises(Cancelled, match="during decode"):
        videos.load(folder / "a.mp4", None, cancel)
    decoder.go_on.set()
    assert len(videos.load(folder / "a.mp4", None)) == 4
    assert decoder.decoded == ["a.mp4"], "it was there for the next who asked"


def test_where_no_thread_can_be_had_nothing_is_read_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = CountingDecoder()
    videos = RecentVideos(decoder, 1 << 20)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", fail)
        videos.read_ahead(folder / "a.mp4", None)
    assert decoder.decoded == []
    assert len(videos.load(folder / "a.mp4", None)) == 4


class WaitingDecoder(CountingDecoder):
    """Reports, until it is let go on or told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.release, self.begun, self.ended = threading.Event(), threading.Event(), threading.Event()

    def load_video(
        self, path: Path, *, stride: int = 1, fps: float | None = None, progress: Progress | None = None
    ) -> Video:
        self.begun.set()
        try:
            while not self.release.wait(0.01):
                assert progress is not None
                progress("decode", 0.5)
        except Cancelled:
            self.ended.set()
            raise
        return super().load_video(path, stride=stride, fps=fps, progress=progress)


def test_what_nobody_is_to_ask_for_ends_and_what_waits_for_its_turn_is_not_begun(folder: Path) -> None:
    decoder = WaitingDecoder()
    videos = RecentVideos(decoder, 1 << 30)
    for name in ("a.mp4", "b.mp4"):
        videos.read_ahead(folder / name, None)
    assert decoder.begun.wait(10)
    videos.settle([])
    assert decoder.ended.wait(10)
    await_what_is_read_ahead()
    assert decoder.decoded == []
    decoder.release.set()
    assert len(videos.load(folder / "b.mp4", None)) > 0
    assert decoder.decoded == ["b.mp4"]
