"""Warming up changes nothing that a proposal says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg import SteerSeg
from steerseg.demo.sam2 import build_sam2
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import video_from_frames
from steerseg.warm_up import compile_tracker, warm_up
from tests.conftest import SMALL_SAM2

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_is_remembered_of_the_made_up_video(preset: Path) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    stages: list[str] = []
    seconds = warm_up(steerseg, height=45, width=80, progress=lambda stage, fraction: stages.append(stage))
    assert seconds > 0
    assert {"keyframes", "reasoning", "grounding"} <= set(stages)
    assert not len(steerseg._features)
    assert steerseg._prefixes.nbytes == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiling takes minutes on a CPU")
def test_a_compiled_tracker_gives_the_same_masks() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 54, 96, 3), dtype=np.uint8)
    results = []
    for compiled in (False, True):
        torch.manual_seed(1)
        tracker = Tracker(Sam2(build_sam2(SMALL_SAM2).to("cuda"), version="small"))
        if compiled:
            compile_tracker(tracker)
        encoded = tracker.open(video_from_frames(pixels, fps=8))
        starts = [tracker.start(encoded, [Prompt(3, ((x, 0.5),), (True,))]) for x in (0.3, 0.6)]
        results.append(tracker.propagate(encoded, starts).logits)
    assert torch.allclose(*results, rtol=1e-3, atol=1e-3)
