"""Videos of every kind, good and bad, made here with PyAV."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from steerseg.errors import Cancelled, VideoError
from steerseg.video import Video, VideoLimits, keyframe_indices, load_video, video_from_frames, write_video
from steerseg.video.download import redact_url
from steerseg.video.sockets import is_public_address

SAMPLES = Path("/usr/share/doc/opencv-doc")  # Debian's opencv-doc
PRIVATE_OK = {"allow_private_addresses": True}


def coded_frame(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame that carries its index as eight black or white stripes, which lossy coding cannot hide."""
    bits = [(index >> bit) & 1 for bit in range(8)]
    row = np.repeat(np.array(bits, np.uint8) * 255, -(-width // 8))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_index(frame: np.ndarray) -> int:
    width = frame.shape[1]
    stripe = -(-width // 8)
    centres = [frame[frame.shape[0] // 2, min(width - 1, bit * stripe + stripe // 2), 0] for bit in range(8)]
    return sum(int(value > 127) << bit for bit, value in enumerate(centres))


def make_video(
    path: Path,
    count: int = 20,
    *,
    size: tuple[int, int] = (64, 48),
    rate: int = 10,
    ticks: Sequence[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: tuple[float, bool] | None = None,
    draw: Callable[[int, int, int], np.ndarray] = coded_frame,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write coded frames; ``ticks`` are their times in milliseconds where the rate is not constant."""
    width, height = size
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if ticks is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(draw(index, height, width), format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# --- Exactness ---------------------------------------------------------------------------------------------


def test_constant_rate_frames_times_and_rate(tmp_path: Path) -> None:
    video = load_video(make_video(tmp_path / "a.mp4", 30, rate=25))
    assert video.frames.shape == (30, 48, 64, 3)
    assert video.frames.dtype == np.uint8
    assert [read_index(frame) for frame in video.frames] == list(range(30))
    np.testing.assert_allclose(video.pts, np.arange(30) / 25, atol=1e-9)
    assert video.fps == pytest.approx(25)
    assert (len(video), video.width, video.height) == (30, 64, 48)
    assert video.duration == pytest.approx(30 / 25)


def test_variable_rate_frame_i_is_frame_i_at_its_own_time(tmp_path: Path) -> None:
    gaps = [40, 40, 120, 15, 33, 500, 40, 41, 39, 40] * 6
    ticks = np.concatenate(([0], np.cumsum(gaps))).tolist()
    video = load_video(make_video(tmp_path / "v.mp4", len(ticks), ticks=ticks, options={"bf": "3"}))
    assert [read_index(frame) for frame in video.frames] == list(range(len(ticks)))
    np.testing.assert_allclose(video.pts * 1000, ticks, atol=0.5)
    assert video.fps == pytest.approx(1000 / 40, rel=0.03)  # the median gap


def test_stride_keeps_every_nth_in_decode_order(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20, rate=10, options={"bf": "2"})
    video = load_video(path, stride=3)
    assert [read_index(frame) for frame in video.frames] == [0, 3, 6, 9, 12, 15, 18]
    assert video.fps == pytest.approx(10 / 3)
    np.testing.assert_allclose(video.pts, np.array([0, 3, 6, 9, 12, 15, 18]) / 10, atol=1e-9)
    assert video.stride == 3
    assert video.digest != load_video(path).digest


def test_a_coarse_clock_does_not_bend_a_constant_rate(tmp_path: Path) -> None:
    ticks = [round(i * 1000 / 30) for i in range(90)]  # 33, 34, 33 ms: the median says 30.3
    video = load_video(
        make_video(tmp_path / "a.webm", 90, ticks=ticks, codec="libvpx", options={"deadline": "realtime"})
    )
    assert video.fps == pytest.approx(30, rel=2e-3)


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    video = load_video(make_video(tmp_path / "a.ts", 10, rate=10))  # MPEG-TS begins at 1.4 s
    np.testing.assert_allclose(video.pts, np.arange(10) / 10, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    video = load_video(make_video(tmp_path / name, 12, codec=codec, pixels=pixels))
    assert [read_index(frame) for frame in video.frames] == list(range(12))


def corners(index: int, height: int, width: int) -> np.ndarray:
    """Red, green / blue, black in the four quarters."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = 255
    image[: height // 2, width // 2 :, 1] = 255
    image[height // 2 :, : width // 2, 2] = 255
    return image


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_of_the_container_is_applied(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = make_video(
        tmp_path / "r.mp4", 3, rotation=(degrees, mirrored), draw=corners, options={"crf": "10"}
    )
    upright = np.rot90(corners(0, 48, 64), degrees // 90)  # counter-clockwise, then mirrored
    if mirrored:
        upright = upright[:, ::-1]
    video = load_video(path)
    assert video.frames.shape == (3, *upright.shape)
    height, width = upright.shape[:2]
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            np.testing.assert_array_equal(video.frames[0, y, x] > 127, upright[y, x] > 127)


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    path = make_video(tmp_path / "odd.mkv", 5, size=(61, 45), codec="ffv1", pixels="yuv444p")
    video = load_video(path)
    assert video.frames.shape == (5, 45, 61, 3)
    assert [read_index(frame) for frame in video.frames] == list(range(5))


def test_one_frame(tmp_path: Path) -> None:
    video = load_video(make_video(tmp_path / "one.mp4", 1, rate=10))
    assert len(video) == 1
    assert video.fps == pytest.approx(10)
    assert video.pts.tolist() == [0.0]
    assert video.duration == pytest.approx(0.1)


# --- Damage ------------------------------------------------------------------------------------------------


def test_truncated_with_the_index_in_front_gives_the_frames_before_the_break(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "t.mp4", 60, container_options={"movflags": "+faststart"}, options={"g": "10", "crf": "10"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    video = load_video(path)
    assert 5 < len(video) < 60
    intact = [read_index(frame) for frame in video.frames[:-3]]
    assert intact == list(range(len(intact)))


def test_truncated_before_the_index_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "t.mp4", 60)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(VideoError, match="index is cut off"):
        load_video(path)


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    path = make_video(tmp_path / "d.avi", 40, codec="png", pixels="rgb24")
    content = bytearray(path.read_bytes())
    signature = content.index(b"\x89PNG", len(content) // 2)  # one picture's header
    content[signature : signature + 16] = bytes(16)
    path.write_bytes(content)
    video = load_video(path)
    indices = [read_index(frame) for frame in video.frames]
    assert len(indices) in (38, 39)  # the parser may glue the damaged picture to the next
    np.testing.assert_allclose(video.pts, np.array(indices) / 10, atol=1e-6)  # the rest keep their times


def test_a_file_of_damaged_packets_only_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "d.avi", 5, codec="png", pixels="rgb24")
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"xxxx"))
    with pytest.raises(VideoError, match="no frame that can be decoded"):
        load_video(path)


def test_a_header_that_lies_about_the_count(tmp_path: Path) -> None:
    path = make_video(tmp_path / "lie.avi", 20, codec="mjpeg", pixels="yuvj420p")
    content = bytearray(path.read_bytes())
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):  # dwTotalFrames, dwLength
        place = content.index(chunk) + offset
        assert int.from_bytes(content[place : place + 4], "little") == 20
        content[place : place + 4] = (4000).to_bytes(4, "little")
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 4000
    video = load_video(path)
    assert [read_index(frame) for frame in video.frames] == list(range(20))


def test_shuffled_time_stamps_are_put_in_order(tmp_path: Path) -> None:
    """Some writers stamp B-frames in coding order; the decoder still gives the frames in display order."""
    good = make_video(tmp_path / "good.mp4", 24, rate=10, options={"bf": "3", "b-adapt": "0"})
    bad = tmp_path / "bad.mp4"
    with av.open(str(good)) as source, av.open(str(bad), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts = packet.dts = number * 1024
            packet.stream = stream
            target.mux(packet)
    video = load_video(bad)
    assert [read_index(frame) for frame in video.frames] == list(range(24))
    assert np.all(np.diff(video.pts) > 0)


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs Debian's opencv-doc")
@pytest.mark.parametrize(
    ("name", "declared", "decoded"),
    [("opencv4/html/box.mp4.gz", 456, 455), ("examples/data/tree.avi", 444, 68)],
)
def test_real_files_with_lying_headers(tmp_path: Path, name: str, declared: int, decoded: int) -> None:
    path = SAMPLES / name
    if path.suffix == ".gz":
        unpacked = tmp_path / path.stem
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        path = unpacked
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == declared
    video = load_video(path)
    assert len(video) == decoded
    assert np.all(np.diff(video.pts) > 0)


def test_zero_frames(tmp_path: Path) -> None:
    path = tmp_path / "zero.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"zero\.mkv"):
        load_video(path)


def test_audio_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no video stream"):
        load_video(make_audio(tmp_path / "sound.m4a"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"just words\n" * 50),
        ("page.mp4", b"<html><body>Sign in</body></html>" * 20),
        ("noise.mp4", bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile a.mp4\n"),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes) -> None:
    make_video(tmp_path / "a.mp4", 3)  # what the playlists name; they must not be followed
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match="not a video"):
        load_video(tmp_path / name)


def test_missing_empty_and_odd_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="does not exist"):
        load_video(tmp_path / "missing.mp4")
    with pytest.raises(VideoError, match="empty"):
        load_video(tmp_path / "empty.mp4")
    with pytest.raises(VideoError, match="neither a file nor a folder"):
        load_video("/dev/null")
    with pytest.raises(VideoError, match="not supported"):
        load_video("s3://bucket/a.mp4")
    with pytest.raises(VideoError, match="NUL"):
        load_video("a\0b.mp4")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", 3)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # chmod does not stop a superuser

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VideoError, match="Permission denied"):
        load_video(path)


# --- Limits, progress, digest ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (VideoLimits(max_frames=5), "limit of 5 frames.*--stride 4 or more"),
        (VideoLimits(max_pixels=64 * 48 - 1), "64x48"),
        (VideoLimits(max_bytes=100), "larger than the limit"),
        (VideoLimits(max_duration=1.0), "longer than the limit of 1 s"),
        (VideoLimits(max_memory=64 * 48 * 3 * 7), "for its frames.*--stride"),
        (VideoLimits(max_memory=100), "for its frames"),
    ],
)
def test_limits(tmp_path: Path, limits: VideoLimits, message: str) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    with pytest.raises(VideoError, match=message):
        load_video(path, limits=limits)


def test_exactly_at_the_limit_is_allowed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    limits = VideoLimits(
        max_frames=20, max_pixels=64 * 48, max_memory=64 * 48 * 3 * 20, max_bytes=path.stat().st_size
    )
    assert len(load_video(path, limits=limits)) == 20
    assert len(load_video(path, limits=replace(limits, max_frames=10), stride=2)) == 10


def test_progress_rises_to_one_and_can_stop(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 40)
    told: list[tuple[str, float]] = []
    load_video(path, progress=lambda stage, fraction: told.append((stage, fraction)))
    assert {stage for stage, _ in told} == {"decode"}
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    def stop(stage: str, fraction: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        load_video(path, progress=stop)


def test_digest_is_of_the_content_not_of_the_name(tmp_path: Path) -> None:
    first = make_video(tmp_path / "a.mp4", 5)
    second = tmp_path / "b.mov"
    second.write_bytes(first.read_bytes())
    other = make_video(tmp_path / "c.mp4", 6)
    assert load_video(first).digest == load_video(second).digest != load_video(other).digest


def test_stride_and_fps_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stride"):
        load_video(tmp_path, stride=0)
    with pytest.raises(ValueError, match="fps"):
        load_video(tmp_path, fps=0)


# --- Folders of frames -------------------------------------------------------------------------------------


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for index in (0, 1, 2, 10, 11, 100):
        Image.fromarray(coded_frame(index)).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    video = load_video(tmp_path, fps=12)
    assert [read_index(frame) for frame in video.frames] == [0, 1, 2, 10, 11, 100]
    np.testing.assert_allclose(video.pts, np.arange(6) / 12)
    assert video.fps == 12
    strided = load_video(tmp_path, fps=12, stride=2)
    assert [read_index(frame) for frame in strided.frames] == [0, 2, 11]
    assert strided.fps == 6
    assert len({video.digest, strided.digest, load_video(tmp_path).digest}) == 3


def test_folder_with_frames_of_different_sizes_names_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "1.jpg")
    Image.new("RGB", (64, 50)).save(tmp_path / "2.jpg")
    with pytest.raises(VideoError, match=r"2\.jpg is 64x50, but 1\.jpg is 64x48"):
        load_video(tmp_path)


def test_folder_with_a_damaged_frame_names_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(
        tmp_path / "1.png"
    )
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"2\.png is not an image"):
        load_video(tmp_path)


def test_folder_without_frames_and_beyond_limits(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no frames"):
        load_video(tmp_path)
    for index in range(4):
        Image.fromarray(coded_frame(index)).save(tmp_path / f"{index}.png")
    for limits in (
        VideoLimits(max_frames=3),
        VideoLimits(max_pixels=100),
        VideoLimits(max_bytes=50),
        VideoLimits(max_memory=64 * 48 * 3 * 3),
    ):
        with pytest.raises(VideoError):
            load_video(tmp_path, limits=limits)


def test_folder_frames_are_turned_as_browsers_show_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise
    Image.fromarray(corners(0, 48, 64)).save(tmp_path / "1.png", exif=exif)
    np.testing.assert_array_equal(load_video(tmp_path).frames[0], np.rot90(corners(0, 48, 64), -1))


# --- Frame index <-> time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 16, 17, 200, 4999])
def test_keyframes_are_the_paper_s(num_frames: int, count: int) -> None:
    got = keyframe_indices(num_frames, count)
    if num_frames <= count:
        assert got == tuple(range(num_frames))
    else:
        exact = [i * (num_frames - 1) / max(count - 1, 1) for i in range(count)]
        assert got == tuple(int(value + 1e-9) for value in exact)
        assert len(set(got)) == count


def test_keyframes_need_frames() -> None:
    with pytest.raises(ValueError, match="at least one"):
        keyframe_indices(0, 8)


def test_time_to_index_and_back() -> None:
    pts = np.array([0.0, 0.04, 0.5, 0.54])
    video = Video(np.zeros((4, 2, 2, 3), np.uint8), pts, 25.0, "test", "digest")
    assert [video.index_at(video.seek_time(i)) for i in range(4)] == [0, 1, 2, 3]
    assert [video.index_at(t) for t in (-1, 0, 0.039, 0.04, 0.3, 9)] == [0, 0, 0, 1, 1, 3]
    with pytest.raises(IndexError):
        video.seek_time(4)


def test_video_from_frames() -> None:
    frames = np.stack([coded_frame(i) for i in range(4)])
    video = video_from_frames(frames, 8.0)
    assert video.pts.tolist() == [0, 0.125, 0.25, 0.375]
    assert video.digest == video_from_frames(frames.copy(), 8.0).digest
    assert video.digest != video_from_frames(frames[:, :, ::-1], 8.0).digest
    assert video.digest != video_from_frames(frames, 9.0).digest
    for wrong in (frames[:0], frames[0], frames.astype(np.float32), frames[..., :1]):
        with pytest.raises(VideoError, match=r"\(T, H, W, 3\)"):
            video_from_frames(wrong, 8.0)
    with pytest.raises(ValueError, match="fps"):
        video_from_frames(frames, 0)


# --- Writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (45, 61)])
def test_written_video_plays_everywhere_and_comes_back(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [coded_frame(i, *size) for i in range(10)]
    write_video(tmp_path / "w.mp4", iter(frames), 12.5)
    with av.open(str(tmp_path / "w.mp4")) as container:
        stream: Any = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.width % 2 == stream.height % 2 == 0
    content = (tmp_path / "w.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads
    video = load_video(tmp_path / "w.mp4")
    assert [read_index(frame) for frame in video.frames[:, :, : size[1]]] == list(range(10))
    assert video.fps == pytest.approx(12.5)


def test_written_colours_are_right(tmp_path: Path) -> None:
    image = corners(0, 48, 64)
    write_video(tmp_path / "w.mp4", [image] * 3, 10, crf=5)
    back = load_video(tmp_path / "w.mp4").frames[1]
    for y, x in ((12, 16), (12, 48), (36, 16), (36, 48)):
        np.testing.assert_allclose(back[y, x].astype(int), image[y, x].astype(int), atol=12)


def test_written_video_keeps_a_variable_rate(tmp_path: Path) -> None:
    pts = np.array([3.0, 3.04, 3.5, 3.54, 4.0])
    write_video(tmp_path / "w.mp4", [coded_frame(i) for i in range(5)], 25, pts=pts)
    video = load_video(tmp_path / "w.mp4")
    np.testing.assert_allclose(video.pts, pts - 3.0, atol=1e-4)
    assert [read_index(frame) for frame in video.frames] == list(range(5))


def test_writing_errors(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no frame"):
        write_video(tmp_path / "w.mp4", [], 10)
    with pytest.raises(VideoError, match="frame 1 has shape"):
        write_video(tmp_path / "w.mp4", [coded_frame(0), coded_frame(0, 50, 64)], 10)
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(tmp_path / "missing" / "w.mp4", [coded_frame(0)], 10)


# --- URLs --------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A local HTTP server; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, kind: str = "video/mp4") -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(handler: BaseHTTPRequestHandler, location: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", location)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_url_is_downloaded_and_decoded_like_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 6)
    content = path.read_bytes()
    told: list[str] = []
    with serving(lambda handler: send(handler, content)) as url:
        video = load_video(
            f"{url}/a b.mp4?token=secret", progress=lambda stage, _: told.append(stage), **PRIVATE_OK
        )
    assert [read_index(frame) for frame in video.frames] == list(range(6))
    assert video.digest == load_video(path).digest
    assert "secret" not in video.source
    assert told[0] == "download"
    assert told[-1] == "decode"


def test_url_redirects_are_followed_up_to_the_limit(tmp_path: Path) -> None:
    content = make_video(tmp_path / "a.mp4", 3).read_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        left = int(handler.path.lstrip("/"))
        if left:
            redirect(handler, f"/{left - 1}")
        else:
            send(handler, content)

    with serving(answer) as url:
        assert len(load_video(f"{url}/5", **PRIVATE_OK)) == 3
        with pytest.raises(VideoError, match="redirects more than 5 times"):
            load_video(f"{url}/6", **PRIVATE_OK)


def test_url_to_a_private_address_is_refused_before_anything_is_sent() -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        send(handler, b"")

    with serving(answer) as url:
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"):
            with pytest.raises(VideoError, match="private or local"):
                load_video(f"http://{host}:{port}/a.mp4")
    assert asked == []


def test_url_that_redirects_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host counts as public here, so that only the second hop can be what is refused."""
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        redirect(handler, f"http://127.0.0.2:{handler.server.server_port}/inner")  # type: ignore[attr-defined]

    monkeypatch.setattr("steerseg.video.sockets.is_public_address", lambda address: address == "127.0.0.1")
    with serving(answer) as url, pytest.raises(VideoError, match=r"leads to 127\.0\.0\.2, a private"):
        load_video(f"{url}/outer")
    assert asked == ["/outer"]


def test_url_that_redirects_to_another_scheme_is_refused() -> None:
    with (
        serving(lambda handler: redirect(handler, "file:///etc/passwd")) as url,
        pytest.raises(VideoError, match="not a usable URL"),
    ):
        load_video(f"{url}/a.mp4", **PRIVATE_OK)


def test_url_that_never_answers_times_out() -> None:
    release = threading.Event()
    limits = VideoLimits(download_timeout=0.2)
    with serving(lambda handler: release.wait(20) and None) as url:
        try:
            with pytest.raises(VideoError, match=r"no answer within 0\.2 s"):
                load_video(f"{url}/a.mp4", limits=limits, **PRIVATE_OK)
        finally:
            release.set()


def test_url_that_drips_is_cut_off_at_the_deadline() -> None:
    release = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not release.wait(0.05):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    limits = VideoLimits(download_timeout=5, download_deadline=0.5)
    with serving(answer) as url:
        try:
            with pytest.raises(VideoError, match=r"did not arrive within 0\.5 s"):
                load_video(f"{url}/a.mp4", limits=limits, **PRIVATE_OK)
        finally:
            release.set()


@pytest.mark.parametrize("declared", [True, False])
def test_url_that_is_too_large(declared: bool) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(bytes(65536))
        except OSError:
            return  # the client hung up, as it should

    with serving(answer) as url, pytest.raises(VideoError, match="larger than the limit of 1 MiB"):
        load_video(f"{url}/a.mp4", limits=VideoLimits(max_bytes=2**20), **PRIVATE_OK)


def test_url_that_is_not_a_video_or_not_there(tmp_path: Path) -> None:
    with (
        serving(lambda handler: send(handler, b"<html>Sign in</html>" * 50, "text/html")) as url,
        pytest.raises(VideoError, match=r"not a video.*text/html"),
    ):
        load_video(f"{url}/a.mp4", **PRIVATE_OK)
    with serving(lambda handler: handler.send_error(404)) as url, pytest.raises(VideoError, match="404"):
        load_video(f"{url}/a.mp4?token=secret", **PRIVATE_OK)


def test_url_whose_answer_breaks_off(tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"short")

    with serving(answer) as url, pytest.raises(VideoError, match="broke off"):
        load_video(f"{url}/a.mp4", **PRIVATE_OK)


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a.mp4", "http://host:99999/a", "http://[::1/a", "http://user:secret@host/a.mp4"],
)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(VideoError) as caught:
        load_video(url)
    assert "secret" not in str(caught.value)


def test_nobody_at_the_address() -> None:
    with serving(lambda handler: None) as url:
        pass  # its port is free again
    with pytest.raises(VideoError, match="could not be fetched"):
        load_video(f"{url}/a.mp4", **PRIVATE_OK)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("172.20.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b::93.184.216.34", True),
        ("64:ff9b:1::10.0.0.1", False),
        ("::127.0.0.1", False),
        ("::93.184.216.34", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("2001:0:7f00:1::", False),
        ("192.88.99.1", False),
        ("::ffff:192.88.99.1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public_address(address) is public


def test_redacted_urls() -> None:
    assert redact_url("https://me:pw@host:1/a.mp4?sig=x#y") == "https://host:1/a.mp4"
