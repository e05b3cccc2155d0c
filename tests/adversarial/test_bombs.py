"""Small inputs that claim to be large take bounded memory, end in a clear error, and can be cancelled."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.adversarial import bombs
from benchmarks.adversarial.processes import below
from ml_backend.label_studio import region_masks
from ml_backend.label_studio.region_masks import RegionError, masks_by_page, page_masks
from steerseg.errors import Cancelled, VideoError
from steerseg.masks import mask_area
from steerseg.video import VideoLimits, file_kind, load_video
from steerseg.video.isolation import IsolatedDecoder
from steerseg.video.loading import picture_size, read_image
from steerseg.video.player import read_timeline
from steerseg.video.streaming import open_stream

MOST = 600 * 2**20
LIMITS = VideoLimits(bare_streams=False, max_frames=500)

READ_REGIONS = """
import json, resource, sys
from benchmarks.adversarial import bombs
from benchmarks.adversarial.processes import below
from ml_backend.label_studio.region_masks import masks_by_page, page_masks
from steerseg.masks import mask_area
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pages = masks_by_page(page_masks(getattr(bombs, sys.argv[1])(int(sys.argv[2]))))
print(json.dumps([len(pages), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) * 1024]))
"""


@pytest.mark.parametrize(("kind", "count"), [("polygons", 30), ("brushes", 3)])
def test_regions_on_pages_that_claim_to_be_huge_take_the_memory_of_one(kind: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_REGIONS, kind, str(count)], capture_output=True, text=True, check=True
    )
    pages, memory = json.loads(done.stdout)
    assert pages == count
    assert memory < MOST


def test_brush_regions_have_a_budget_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = bombs.brushes(3, 100)
    assert len(page_masks(regions)) == 3
    monkeypatch.setattr(region_masks, "MAX_DECODED_PIXELS", 25_000)
    with pytest.raises(RegionError, match="25000 pixels"):
        page_masks(regions)


def test_an_outline_without_end_is_refused() -> None:
    (region,) = bombs.polygons(1, 4000)
    region["value"]["points"] = [[0, 0], [100, 100]] * 200
    with pytest.raises(RegionError, match="outline"):
        page_masks([region])
    (region,) = bombs.polygons(1, 4000)
    (rle,) = masks_by_page(page_masks([region])).values()
    assert mask_area(rle) == pytest.approx(4000**2, rel=0.01)


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with contextlib.closing(IsolatedDecoder(LIMITS)) as made:
        yield made


def children() -> set[int]:
    """The decoders that this process has started, and nothing that other tests have."""
    found = set()
    for pid in below(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if b"steerseg.video.decoder_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def decoded_alone(path: Path) -> int:
    """Peak memory of a process that decodes a small video."""
    bombs.black_video(path, 3, (64, 64))
    with contextlib.closing(IsolatedDecoder(LIMITS)) as decoder:
        decoder.load_video(path)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def test_what_comes_from_the_process_is_what_decoding_gives(decoder: IsolatedDecoder, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    bombs.black_video(path, 30, (320, 180))
    here, there = load_video(path), decoder.load_video(path)
    assert (here.frames == there.frames).all()
    assert (here.pts == there.pts).all()
    assert (here.fps, here.digest, here.source) == (there.fps, there.digest, there.source)
    one, other = read_timeline(path), decoder.read_timeline(path)
    assert (one.times == other.times).all()
    assert (one.entry_frames == other.entry_frames).all()
    assert (one.duration, one.end, one.start) == (other.duration, other.end, other.start)


def test_a_long_video_comes_by_way_of_the_disk(decoder: IsolatedDecoder, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    bombs.black_video(path, 50, (1280, 720))
    video = decoder.load_video(path)
    assert video.frames.shape == (50, 720, 1280, 3)
    assert (video.frames == load_video(path).frames).all()


def test_pictures_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    bombs.black_video(path, 9, (320, 180))
    before = children()
    with contextlib.closing(IsolatedDecoder(LIMITS, lasting=True)) as decoder:
        assert decoder.file_kind(path) == file_kind(path)
        (child,) = children() - before
        stream, here = decoder.stream(path, stride=2), open_stream(path, fps=None, limits=LIMITS, stride=2)
        for one, other in zip(stream, here, strict=True):
            assert (one == other).all()
        assert (stream.digest, stream.fps, stream.pts.tolist()) == (here.digest, here.fps, here.pts.tolist())
        assert children() - before == {child}, "one process does file after file"
        with contextlib.closing(iter(decoder.stream(path))) as abandoned:
            next(abandoned)
        assert not children() - before, "and ends where its pictures are not all taken"
        with pytest.raises(VideoError, match="not a video"):
            decoder.file_kind(Path(__file__))


@pytest.mark.parametrize("kind", ["video", "pages"])
def test_what_export_and_import_read_takes_bounded_memory(kind: str, tmp_path: Path) -> None:
    if kind == "video":
        path = tmp_path / "bomb.ts"
        bombs.transport_stream(path, 100_000)
    else:
        (tmp_path / "one").mkdir()
        bombs.progressive_jpeg(tmp_path / "one" / "page.jpg", 4000, 1)
        path = bombs.frames_folder(tmp_path / "pages", [tmp_path / "one" / "page.jpg"])
    idle = decoded_alone(tmp_path / "small.mp4")
    with contextlib.closing(IsolatedDecoder(LIMITS, lasting=True)) as decoder:
        with pytest.raises(VideoError, match=r"memory|more than the limit"):
            list(decoder.stream(path))
        assert len(list(decoder.stream(tmp_path / "small.mp4"))) == 3, "the next file is decoded"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 - idle < MOST


VIDEO_BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bare stream": (lambda path: bombs.raw_stream(path, 300_000), "not a video"),
    "a bare stream of a picture": (
        lambda path: bombs.progressive_jpeg(path, 200, 1),
        "not a video",
    ),
    "an index without samples": (lambda path: bombs.long_index(path, 2**28), "no frame"),
    "filler in a transport stream": (lambda path: bombs.transport_stream(path, 100_000), "memory"),
    "too many frames": (lambda path: bombs.black_video(path, 600, (320, 180)), "more than the limit"),
}


@pytest.mark.parametrize("name", VIDEO_BOMBS)
def test_a_bomb_of_a_video_takes_bounded_memory(name: str, decoder: IsolatedDecoder, tmp_path: Path) -> None:
    make, words = VIDEO_BOMBS[name]
    idle = decoded_alone(tmp_path / "small.mp4")
    path = tmp_path / "bomb"
    make(path.with_suffix(".ts" if "transport" in name else ".mp4"))
    (path,) = tmp_path.glob("bomb.*")
    with contextlib.suppress(VideoError):  # of a bomb, the times may be known or not
        decoder.read_timeline(path)
    with pytest.raises(VideoError, match=words) if words else contextlib.nullcontext():
        decoder.load_video(path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 - idle < MOST


def test_a_slow_picture_is_cancelled_while_it_is_decoded(decoder: IsolatedDecoder, tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    bombs.progressive_jpeg(page, 3000, 400)
    folder = bombs.frames_folder(tmp_path / "frames", [page])
    calls: list[float] = []
    before = children()

    def progress(stage: str, fraction: float) -> None:
        calls.append(fraction)
        if len(calls) == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        decoder.load_video(folder, progress=progress)
    assert calls == [0.0] * 5, "the first picture was never finished"
    decoder.close()
    assert not children() - before


def test_what_takes_too_long_or_too_much_says_so(tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    bombs.progressive_jpeg(page, 3000, 400)
    folder = bombs.frames_folder(tmp_path / "frames", [page])
    with (
        # Less than any machine takes: a fast one decodes this picture in two seconds.
        contextlib.closing(IsolatedDecoder(LIMITS, seconds=0.1)) as hasty,
        pytest.raises(VideoError, match="longer than the limit"),
    ):
        hasty.load_video(folder)
    path = tmp_path / "clip.mp4"
    bombs.black_video(path, 2, (1920, 1080))
    with (
        contextlib.closing(IsolatedDecoder(LIMITS, memory=4 * 2**20)) as small,
        pytest.raises(VideoError, match=r"memory|ended by|no frame"),
    ):
        small.load_video(path)


def test_pictures_behind_much_else_and_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    exif, wide = tmp_path / "exif.jpg", tmp_path / "wide.png"
    bombs.heavy_exif(exif, 65)
    bombs.wide_png(wide, 5000)
    for read in (picture_size, lambda file: read_image(file, LIMITS)):
        with pytest.raises(VideoError, match="64 MiB"):
            read(exif)
    with pytest.raises(VideoError, match="5000x5000"):
        read_image(wide, LIMITS)


def test_the_process_knows_no_secrets_and_ends_with_its_owner(
    monkeypatch: pytest.MonkeyPatch, decoder: IsolatedDecoder
) -> None:
    monkeypatch.setenv("STEERSEG_WEBHOOK_SECRET", "hidden")
    before = children()
    decoder.start()
    (child,) = children() - before
    assert b"hidden" not in Path(f"/proc/{child}/environ").read_bytes()
    decoder.close()
    assert child not in children()


def test_bare_streams_are_read_where_they_are_ones_own(tmp_path: Path) -> None:
    import av

    source, bare = tmp_path / "clip.mp4", tmp_path / "clip.h264"
    bombs.black_video(source, 3, (64, 64))
    with av.open(str(source)) as given, av.open(str(bare), "w", format="h264") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    assert load_video(bare).frames.shape == (3, 64, 64, 3)
    assert np.all(load_video(bare).frames == load_video(source).frames)
    with pytest.raises(VideoError, match="not a video"):
        load_video(bare, limits=replace(LIMITS, bare_streams=False))
