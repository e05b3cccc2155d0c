"""Corrections teach what a team's word means; words that are understood, or that nothing is sure of, stay."""

from __future__ import annotations

import pytest

from steerseg.words.glossary import Entry, Glossary
from steerseg.words.learning import Lexicon, NamedCorrection, learn_glossary, terms_in

LEXICON = Lexicon(
    nouns={
        "fruit": ("apple", "banana", "kiwi", "lemon", "pear"),
        "food": ("apple", "banana", "bread", "cheese", "kiwi", "lemon", "pear", "pizza"),
        "animal": ("bear", "cat", "dog", "eagle", "horse", "lion", "owl"),
        "bird": ("eagle", "owl"),
        "vehicle": ("bus", "car", "truck"),
    }
)


def seen(expression: str, *names: str, overlap: float | None = 0.1, video: str = "") -> NamedCorrection:
    """A correction whose object looks most like the first name, and a little like the others."""
    probabilities = {name: 0.6 / 2**index for index, name in enumerate(names)}
    return NamedCorrection(expression, video or f"{expression}-{names}", probabilities, overlap=overlap)


FRUIT = [
    seen("the blick on the left", "apple", "dog"),
    seen("a blick that moves", "kiwi"),
    seen("track the red blick", "banana", "lemon"),
    seen("the blick", "car", "pear"),  # the model names it wrongly
    seen("blicks", "pear"),
]


def test_a_misunderstood_word_means_what_covers_its_objects_and_little_else() -> None:
    (entry,) = learn_glossary(FRUIT[:4], LEXICON, Glossary()).entries
    assert (entry.term, entry.meaning, entry.corrections) == ("blick", "fruit", 4)
    assert entry.names[0] == ("apple", 1)


def test_a_word_for_one_object_means_that_object() -> None:
    same = [seen(f"the zib number {number}", "owl", "eagle", video=str(number)) for number in range(3)]
    (entry,) = learn_glossary(same, LEXICON, Glossary()).entries
    assert entry.meaning == "owl"


def test_two_words_of_one_project_are_told_apart() -> None:
    vehicles = [
        seen(f"the modi {where}", name) for where, name in (("up", "bus"), ("down", "car"), ("left", "truck"))
    ]
    learned = learn_glossary([*FRUIT[:4], *vehicles], LEXICON, Glossary())
    assert {entry.term: entry.meaning for entry in learned.entries} == {"blick": "fruit", "modi": "vehicle"}


@pytest.mark.parametrize(
    "corrections",
    [
        pytest.param(
            [seen("the blick", "apple"), seen("the blick left", "dog"), seen("blick", "car")], id="no sense"
        ),
        pytest.param([seen("the blick", "apple")], id="once"),
        pytest.param(
            [seen("the blick", "apple", video="a"), seen("blick", "kiwi", video="a")], id="one video"
        ),
        pytest.param([seen("the dog", "dog"), seen("a dog", "dog"), seen("the dog left", "dog")], id="known"),
        pytest.param(
            [seen("the blick", name, overlap=0.9) for name in ("apple", "kiwi", "banana", "pear")],
            id="understood",
        ),
        pytest.param([], id="nothing"),
    ],
)
def test_other_words_are_left_alone(corrections: list[NamedCorrection]) -> None:
    assert learn_glossary(corrections, LEXICON, Glossary()) == Glossary()


def test_a_known_word_in_another_sense_is_learned() -> None:
    cars = [
        seen(f"the dog {where}", name) for where, name in (("up", "bus"), ("down", "car"), ("left", "truck"))
    ]
    (entry,) = learn_glossary(cars, LEXICON, Glossary()).entries
    assert (entry.term, entry.meaning) == ("dog", "vehicle")


def test_what_a_person_wrote_stays() -> None:
    edited = Glossary(entries=(Entry(term="blick", meaning="pear", origin="edited"),))
    assert learn_glossary(FRUIT, LEXICON, edited) == edited


def test_more_corrections_mend_a_learned_entry() -> None:
    first = Glossary(entries=(Entry(term="blick", meaning="apple", corrections=2),))
    (entry,) = learn_glossary(FRUIT[:4], LEXICON, first).entries
    assert (entry.meaning, entry.corrections) == ("fruit", 4)


def test_kinds_that_the_model_says_serve_without_a_lexicon() -> None:
    corrections = [
        NamedCorrection(f"the blick {where}", where, {name: 0.8}, {name: (kind, "thing")}, 0.0)
        for where, name, kind in (
            ("up", "apple", "fruit"),
            ("down", "pear", "fruit"),
            ("left", "kiwi", "fruit"),
            ("right", "lime", "fruit"),
        )
    ]
    others = [NamedCorrection("the dog", "x", {"dog": 0.9}, {"dog": ("animal", "thing")}, 0.9)]
    (entry,) = learn_glossary([*corrections, *others], Lexicon(), Glossary()).entries
    assert entry.meaning == "fruit"


def test_terms_are_words_with_a_meaning_of_their_own() -> None:
    assert terms_in("Please track the big rig's left wheel") == {"big", "rig", "wheel", "big rig"}
    assert terms_in("the one on the left") == frozenset()
