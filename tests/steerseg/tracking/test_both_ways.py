"""An object that is tracked both ways, by the demo's SAM 2: a steady one agrees, one that becomes another does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from steerseg.masks import encode_rle
from steerseg.points import PointPrompt
from steerseg.presets import open_preset
from steerseg.tracking import EncodedVideo, Tracker, Tracklet
from steerseg.tracking.both_ways import NOT_COMPARED, track_both_ways
from steerseg.video import video_from_frames

COUNT, HEIGHT, WIDTH = 12, 90, 160
KEYFRAMES = (0, 2, 4, 7, 9, 11)


def disc(x: float, y: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 < 18**2)


RED = [disc(40 + t, 45) for t in range(COUNT)]
BLUE = [disc(120 - t, 45) for t in range(COUNT)]


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return Tracker.from_pretrained(open_preset("demo").segmenter_source)


@pytest.fixture(scope="module")
def encoded(tracker: Tracker) -> EncodedVideo:
    frames = np.full((COUNT, HEIGHT, WIDTH, 3), (200, 210, 190), dtype=np.uint8)
    for frame, red, blue in zip(frames, RED, BLUE, strict=True):
        frame[red], frame[blue] = (220, 40, 40), (40, 60, 200)
    return tracker.open(video_from_frames(frames, fps=8.0))


def tracklet(masks: list[NDArray[np.bool_]]) -> Tracklet:
    scores = np.ones(len(masks), dtype=np.float32)
    return Tracklet(tuple(encode_rle(mask) for mask in masks), scores, PointPrompt(0, 0.3, 0.5, 1.0), 0.9)


def test_a_steady_object_agrees_and_one_that_becomes_another_does_not(
    tracker: Tracker, encoded: EncodedVideo
) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    steady, changing = tracklet(RED), tracklet([*RED[:6], *BLUE[6:]])
    late = tracklet([nothing] * 3 + RED[3:9] + [nothing] * 3)
    once = tracklet([nothing] * 11 + RED[11:])
    found = track_both_ways(tracker, encoded, [steady, changing, once, late], KEYFRAMES)
    assert found[0].frames == found[1].frames == KEYFRAMES
    assert found[0].forwards.min() > 0.8
    assert found[0].backwards.min() > 0.8
    assert found[1].forwards[:3].min() > 0.8
    assert found[1].forwards[3:].max() < 0.3
    assert found[1].backwards[:3].max() < 0.3
    assert found[1].backwards[3:].min() > 0.8
    assert found[2] is NOT_COMPARED
    assert found[3].frames == (4, 7), "outside of its masks nothing is compared"
    assert track_both_ways(tracker, encoded, [], KEYFRAMES) == ()
