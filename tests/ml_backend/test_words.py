from dataclasses import replace
from pathlib import Path

import pytest
from proposal_targets import propose

from ml_backend.expressions import (
    MOST_OBJECTS,
    Wanted,
    Words,
    alternatives_for,
    choose_objects,
    read_words,
    wanted,
)
from ml_backend.models.messages import ProposeRequest


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the two dogs", Wanted(2, exact=True)),
        ("please track the three red cars", Wanted(3, exact=True)),
        ("4 birds", Wanted(4, exact=True)),
        ("both cats", Wanted(2, exact=True)),
        ("all red cars", Wanted(MOST_OBJECTS, exact=False)),
        ("All of the dogs", Wanted(MOST_OBJECTS, exact=False)),
        ("every ball", Wanted(MOST_OBJECTS, exact=False)),
        ("all three dogs", Wanted(3, exact=True)),
        ("the glasses", None),
        ("the larger of the two dogs", None),
        ("one of the two dogs", None),
        ("the dog that is all over the place", None),
        ("the allosaurus", None),
    ],
)
def test_several_objects_are_said_at_the_beginning(expression: str, expected: Wanted | None) -> None:
    assert wanted(expression) == expected
    assert alternatives_for(expression, 3) == max(3, expected.most if expected else 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the  dog ", Words("the dog")),
        ("#2", Words(pick=2)),
        ("Object 2: the dog", Words("the dog", label="object 2")),
        ("object 2: #3", Words(label="object 2", pick=3)),
        ("the car: red", Words("the car: red")),
        ("#two", Words("#two")),
    ],
)
def test_typed_texts_are_read(text: str, expected: Words) -> None:
    assert read_words(text, ["object 1", "object 2"]) == expected


def test_candidates_that_lie_on_one_another_are_one_object() -> None:
    proposal = propose(ProposeRequest(Path("video"), "the two balls", None, alternatives=3), lambda *_: None)
    assert choose_objects(proposal, wanted("the two balls")) == [0, 1]
    assert choose_objects(proposal, None) == [0]
    twins = replace(proposal, tracklets=(proposal.tracklets[0], *proposal.tracklets))
    assert choose_objects(twins, wanted("the two balls")) == [0, 2]
    faint = replace(proposal, tracklets=(proposal.tracklets[0], replace(proposal.tracklets[1], score=0.1)))
    assert choose_objects(faint, wanted("all balls")) == [0]
