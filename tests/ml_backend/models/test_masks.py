"""Boxes become masks and masks are propagated, by the demo's own SAM 2 on clips that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.geometry import (
    MAX_CONDITIONING,
    TrackBox,
    box_iou,
    box_of,
    mask_iou,
    spread,
    upright_box,
)
from ml_backend.models.masks import answer_masks
from ml_backend.models.messages import MaskAnswer, MaskRequest
from ml_backend.models.queue import Priority
from ml_backend.models.reporter import SilentReporter, YieldRequested
from ml_backend.models.workers import ModelFactory
from steerseg.demo.dataset import clips, load_manifest
from steerseg.masks import decode_rle, encode_rle, iou
from steerseg.presets import find_preset, load_preset
from steerseg.tracking import Tracker
from steerseg.video import Video, VideoLimits, video_from_frames, write_video


@dataclass(frozen=True)
class Filmed:
    """A clip with one object's true masks (T, H, W)."""

    video: Video
    truth: NDArray[np.bool_]

    def shown(self) -> list[int]:
        """Frames on which the object is clearly there."""
        return [index for index, mask in enumerate(self.truth) if mask.sum() > 50]

    def box(self, index: int) -> TrackBox:
        box = box_of(encode_rle(self.truth[index]))
        assert box is not None
        return (*box, 0.0)


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return Tracker.from_pretrained(load_preset(find_preset("demo")).sam2)


@pytest.fixture(scope="module")
def films() -> list[Filmed]:
    found = []
    for clip in islice(clips(load_manifest("val")), 4):
        truth = clip.masks(clip.entry.expressions[0])
        found.append(Filmed(video_from_frames(clip.frames, fps=clip.fps), truth))
    return found


REQUEST = MaskRequest(Path("clip"), None, {}, {}, frozenset(), propagate=False)


def answer(tracker: Tracker, film: Filmed, **changes: object) -> MaskAnswer:
    request = replace(REQUEST, **changes)  # type: ignore[arg-type]
    return answer_masks(tracker, film.video, tracker.open(film.video), request, SilentReporter())


def test_boxes_become_masks_of_what_is_in_them(tracker: Tracker, films: list[Filmed]) -> None:
    overlaps = []
    for film in films:
        boxes = {index: (film.box(index),) for index in film.shown()[::8]}
        found = answer(tracker, film, boxes=boxes)
        assert (found.num_frames, found.height, found.width) == film.truth.shape
        overlaps += [iou(decode_rle(rle), film.truth[index]) for index, rle in found.boxed.items()]
        assert found.propagated == {}
    assert np.mean(overlaps) >= 0.8, overlaps


def test_masks_are_propagated_to_the_frames_that_nobody_decided(
    tracker: Tracker, films: list[Filmed]
) -> None:
    overlaps = []
    for film in films:
        shown = film.shown()
        decided = {index: encode_rle(film.truth[index]) for index in shown[:: max(1, len(shown) // 3)]}
        found = answer(tracker, film, masks=decided, hidden=frozenset({shown[-1]}), propagate=True)
        wanted = set(range(len(film.truth))) - decided.keys() - {shown[-1]}
        assert set(found.propagated) == wanted
        assert all(0 <= frame.confidence <= 1 for frame in found.propagated.values())
        overlaps += [
            mask_iou(frame.rle, encode_rle(film.truth[index])) for index, frame in found.propagated.items()
        ]
    assert np.mean(overlaps) >= 0.75


def test_boxes_are_what_propagation_starts_from_where_there_are_no_masks(
    tracker: Tracker, films: list[Filmed]
) -> None:
    film = films[0]
    first = film.shown()[0]
    found = answer(tracker, film, boxes={first: (film.box(first),)}, propagate=True)
    assert len(found.propagated) == len(film.truth) - 1


def test_frames_beyond_the_end_and_boxes_without_an_area_are_passed_over(
    tracker: Tracker, films: list[Filmed]
) -> None:
    film = films[0]
    nothing: TrackBox = (0.5, 0.5, 0.0, 0.0, 0.0)
    found = answer(tracker, film, boxes={0: (nothing,), 10_000: (film.box(film.shown()[0]),)}, propagate=True)
    assert found.boxed == {}
    assert found.propagated == {}


class Interrupted(SilentReporter):
    """A reporter that is asked to make way after some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    @property
    def should_yield(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("calls", [0, 1, 6])
def test_it_makes_way_between_its_steps(tracker: Tracker, films: list[Filmed], calls: int) -> None:
    film = films[0]
    first = film.shown()[0]
    request = replace(REQUEST, boxes={first: (film.box(first),)}, propagate=True)
    with pytest.raises(YieldRequested):
        answer_masks(tracker, film.video, tracker.open(film.video), request, Interrupted(calls))


def test_the_model_process_answers_with_the_preset_that_it_holds(films: list[Filmed], tmp_path: Path) -> None:
    film = films[0]
    write_video(tmp_path / "clip.mp4", film.video.frames, film.video.fps)
    first = film.shown()[0]
    executor: ModelExecutor = Executor.local([ModelFactory("demo", "cpu", VideoLimits())])
    try:
        request = replace(
            REQUEST, media=tmp_path / "clip.mp4", boxes={first: (film.box(first),)}, propagate=True
        )
        found = executor.submit(request, priority=Priority.REFINEMENT).result()
    finally:
        executor.close()
    assert isinstance(found, MaskAnswer)
    assert iou(decode_rle(found.boxed[first]), film.truth[first]) >= 0.6
    assert len(found.propagated) == len(film.truth) - 1


# --- the small parts


def test_a_rotated_box_gets_an_upright_one_around_it_in_pixels_not_in_fractions() -> None:
    # On a frame of 200 x 100, a box of 40 x 20 pixels at (100, 50), turned by a quarter about its top left.
    assert upright_box((0.5, 0.5, 0.2, 0.2, 90.0), 100, 200) == pytest.approx((0.4, 0.5, 0.1, 0.4))


@given(st.tuples(*[st.floats(-2, 2)] * 4, st.floats(-720, 720)))
def test_upright_boxes_lie_within_the_frame(box: TrackBox) -> None:
    x, y, width, height = upright_box(box, 90, 160)
    assert 0 <= x <= x + width <= 1 + 1e-9
    assert 0 <= y <= y + height <= 1 + 1e-9


def test_overlap_of_boxes() -> None:
    assert box_iou((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5)) == 1
    assert box_iou((0, 0, 0.2, 0.2), (0.1, 0, 0.2, 0.2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 0.2, 0.2), (0.5, 0.5, 0.2, 0.2)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_overlap_of_masks_knows_empty_ones() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    empty = encode_rle(mask)
    mask[1:3, 1:3] = True
    full = encode_rle(mask)
    assert [mask_iou(None, None), mask_iou(None, empty), mask_iou(full, full)] == [1, 1, 1]
    assert [mask_iou(None, full), mask_iou(full, empty)] == [0, 0]


@given(st.sets(st.integers(0, 500), min_size=1, max_size=60))
def test_conditioning_frames_are_spread(frames: set[int]) -> None:
    ordered = sorted(frames)
    chosen = spread(ordered, MAX_CONDITIONING)
    assert len(chosen) == len(set(chosen)) == min(len(ordered), MAX_CONDITIONING)
    assert (chosen[0], chosen[-1]) == (ordered[0], ordered[-1])
