from __future__ import annotations

from pathlib import Path

import av
import pytest

from benchmarks.adversarial.bombs import black_video
from steerseg.video.decoding import _decode


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
