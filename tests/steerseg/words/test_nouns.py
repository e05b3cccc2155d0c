"""Noun phrases of expressions and attributes."""

from __future__ import annotations

import pytest

from steerseg.words.nouns import head_phrase, noun_phrases


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("the dog that stays behind", "dog"),
        ("the second red car that turns left", "red car"),
        ("man dressed in black", "man"),
        ("the car parked on the left", "car"),
        ("woman holding an umbrella", "woman"),
        ("black dog running", "black dog"),
        ("a striped shirt", "striped shirt"),
        ("moving car", "moving car"),
        ("the building, the tall one", "building"),
        ("Which car is driving fastest?", "car"),
        ("The White Horse", "White Horse"),
        ("two dogs", "dogs"),
        ("left dog", "dog"),
        ("the orange", "orange"),
        ("the car <|endoftext|>", "car endoftext"),
    ],
)
def test_the_head_is_what_it_is_with_how_it_looks(text: str, phrase: str) -> None:
    assert head_phrase(text) == phrase


@pytest.mark.parametrize(
    "text",
    [
        "moving to the left",
        "red",
        "brown and white",
        "on the left",
        "next to the tree",
        "left side of the picture",
        "the one that is running",
        "what could be used for cutting?",
        "wearing a red shirt",
        "the larger of the two dogs",
        "the person's left hand",
        "跑步的人",
        "",
    ],
)
def test_looks_places_and_motions_have_no_head(text: str) -> None:
    assert head_phrase(text) == ""


def test_the_expression_comes_first_and_each_phrase_once() -> None:
    attributes = ("a brown dog", "Dog", "standing still", "on the left", "brown dog running")
    assert noun_phrases(("the dog that stays behind", *attributes)) == ("dog", "brown dog")
    assert noun_phrases(("the one on the left", "red")) == ()
