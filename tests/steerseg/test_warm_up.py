"""Warming up changes nothing that a proposal says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg import SteerSeg
from steerseg.demo.sam2 import build_sam2
from steerseg.segmenters.hf import EdgeTam
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import video_from_frames
from steerseg.warm_up import compile_tracker, warm_up
from tests.conftest import SMALL_SAM2
from tests.support.tiny_video_models import tiny_video_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_is_remembered_of_the_made_up_video(preset: Path) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    stages: list[str] = []
    seconds = warm_up(steerseg, height=45, width=80, progress=lambda stage, fraction: stages.append(stage))
    assert seconds > 0
    assert {"keyframes", "reasoning", "grounding"} <= set(stages)
    assert not len(steerseg._features)
    assert steerseg._prefixes.nbytes == 0


def test_a_segmenter_with_other_parts_is_left_as_it_is_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_video_model("edgetam")
    tracker = Tracker(EdgeTam(model, version="edgetam:1"))
    with caplog.at_level("INFO"):
        assert compile_tracker(tracker, backend="eager") == ()
    assert not any("forward" in vars(part) for part in model.modules())
    assert "nothing of the segmenter edgetam:1 is compiled" in caplog.text
    assert "no image_encoder, sam_mask_decoder; it runs as it is" in caplog.text


def test_what_is_compiled_of_sam2_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(Sam2(build_sam2(SMALL_SAM2), version="small"))
    with caplog.at_level("INFO"):
        compiled = compile_tracker(tracker, backend="eager")
    assert all("forward" in vars(getattr(tracker.segmenter.model, name)) for name in compiled)
    assert f"torch.compile takes of the segmenter small: {', '.join(compiled)}" in caplog.text


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
