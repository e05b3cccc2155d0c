"""Frames of long videos lie in a file and look as if they were in memory."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from steerseg.errors import ArtefactError
from steerseg.video import DEFAULT_LIMITS, load_video, write_video
from steerseg.video.decoding import FrameBuffer
from steerseg.video.frame_file import release_memory


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("in_memory", [0, 5 * 24 * 32 * 3])
def test_what_is_spilled_is_what_was_appended(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr("steerseg.video.decoding.IN_MEMORY", in_memory)
    monkeypatch.setattr("steerseg.video.frame_file._STEP", 3 * 24 * 32 * 3)
    given = images(40)
    buffer = FrameBuffer("clip", DEFAULT_LIMITS, 1, expected=11)
    for image in given:
        buffer.append(image)
    frames = buffer.finish()
    assert frames.shape == (40, 24, 32, 3)
    release_memory(frames)
    assert (frames == np.stack(given)).all()
    release_memory(frames[3:5])
    assert (frames[[7, 2]] == np.stack([given[7], given[2]])).all()


def test_a_video_decodes_to_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.mp4", images(12), 24.0)
    usual = load_video(tmp_path / "clip.mp4")
    monkeypatch.setattr("steerseg.video.decoding.IN_MEMORY", 0)
    spilled = load_video(tmp_path / "clip.mp4")
    base: object = spilled.frames
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert isinstance(base, mmap.mmap)
    assert (usual.frames == spilled.frames).all()
    assert usual.digest == spilled.digest
    release_memory(usual.frames)  # nothing to give back


def test_a_full_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("steerseg.video.decoding.IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtefactError, match="name another folder by TMPDIR"):
        FrameBuffer("clip", DEFAULT_LIMITS, 1).append(images(1)[0])
