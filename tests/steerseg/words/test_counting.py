from dataclasses import dataclass, replace

import numpy as np
import pytest

from steerseg.masks import RLE, encode_rle
from steerseg.verification import Opinion
from steerseg.words.counting import (
    MOST_INSTANCES,
    InstanceCount,
    alternatives_for,
    choose_candidates,
    instances_meant,
    singular_expression,
)


@dataclass(frozen=True)
class Ranked:
    rles: tuple[RLE, ...]
    score: float
    opinion: Opinion | None = None


def box(left: int, score: float) -> Ranked:
    mask = np.zeros((10, 30), dtype=bool)
    mask[2:8, left : left + 6] = True
    return Ranked((encode_rle(mask),), score)


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
        ("the backpacks", InstanceCount(MOST_INSTANCES, exact=False)),
        ("red cars on the left", InstanceCount(MOST_INSTANCES, exact=False)),
        ("pls find all the dogs", InstanceCount(MOST_INSTANCES, exact=False)),
        ("where are those two cats going", InstanceCount(2, exact=True)),
        ("the bus", None),
        ("the sheep", None),
        ("the french fries", None),
        ("the one with wheels", None),
        ("the animal that jumps", None),
        ("something with wings", None),
    ],
)
def test_several_objects_are_said_at_the_beginning(expression: str, expected: InstanceCount | None) -> None:
    assert instances_meant(expression) == expected
    assert alternatives_for(expression, 3) == max(3, expected.most if expected else 0)


def test_candidates_that_lie_on_one_another_are_one_object() -> None:
    first, second = box(0, 0.8), box(20, 0.5)
    two, every = instances_meant("the two balls"), instances_meant("all balls")
    assert choose_candidates([first, second], two) == [0, 1]
    assert choose_candidates([first, second], None) == [0]
    assert choose_candidates([first, first, second], two) == [0, 2]
    assert choose_candidates([first, replace(second, score=0.1)], every) == [0]
    assert choose_candidates([], every) == []


def test_several_instances_are_those_that_the_model_accepts_whatever_their_score() -> None:
    first, second, third = box(0, 0.8), box(10, 0.1), box(20, 0.7)
    two, every = instances_meant("the two balls"), instances_meant("all balls")
    ranked = [
        replace(first, opinion=Opinion("accepted")),
        replace(second, opinion=Opinion("accepted")),
        replace(third, opinion=Opinion("rejected")),
    ]
    assert choose_candidates(ranked, every) == choose_candidates(ranked, two) == [0, 1]
    assert choose_candidates(ranked[2:] + ranked[:2], every) == [0, 1, 2]  # the best is always shown
    assert choose_candidates([ranked[0], ranked[2]], two) == [0]
    assert choose_candidates([ranked[0], replace(second, opinion=Opinion("doubted"))], every) == [0]


@pytest.mark.parametrize(
    ("expression", "one"),
    [
        ("both daggers", "the dagger"),
        ("all of the red cars on the left", "the red car on the left"),
        ("every frisbee", "the frisbee"),
        ("each of the two dogs", "the dog"),
        ("please track the three red cars", "the red car"),
        ("4 birds", "the bird"),
        ("all pieces of clothing", "the piece of clothing"),
        ("all tropical fish", "the tropical fish"),
        ("the two glasses", "the glasses"),
        ("the buses", "the bus"),
        ("both walruses", "the walrus"),
        ("all of them", "all of them"),
        ("all that is on the left", "the one that is on the left"),
        ("all those who run", "the one who run"),
    ],
)
def test_one_of_several_objects_is_named_in_the_singular(expression: str, one: str) -> None:
    assert singular_expression(expression) == one
