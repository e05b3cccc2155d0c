"""Clicks, boxes and paint through a small SAM 2 with random weights: what is kept, and what is asked of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml_backend.label_studio.outlines import outlines_to_rle
from ml_backend.models.geometry import MAX_CONDITIONING
from ml_backend.models.messages import FramePrompt, SteerAnswer, SteerRequest
from ml_backend.models.steer import CorrectedObjects, answer_steering, conditions_of
from steerseg.config import Correction
from steerseg.demo.sam2 import build_sam2, save_sam2
from steerseg.errors import Cancelled, SteerSegError
from steerseg.masks import RLE, decode_rle, encode_rle
from steerseg.tracking import EncodedVideo, Prompt, Tracker
from steerseg.video import video_from_frames
from tests.conftest import SMALL_SAM2

FRAMES, HEIGHT, WIDTH = 6, 36, 64
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("sam2")
    save_sam2(build_sam2(SMALL_SAM2).state_dict(), SMALL_SAM2, folder)
    return Tracker.from_pretrained(folder)


@pytest.fixture(scope="module")
def encoded(tracker: Tracker) -> EncodedVideo:
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return tracker.open(video_from_frames(frames, fps=8.0))


def square(x: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8:24, x : x + 16] = True
    return mask


def answer(
    tracker: Tracker,
    encoded: EncodedVideo,
    *,
    correction: Correction = "memory",
    corrected: CorrectedObjects | None = None,
    **changes: Any,
) -> SteerAnswer:
    given: dict[str, Any] = {"prompts": {}, "painted": {}, "hidden": frozenset(), **changes}
    track: tuple[RLE | None, ...] = given.pop("track", tuple(encode_rle(square(4)) for _ in range(FRAMES)))
    request = SteerRequest(media=Path("video"), fps=None, track=track, anchor=0, **given)
    return answer_steering(
        tracker, encoded, request, lambda *_: None, correction=correction, corrected=corrected
    )


def test_painted_frames_stay_and_removed_ones_stay_empty(tracker: Tracker, encoded: EncodedVideo) -> None:
    painted: Mapping[int, RLE] = {2: encode_rle(square(6))}
    found = answer(tracker, encoded, painted=painted, hidden=frozenset({4}))
    assert found.tracklet.rles[2] == painted[2]
    assert not decode_rle(found.tracklet.rles[4]).any()
    assert len(found.tracklet.rles) == len(found.tracklet.frame_scores) == FRAMES
    assert found.kept_track


def test_paint_that_is_elsewhere_leaves_the_track_out(tracker: Tracker, encoded: EncodedVideo) -> None:
    assert not answer(tracker, encoded, painted={2: encode_rle(square(44))}).kept_track


def test_the_same_request_gives_the_same_answer(tracker: Tracker, encoded: EncodedVideo) -> None:
    prompts = {
        1: FramePrompt(((0.2, 0.4), (0.9, 0.9)), (True, False)),
        3: FramePrompt(box=(0.1, 0.2, 0.3, 0.4)),
    }
    first, second = (answer(tracker, encoded, prompts=prompts) for _ in range(2))
    assert first.tracklet.rles == second.tracklet.rles


def test_a_click_off_the_object_needs_an_object(tracker: Tracker, encoded: EncodedVideo) -> None:
    off = {1: FramePrompt(((0.9, 0.9),), (False,))}
    assert answer(tracker, encoded, prompts=off).unused == ()
    with pytest.raises(SteerSegError, match="need an object first"):
        answer(tracker, encoded, prompts=off, track=())


@pytest.mark.parametrize("claim", ["painted", "track"])
def test_what_a_mask_claims_decides_no_memory(tracker: Tracker, encoded: EncodedVideo, claim: str) -> None:
    huge = outlines_to_rle([np.array([[0.0, 0.0], [40_000.0, 0.0], [0.0, 9.0]])], 40_000, 40_000)
    given = {"painted": {2: huge}} if claim == "painted" else {"track": (None, None, huge)}
    with pytest.raises(SteerSegError, match="page 3 is 40000 x 40000, but the page is"):
        answer(tracker, encoded, **given)


@pytest.mark.parametrize("correction", ["memory", "frame"])
def test_a_long_track_is_never_decoded_as_a_whole(tracker: Tracker, correction: Correction) -> None:
    frames = 5000
    picture = np.random.default_rng(0).integers(0, 255, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    film = np.broadcast_to(picture, (frames, HEIGHT, WIDTH, 3))
    encoded = tracker.open(video_from_frames(film, fps=25.0))
    request = SteerRequest(
        media=Path("video"),
        fps=None,
        # Not there where the click is: what random weights make of it agrees with nothing.
        track=tuple(None if t == 7 else encode_rle(square(4 + t % 30)) for t in range(frames)),
        anchor=None,
        prompts={7: FramePrompt(((0.2, 0.4),), (True,))},
        painted={t: encode_rle(square(5 + t % 30)) for t in range(1000, frames)},
        hidden=frozenset({3}),
    )
    conditions_of(tracker, encoded, request, correction)  # what is loaded at the first use does not count
    tracemalloc.start()
    conditions = conditions_of(tracker, encoded, request, correction)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert conditions.kept_track
    conditioning = [*conditions.prompts, *conditions.corrections]
    assert len(conditioning) == MAX_CONDITIONING + 2, "painted frames, the marked one, and the anchor"
    assert len(conditions.corrections) == (1 if correction == "memory" else 0)
    assert peak < frames * HEIGHT * WIDTH / 5, "a fifth of what the track's masks would take"


def test_clicks_correct_in_the_order_in_which_frames_were_prompted(
    tracker: Tracker, encoded: EncodedVideo
) -> None:
    """Each goes on from the masks that those before it have led to, as in SAM 2's predictor."""
    prompts = {t: FramePrompt(((0.2, 0.4),), (True,)) for t in (4, 2)}
    candidate = tracker.start(encoded, [Prompt(0, mask=square(4))])
    for t in prompts:
        candidate = tracker.correct(encoded, candidate, Prompt(t, ((0.2, 0.4),), (True,)))
    (expected,) = tracker.track(encoded, [candidate])
    found = answer(tracker, encoded, prompts=prompts)
    assert found.tracklet.rles == expected.rles
    assert found.kept_track
    backwards = answer(tracker, encoded, prompts=dict(sorted(prompts.items())))
    assert backwards.tracklet.rles != expected.rles


def test_a_further_click_repeats_no_correction(
    tracker: Tracker, encoded: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    correct = tracker.correct
    monkeypatch.setattr(
        tracker, "correct", lambda *given, **more: (made.append(given[2].frame), correct(*given, **more))[1]
    )
    click = FramePrompt(((0.2, 0.4),), (True,))
    twice = FramePrompt(((0.2, 0.4), (0.9, 0.9)), (True, False))
    corrected = CorrectedObjects()
    for prompts in ({4: click}, {4: click, 2: click}, {4: click, 2: twice}, {4: twice, 2: twice}):
        found = answer(tracker, encoded, prompts=prompts, corrected=corrected)
        before, made[:] = list(made), []
        assert found.tracklet.rles == answer(tracker, encoded, prompts=prompts).tracklet.rles
        assert made == list(prompts), "without what is known, all corrections are made"
        assert before == ([4, 2] if prompts[4] is twice else list(prompts)[-1:])
        made.clear()


def test_the_preset_chooses_what_a_click_goes_with(tracker: Tracker, encoded: EncodedVideo) -> None:
    prompts = {3: FramePrompt(((0.2, 0.4),), (True,))}
    with_memory = answer(tracker, encoded, prompts=prompts, correction="memory")
    alone = answer(tracker, encoded, prompts=prompts, correction="frame")
    assert with_memory.tracklet.rles != alone.tracklet.rles


def test_it_stops_when_it_is_cancelled(tracker: Tracker, encoded: EncodedVideo) -> None:
    def cancel(stage: str, fraction: float) -> None:
        raise Cancelled(f"cancelled during {stage}")

    request = SteerRequest(
        Path("video"), None, (), None, {0: FramePrompt(((0.5, 0.5),), (True,))}, {}, frozenset()
    )
    with pytest.raises(Cancelled):
        answer_steering(tracker, encoded, request, cancel, correction="memory")
