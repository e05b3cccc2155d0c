from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.language.expressions import (
    MOST_INSTANCES,
    InstanceCount,
    TypedText,
    alternatives_for,
    choose_candidates,
    instances_meant,
    read_typed_text,
)
from ml_backend.models.messages import ProposeRequest
from ml_backend.models.reporter import SilentReporter
from tests.support.proposal_targets import propose


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the two dogs", InstanceCount(2, exact=True)),
        ("please track the three red cars", InstanceCount(3, exact=True)),
        ("4 birds", InstanceCount(4, exact=True)),
        ("both cats", InstanceCount(2, exact=True)),
        ("all red cars", InstanceCount(MOST_INSTANCES, exact=False)),
        ("All of the dogs", InstanceCount(MOST_INSTANCES, exact=False)),
        ("every ball", InstanceCount(MOST_INSTANCES, exact=False)),
        ("all three dogs", InstanceCount(3, exact=True)),
        ("the glasses", None),
        ("the larger of the two dogs", None),
        ("one of the two dogs", None),
        ("the dog that is all over the place", None),
        ("the allosaurus", None),
    ],
)
def test_several_objects_are_said_at_the_beginning(expression: str, expected: InstanceCount | None) -> None:
    assert instances_meant(expression) == expected
    assert alternatives_for(expression, 3) == max(3, expected.most if expected else 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the  dog ", TypedText("the dog")),
        ("#2", TypedText(pick=2)),
        ("Object 2: the dog", TypedText("the dog", label="object 2")),
        ("object 2: #3", TypedText(label="object 2", pick=3)),
        ("the car: red", TypedText("the car: red")),
        ("#two", TypedText("#two")),
    ],
)
def test_typed_texts_are_read(text: str, expected: TypedText) -> None:
    assert read_typed_text(text, ["object 1", "object 2"]) == expected


def test_candidates_that_lie_on_one_another_are_one_object() -> None:
    proposal = propose(ProposeRequest(Path("video"), "the two balls", None, alternatives=3), SilentReporter())
    assert choose_candidates(proposal, instances_meant("the two balls")) == [0, 1]
    assert choose_candidates(proposal, None) == [0]
    twins = replace(proposal, tracklets=(proposal.tracklets[0], *proposal.tracklets))
    assert choose_candidates(twins, instances_meant("the two balls")) == [0, 2]
    faint = replace(proposal, tracklets=(proposal.tracklets[0], replace(proposal.tracklets[1], score=0.1)))
    assert choose_candidates(faint, instances_meant("all balls")) == [0]
