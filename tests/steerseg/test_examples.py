"""The examples in the documentation of the main entry points run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from steerseg import SteerSeg, load_video
from steerseg.demo.dataset import clips, load_manifest
from steerseg.video import write_video


@pytest.mark.parametrize("documented", [SteerSeg, load_video])
def test_examples_run(documented: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = next(clips(load_manifest("val")))
    write_video(tmp_path / "clip.mp4", clip.frames, clip.fps)
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(documented)
    runner = doctest.DocTestRunner()
    assert sum(runner.run(example).attempted for example in found) >= 3
    assert runner.failures == 0
