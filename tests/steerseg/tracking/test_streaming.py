"""Frames one at a time are the frames that decoding a whole file gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steerseg.errors import VideoError
from steerseg.video import DEFAULT_LIMITS, VideoLimits, load_video, write_video
from steerseg.video.decoding import FrameStream


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 64 * 48, dtype=np.uint8).reshape(48, 64)
    frames = [np.stack([np.roll(ramp, 3 * index, axis=1)] * 3, axis=-1) for index in range(30)]
    write_video(tmp_path / "clip.mp4", frames, 24.0)
    return tmp_path / "clip.mp4"


def test_a_stream_gives_the_same_frames(clip: Path) -> None:
    streamed = np.stack(list(FrameStream(clip, name="clip", limits=DEFAULT_LIMITS)))
    assert (streamed == load_video(clip).frames).all()


def test_a_file_that_is_cut_off_gives_what_decodes(clip: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.mp4"
    part.write_bytes(clip.read_bytes()[:-200])  # its index is in front
    streamed = list(FrameStream(part, name="part", limits=DEFAULT_LIMITS))
    assert len(streamed) == len(load_video(part))


def test_what_is_no_video_or_too_large_is_refused(clip: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoError, match="not a video"):
        next(iter(FrameStream(text, name="notes", limits=DEFAULT_LIMITS)))
    with pytest.raises(VideoError, match="pixels"):
        next(iter(FrameStream(clip, name="clip", limits=VideoLimits(max_pixels=100))))
