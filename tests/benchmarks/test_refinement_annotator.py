"""The simulated annotator's annotations say to the backend what they should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.refinement.annotator import Habits, work_on
from benchmarks.refinement.workplace import LABEL_CONFIG, frames_side
from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.records import Decision, Verdict
from ml_backend.label_studio.regions import tracklet_to_frames_regions
from ml_backend.label_studio.results import expression_result
from steerseg.errors import ConfigError
from steerseg.masks import RLE, decode_rle, encode_rle

SIDE = frames_side()
EXPRESSION = "the gizmo"
PAGES, HEIGHT, WIDTH = 4, 20, 40


@dataclass
class Track:
    rles: list[RLE]
    frame_scores: NDArray[np.float32]


def square(left: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[4:14, left : left + 10] = True
    return mask


def prediction(number: int, masks: list[NDArray[np.bool_]]) -> dict[str, Any]:
    track = Track([encode_rle(mask) for mask in masks], np.full(len(masks), 0.8, dtype=np.float32))
    result = tracklet_to_frames_regions(track, SIDE, instance_id="t7-0123456789", expression=EXPRESSION)
    text = expression_result(SIDE, EXPRESSION)
    assert text is not None
    return {"id": number, "model_version": "v", "score": 0.8, "result": [*result, text]}


def decide(annotation: dict[str, Any]) -> Decision:
    read = read_annotation(
        {**annotation, "id": 1},
        task_data={"frames": [f"{page}.jpg" for page in range(PAGES)]},
        label_config=LABEL_CONFIG.read_text(encoding="utf-8"),
        expression=EXPRESSION,
    )
    (decision,) = read
    assert decision.problem is None
    assert decision.expression == EXPRESSION
    assert decision.verdict is Verdict.ACCEPT
    return decision


TRUTH = np.stack([square(5), square(6), square(7), square(8)])


def test_a_good_proposal_is_submitted_as_it_is() -> None:
    proposed = prediction(3, [square(5), square(6), square(7), square(9)])
    work = work_on([proposed], EXPRESSION, TRUTH, SIDE)
    assert work.accepted
    assert work.pages == 0
    assert work.iou == pytest.approx((3 + 9 / 11) / 4)
    decision = decide(work.annotation)
    assert decision.parent_prediction == 3
    assert [frame.changed for frame in decision.frames.values()] == [False] * PAGES


def test_a_task_is_judged_by_the_prediction_that_it_opens_with() -> None:
    right, wrong = prediction(1, list(TRUTH)), prediction(2, [square(25)] * PAGES)
    assert not work_on([right, wrong], EXPRESSION, TRUTH, SIDE).accepted
    assert work_on([wrong, {**right, "id": 3}], EXPRESSION, TRUTH, SIDE).accepted


def test_a_bad_proposal_gets_the_true_masks_and_good_pages_stay() -> None:
    empty = np.zeros_like(TRUTH[0])
    truth = np.stack([TRUTH[0], TRUTH[1], empty, TRUTH[3]])
    proposed = prediction(9, [TRUTH[0], square(25), square(25), empty])
    work = work_on([proposed], EXPRESSION, truth, SIDE)
    assert not work.accepted
    assert work.pages == 3
    decision = decide(work.annotation)
    assert sorted(decision.frames) == [0, 1, 3]
    assert decision.erased, "the page whose mask was deleted shows nothing"
    # What was painted anew is compared with the proposal later.
    assert [decision.frames[page].changed for page in (0, 1, 3)] == [False, True, None]
    for page in (0, 1, 3):
        rle = decision.frames[page].rle
        assert rle is not None
        assert (decode_rle(rle) == truth[page]).all()


def test_where_nothing_was_proposed_everything_is_painted() -> None:
    work = work_on([], EXPRESSION, TRUTH, SIDE)
    assert (work.iou, work.accepted, work.pages) == (0.0, False, PAGES)
    assert work.annotation["parent_prediction"] is None
    decision = decide(work.annotation)
    assert [decode_rle(frame.rle).sum() for frame in decision.frames.values() if frame.rle] == [100] * PAGES


def test_how_good_is_good_enough_is_a_habit() -> None:
    proposed = prediction(3, [square(7)] * PAGES)
    assert not work_on([proposed], EXPRESSION, TRUTH, SIDE, Habits(accept=0.95)).accepted
    assert work_on([proposed], EXPRESSION, TRUTH, SIDE, Habits(accept=0.5)).accepted


def test_a_truth_that_shows_nothing_is_no_task() -> None:
    with pytest.raises(ConfigError, match="shows nothing on any page"):
        work_on([], EXPRESSION, np.zeros_like(TRUTH), SIDE)
