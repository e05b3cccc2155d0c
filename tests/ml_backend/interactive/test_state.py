"""The state of a task in the database: its keys stay, whatever its fields are called; and texts about it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ml_backend.interactive.messages import describe_kept_pages, describe_no_object, describe_tracked
from ml_backend.interactive.request import Prompt
from ml_backend.interactive.state import InstanceState, TaskState, from_json, to_json
from steerseg.masks import RLE, encode_rle

CLICK = Prompt("k1", 3, "click", 0.25, 0.5)
BESIDE = Prompt("k2", 3, "click", 0.75, 0.5, positive=False)
BOX = Prompt("b1", 4, "box", 0.1, 0.2, 0.3, 0.4)


def square(left: int) -> RLE:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, left : left + 3] = True
    return encode_rle(mask)


EMPTY = encode_rle(np.zeros((8, 8), dtype=bool))

INSTANCE = InstanceState(
    index=1,
    label="dog",
    expression="the dog",
    attributes=("brown",),
    rank=2,
    score=0.5,
    track=(square(0), None),
    anchor=0,
    prompts=(CLICK, BOX),
    painted={0: square(1), 1: None},
    assigned=frozenset({1}),
    masks=(square(2), None),
    scores=(0.9, 0.8),
    answered={0: ("a", "b")},
    answer_digest="d",
)

STORED = {
    "active": 1,
    "objects": {
        "1": {
            "place": 1,
            "label": "dog",
            "expression": "the dog",
            "attributes": ["brown"],
            "rank": 2,
            "score": 0.5,
            "track": [square(0), None],
            "anchor": 0,
            "marks": [
                {
                    "id": "k1",
                    "frame": 3,
                    "kind": "click",
                    "x": 0.25,
                    "y": 0.5,
                    "width": 0.0,
                    "height": 0.0,
                    "positive": True,
                },
                {
                    "id": "b1",
                    "frame": 4,
                    "kind": "box",
                    "x": 0.1,
                    "y": 0.2,
                    "width": 0.3,
                    "height": 0.4,
                    "positive": True,
                },
            ],
            "painted": {"0": square(1), "1": None},
            "assigned": [1],
            "shown": [square(2), None],
            "scores": [0.9, 0.8],
            "known": {"0": ["a", "b"]},
            "told": "d",
        }
    },
    "chosen": "cat",
    "message": "Tracked.",
    "unanswered": "the cat",
}


def test_the_state_is_stored_under_the_keys_of_earlier_releases() -> None:
    task = TaskState(
        active_index=1, instances={1: INSTANCE}, chosen_label="cat", message="Tracked.", unanswered="the cat"
    )
    assert to_json(task) == STORED
    assert from_json(json.loads(json.dumps(STORED))) == task
    earlier = json.loads(json.dumps(STORED))
    del earlier["objects"]["1"]["assigned"], earlier["unanswered"]
    instance = replace(INSTANCE, assigned=frozenset())
    assert from_json(earlier) == replace(task, instances={1: instance}, unanswered="")


@pytest.mark.parametrize(
    "stored", [{"objects": 3}, {"objects": {"one": {}}}, {"objects": {"1": {"place": 1}}}]
)
def test_anything_else_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="objects"):
        from_json(stored)


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ((CLICK,), "1 click on the object; 1 painted frame."),
        ((CLICK, BESIDE), "2 clicks: 1 on the object, 1 beside it; 1 painted frame."),
        ((BESIDE,), "1 click beside the object; 1 painted frame."),
        ((CLICK, BOX), "1 click on the object; 1 box; 1 painted frame."),
    ],
)
def test_prompts_are_counted_by_kind(prompts: tuple[Prompt, ...], text: str) -> None:
    masks = (square(2), EMPTY)
    described = describe_tracked("object 2", replace(INSTANCE, prompts=prompts), masks, kept_track=True)
    assert described == (
        "Object 2 (the dog) is tracked on 1 of 2 frames; not visible on 2. "
        f"{text} Frames 1–2 stay as you left them."
    )


def test_what_prompts_did_not_do_is_said() -> None:
    text = describe_tracked("object 2", INSTANCE, (square(2), square(2)), kept_track=False, unused=(0,))
    assert "another object than the track before" in text
    assert "clicks on frame 1 had no effect" in text
    assert describe_no_object("object 2", (CLICK,)).startswith(
        "No object was found at the click on frame 4, so object 2 stays"
    )
    assert describe_kept_pages(replace(INSTANCE, painted={4: square(1)})).startswith(
        "Frame 5 stays as you left it."
    )
    assert describe_kept_pages(replace(INSTANCE, painted={})) == ""
