"""Which motions an expression states, and what is left of it without them."""

from __future__ import annotations

import pytest

from steerseg.demo.dataset import load_manifest
from steerseg.motion.reading import Motion, stated_motions, without_motion


@pytest.mark.parametrize(
    ("expression", "motions", "rest"),
    [
        ("the dog that runs to the left", [Motion.LEFT], "the dog"),
        ("the man walking slowly towards the right", [Motion.RIGHT], "the man"),
        ("the red car moving from right to left", [Motion.LEFT], "the red car"),
        ("birds flying upwards", [Motion.UP], "birds"),
        ("the leaf falling to the ground", [Motion.DOWN], "the leaf"),
        ("the dog which isn't moving", [Motion.STILL], "the dog"),
        ("the parked car next to the tree", [Motion.STILL], "the car next to the tree"),
        ("the one that does not move", [Motion.STILL], "the one"),
        ("the motionless red ball", [Motion.STILL], "the red ball"),
        ("the fish swimming in circles", [Motion.CIRCLING], "the fish"),
        ("the child going back and forth", [Motion.BACK_AND_FORTH], "the child"),
        ("the bouncing ball", [Motion.BOUNCING], "the ball"),
        ("the bus that first stands still and then moves", [Motion.STARTS], "the bus"),
        ("the bus that comes to a stop", [Motion.STOPS], "the bus"),
        ("the woman entering the room", [Motion.ENTERS], "the woman"),
        ("the cat that leaves the picture", [Motion.LEAVES], "the cat"),
        ("the cat that goes away and comes back", [Motion.RETURNS], "the cat"),
        ("the ship coming closer", [Motion.GROWING], "the ship"),
        ("the balloon that gets smaller", [Motion.SHRINKING], "the balloon"),
        ("what is moving around", [Motion.MOVING], "the one"),
        ("the dog that runs to the left and then stops", [Motion.STOPS, Motion.LEFT], "the dog"),
        ("person walking left to right", [Motion.RIGHT], "person"),
        ("the dog running right-to-left", [Motion.LEFT], "the dog"),
        ("the dog on the left that is running to the right", [Motion.RIGHT], "the dog on the left"),
        ("the car moving to the left of the picture", [Motion.LEFT], "the car"),
        ("the man with a hat walking to the right", [Motion.RIGHT], "the man with a hat"),
        ("the moving dog behind the tree", [Motion.MOVING], "the dog behind the tree"),
        ("the dog that still moves", [Motion.MOVING], "the dog"),
        ("the car approaching the camera", [Motion.GROWING], "the car"),
        ("the still dog", [Motion.STILL], "the dog"),
        ("the spinning wheel on the left", [Motion.SPINNING], "the wheel on the left"),
        ("the man who turns around", [Motion.SPINNING], "the man"),
        ("the runner that overtakes the others", [Motion.OVERTAKES], "the runner"),
        ("the horse passing another", [Motion.OVERTAKES], "the horse"),
        ("the dog that moves the fastest", [Motion.FASTER], "the dog"),
        ("the faster of the two dogs", [Motion.FASTER], "the dogs"),
        ("the fast-moving car", [Motion.FASTER], "the car"),
        ("the bus that is a lot faster than the tram", [Motion.FASTER], "the bus"),
        ("the man walking slowly", [Motion.SLOWER], "the man"),
        ("the slowest", [Motion.SLOWER], "the one"),
        ("a lot faster than the dog", [Motion.FASTER], "the one"),
    ],
)
def test_motions_are_read(expression: str, motions: list[Motion], rest: str) -> None:
    assert list(stated_motions(expression)) == motions
    assert without_motion(expression) == rest


@pytest.mark.parametrize(
    "expression",
    [
        "the dog on the left",
        "the leftmost dog",
        "the left one",
        "the stop sign in the upper half",
        "the boat floating beside the pier",
        "something that grows in the ground",
        "the dog that does not run to the left",
        "the car that isn't moving left",
        "the dog that is not fast",
        "the fast food",
        "the man next to the parked car",
        "the car that drives past the parked truck",
        "the dog chasing the bouncing ball",
        "the man watching the moving train",
        "the cat beside the dog that is running to the left",
        "the woman in the moving car",
        "the child who still has the ball",
        "the person still in the water",
        "the still life painting",
        "the woman walking down the street",
        "the horse with its head down",
        "the boy walking right behind the girl",
        "the fish swimming left of the coral",
        "the giraffe eating leaves",
        "the leaves on the tree",
        "the man leaving the bag on the table",
        "the hand that appears to hold a knife",
        "the animal that appears bigger",
        "the cat approaching the dog",
        "the man dropping the ball",
        "the player bouncing a basketball",
        "the player passing the ball",
        "the car turning around the corner",
        "the one that stays behind",
        "the car turning left",
        "the dog walking up to the camera",
        "the dog closest to the cat",
        "the most popular one",
        "the crossing",
    ],
)
def test_what_states_no_motion(expression: str) -> None:
    """Or none that tracks can tell, or one of another object."""
    assert not stated_motions(expression)


def test_nearly_every_expression_about_motion_is_read_and_hardly_another() -> None:
    """Wordings of the generator."""
    expressions = [expression for clip in load_manifest("val").clips for expression in clip.expressions]
    motion = [bool(stated_motions(one.text)) for one in expressions if one.kind == "motion"]
    others = [
        bool(stated_motions(one.text))
        for one in expressions
        if one.kind in ("attribute", "spatial", "explicit")
    ]
    assert len(motion) >= 15
    assert sum(motion) >= 0.9 * len(motion)
    assert not any(others)
