from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import pytest

from benchmarks.adversarial.bombs import black_video
from steerseg.errors import VideoError
from steerseg.video import DEFAULT_LIMITS, VideoLimits, decoder_process, load_video
from steerseg.video.decoder_messages import DecodeFailure, DecodeRequest
from steerseg.video.decoding import _decode
from steerseg.video.shared_frames import SharedFrameWriter

_ISOLATED = """
import sys
from pathlib import Path
from steerseg.video import DEFAULT_LIMITS
from steerseg.video.isolation import IsolatedDecoder
decoder = IsolatedDecoder(DEFAULT_LIMITS)
print(decoder.load_video(Path(sys.argv[1])).num_frames)
decoder.close()
"""


def test_a_decoder_has_few_threads_on_a_machine_of_many_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that a confined decoder is given holds the stacks of few."""
    monkeypatch.setattr("steerseg.video.decoding.usable_cores", lambda: 64)
    path = tmp_path / "clip.mp4"
    black_video(path, 3, (64, 64))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        next(_decode(container, stream))
        assert stream.codec_context.thread_count == 4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the library is found in Linux's list of it")
def test_decoding_starts_few_threads_on_a_machine_of_many_cores(tmp_path: Path) -> None:
    """FFmpeg itself is told of 64 cores: neither its decoder nor what converts its pictures takes a thread each."""
    path = tmp_path / "clip.mp4"
    black_video(path, 3, (96, 64))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    libavutil = ctypes.CDLL(next(line.split()[-1] for line in maps if "libavutil" in line))
    libavutil.av_cpu_force_count(64)
    try:
        before = len(os.listdir("/proc/self/task"))
        most = 0

        def count(stage: str, fraction: float) -> None:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/task")))

        assert load_video(path, limits=DEFAULT_LIMITS, progress=count).num_frames == 3
    finally:
        libavutil.av_cpu_force_count(0)
    assert 0 < most - before <= 8


def test_a_confined_decoder_works_where_threads_have_large_stacks(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    black_video(path, 3, (96, 64))
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = 128 * 2**20 if most == resource.RLIM_INFINITY else min(most, 128 * 2**20)
    run = subprocess.run(
        [
            "sh",
            "-c",
            f'ulimit -s {wanted // 1024} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            _ISOLATED,
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "3", run.stderr


def test_a_machine_without_room_for_a_thread_is_named_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    black_video(path, 3, (96, 64))

    def refuse(*_: object, **__: object) -> None:
        raise av.BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("steerseg.video.frame_pictures.FramePictures.picture", refuse)
    with pytest.raises(VideoError, match="may not start another thread"):
        load_video(path)


def test_a_fault_of_the_decoder_is_not_called_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("open() got an unexpected keyword argument")

    monkeypatch.setattr(decoder_process, "load_path", fail)
    request = DecodeRequest(path=tmp_path / "clip.mp4", limits=VideoLimits(), memory=1 << 30)
    with tempfile.TemporaryFile() as memory, tempfile.TemporaryFile() as disk:
        report = decoder_process._report(request, SharedFrameWriter(memory.fileno(), disk.fileno()))
    assert isinstance(report, DecodeFailure)
    assert "unexpected TypeError in the decoder; the log has the details" in report.message
    assert "damaged" not in report.message
    assert "unexpected keyword argument" in capsys.readouterr().err
