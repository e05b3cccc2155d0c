"""Typed commands and expressions that replace others: what stands on the pages afterwards, and in the text field."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.interactive.mask_regions import read_mask_regions
from ml_backend.interactive.state import InstanceState, TaskState
from ml_backend.interactive.store import TaskStateKey, TaskStateStore
from ml_backend.interactive.submitted_pages import with_last_answers
from ml_backend.interactive.update import apply_draft
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.region_masks import page_masks
from steerseg.masks import encode_rle
from tests.support.annotator import TASK, Annotator, painted
from tests.support.backend import Backend
from tests.support.databases import EACH_DATABASE

pytestmark = [pytest.mark.timeout(120), EACH_DATABASE]


@pytest.fixture
def annotator(backend: Backend) -> Annotator:
    return Annotator(backend)


def masks(annotator: Annotator, index: int) -> dict[int, NDArray[np.bool_]]:
    """By page, the masks of one object that have a pixel."""
    found = {page: page_masks([region])[0].mask for page, region in annotator.series(index).items()}
    return {page: mask for page, mask in found.items() if mask.any()}


def settled(annotator: Annotator) -> list[str]:
    """What stands in the expression field."""
    return list(annotator.draft["expression-frames"]["value"]["text"])


def side_of(annotator: Annotator) -> FramesSide:
    side = parse_controls(annotator.body["label_config"]).frames
    assert side is not None
    return side


def state_of(annotator: Annotator) -> TaskState:
    key = TaskStateKey(int(annotator.body["project"].split(".")[0]), TASK, annotator.number, "frames")
    return TaskStateStore(annotator.backend.database).get(key)


def test_an_expression_replaces_all_that_the_one_before_made(annotator: Annotator) -> None:
    annotator.type("the two balls")
    assert masks(annotator, 1)
    annotator.type("the box")
    assert masks(annotator, 0)
    assert not masks(annotator, 1)
    assert " This replaces object and other (the two balls). Other candidates" in annotator.status
    assert settled(annotator) == ["the box"]


def test_an_expression_for_one_object_leaves_the_others(annotator: Annotator) -> None:
    annotator.type("the two balls")
    annotator.type("other: the box")
    assert masks(annotator, 0)
    assert masks(annotator, 1)
    assert "This replaces other (the two balls)." in annotator.status
    assert settled(annotator) == ["other: the box", "object: the two balls"]


def test_an_object_is_deleted_and_stays_so(annotator: Annotator) -> None:
    annotator.type("the two balls")
    kept = masks(annotator, 0)
    annotator.type("delete other")
    assert not masks(annotator, 1)
    assert masks(annotator, 0).keys() == kept.keys()
    assert annotator.status == "Deleted other."
    assert settled(annotator) == ["the two balls"]
    annotator.type("delete other")
    assert annotator.status == "Other has no mask, so nothing was changed."
    assert settled(annotator) == ["the two balls"]


def test_an_object_is_deleted_on_some_frames_and_prompts_do_not_bring_it_back(annotator: Annotator) -> None:
    annotator.type("the ball")
    annotator.type("delete object from frame 5")
    assert sorted(masks(annotator, 0)) == [0, 1, 2, 3]
    annotator.point(2)
    assert sorted(masks(annotator, 0)) == [0, 1, 2, 3]
    annotator.type("another ball")
    assert max(masks(annotator, 0)) > 3, "a new expression begins anew"


def test_masks_are_assigned_over_a_range(annotator: Annotator) -> None:
    annotator.type("the two balls")
    first, second = masks(annotator, 0), masks(annotator, 1)
    annotator.type("object = other from frame 6")
    now = masks(annotator, 0)
    assert all((now[page] == first[page]).all() for page in range(5))
    assert all((now[page] == second[page]).all() for page in range(5, 12) if page in second)
    assert max(masks(annotator, 1)) == 4
    annotator.type("swap object and other on frames 1 to 2")
    assert (masks(annotator, 0)[0] == second[0]).all()
    assert (masks(annotator, 1)[1] == first[1]).all()
    annotator.type("merge other into object")
    assert not masks(annotator, 1)
    assert (masks(annotator, 0)[0] == (first[0] | second[0])).all()


def test_an_object_is_split(annotator: Annotator) -> None:
    annotator.type("the ball")
    before = masks(annotator, 0)
    annotator.type("split object at frame 4")
    assert sorted(masks(annotator, 0)) == [0, 1, 2]
    assert masks(annotator, 1).keys() == before.keys() - {0, 1, 2}
    annotator.type("split object at frame 2")
    assert annotator.status.startswith("All objects are in use")


def test_what_a_command_assigned_is_submitted_on_pages_that_were_not_shown(annotator: Annotator) -> None:
    annotator.type("the two balls")
    unseen = list(annotator.draft.values())  # as Label Studio submits pages that nobody opened
    annotator.type("delete other from frame 3")
    now = {**{region["id"]: region for region in unseen}, "status-frames": annotator.draft["status-frames"]}
    changed = with_last_answers(list(now.values()), state_of(annotator), side_of(annotator), TASK)
    assert changed is not None
    regions = read_mask_regions(changed, side_of(annotator), TASK)
    assert sorted(regions.instances[1]) == [0, 1]


def test_paint_and_undo_after_a_command_count(annotator: Annotator) -> None:
    annotator.type("the ball")
    annotator.type("delete object from frame 5")
    region = annotator.series(0)[6]
    annotator.draft[region["id"]] = painted(region)
    side = side_of(annotator)
    drawn = apply_draft(state_of(annotator), read_mask_regions(annotator.draft.values(), side, TASK))
    assert 6 in drawn.instances[0].own_pages
    assert 7 not in drawn.instances[0].own_pages
    assert drawn.instances[0].painted[7] is None


def test_assigned_pages_are_the_annotators() -> None:
    mask = encode_rle(np.ones((4, 4), dtype=bool))
    instance = InstanceState(0, "object", masks=(mask, mask), scores=(0.5, 0.6))
    assigned = instance.with_assigned({1: None}, 3)
    assert assigned.masks == (mask, None, None)
    assert assigned.scores == (0.5, 1.0, 1.0)
    assert assigned.hidden_pages == {1}
    assert assigned.own_pages == frozenset()


def test_go_lets_the_other_frames_follow_what_was_painted(annotator: Annotator) -> None:
    annotator.type("the ball")
    annotator.type("go")
    assert annotator.status.startswith("No painted frame has arrived yet.")
    mine = annotator.series()[4]
    annotator.draft[mine["id"]] = painted(mine)
    before = masks(annotator, 0)
    annotator.type("go")
    assert "1 painted frame. Frame 5 stays as you left it." in annotator.status
    assert annotator.draft[mine["id"]] == painted(mine)
    assert any((masks(annotator, 0)[page] != before[page]).any() for page in (0, 1, 2))
    assert settled(annotator) == ["the ball"]
