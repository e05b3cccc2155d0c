"""The choice by a stated motion, end to end: rendered clips, one of two spoons, and one of a thing that spins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.meaning.answers import mean_iou
from steerseg import SteerSeg
from steerseg.demo.dataset import Clip, clips, load_manifest
from steerseg.presence.findings import Finding
from steerseg.video import Video, keyframe_indices, video_from_frames

TEXT = "the grey spoon that moves to the right"
SPINS = "the thing that spins around"


@pytest.fixture(scope="module")
def steerseg() -> SteerSeg:
    return SteerSeg.from_pretrained("demo", device="cpu")


def clip_of(text: str) -> Clip:
    manifest = load_manifest("val")
    entry = next(entry for entry in manifest.clips if entry.expressions[0].text == text)
    return next(clips(replace(manifest, clips=(entry,))))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return clip_of(TEXT)


@pytest.fixture(scope="module")
def video(clip: Clip) -> Video:
    return video_from_frames(clip.frames, fps=clip.fps)


def find(steerseg: SteerSeg, video: Video, text: str, *, motion: bool) -> Finding:
    config = replace(
        steerseg.config, motion=motion, presence="judge", alternatives=steerseg.config.max_candidates
    )
    keyframes = keyframe_indices(len(video), config.keyframes)
    return steerseg.find(video, steerseg.read(text, config), keyframes, config, steerseg.steering(config))


def quality(found: Finding, clip: Clip) -> float:
    """J of the first candidate on the keyframes."""
    (expression,) = clip.entry.expressions
    tracked = found.case.on_keyframes
    truth: NDArray[np.bool_] = clip.masks(expression)[list(tracked.frames)]
    return mean_iou(tracked.masks(found.ranking[0].index), truth)


def test_the_one_that_moves_as_stated_comes_first(steerseg: SteerSeg, video: Video, clip: Clip) -> None:
    before = find(steerseg, video, TEXT, motion=False)
    found = find(steerseg, video, TEXT, motion=True)
    assert quality(before, clip) < 0.1
    assert quality(found, clip) > 0.8
    assert len(found.candidates.on_keyframes.candidates) >= len(before.candidates.on_keyframes.candidates)
    assert found.case.on_keyframes is found.candidates.on_keyframes
    assert all(-1 <= ranked.correlation <= 1 and -1 <= ranked.score <= 1 for ranked in found.ranking)


@pytest.mark.parametrize("text", ["the grey spoon", "both spoons that move to the right"])
def test_nothing_changes_where_no_motion_is_stated_or_several_are_meant(
    steerseg: SteerSeg, video: Video, text: str
) -> None:
    plain, switched_on = (find(steerseg, video, text, motion=motion) for motion in (False, True))
    assert plain.ranking == switched_on.ranking


def test_what_spins_comes_first(steerseg: SteerSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("how the camera moves is not needed")

    monkeypatch.setattr("steerseg.motion.choice.background_shifts", fail)
    clip = clip_of(SPINS)
    video = video_from_frames(clip.frames, fps=clip.fps)
    before, found = (find(steerseg, video, SPINS, motion=motion) for motion in (False, True))
    assert quality(before, clip) < 0.1
    assert quality(found, clip) > 0.5
