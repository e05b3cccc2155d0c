"""A glossary rewrites whole words, in the form in which they were written, and travels with soft prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from steerseg.errors import ConfigError
from steerseg.soft_prompts import SoftPrompts
from steerseg.words.glossary import GLOSSARY_FILE, Entry, Glossary

TEAM = Glossary(
    entries=(
        Entry(term="Blick", meaning="apple", corrections=4, names=(("apple", 3), ("pear", 1))),
        Entry(term="big rig", meaning="fire truck"),
        Entry(term="rig", meaning="vehicle"),
    )
)


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("the blick on the left", "the apple on the left"),
        ("BLICK", "apple"),
        ("A blick that moves", "An apple that moves"),
        ("all blicks", "all apples"),
        ("the big  rigs and the rig", "the fire trucks and the vehicle"),
        ("a rig's wheel", "a vehicle's wheel"),
        ("the blicky thing, brig, rigging", "the blicky thing, brig, rigging"),
        ("狗 blick", "狗 apple"),
    ],
)
def test_a_term_is_replaced_as_it_was_written(expression: str, read: str) -> None:
    assert TEAM.rewrite(expression) == read


def test_meanings_may_stand_behind_the_expression_or_be_left_out() -> None:
    assert (
        TEAM.rewrite("the blick near a rig", "explain") == "the blick near a rig (blick: apple; rig: vehicle)"
    )
    assert TEAM.rewrite("the dog", "explain") == "the dog"
    assert TEAM.rewrite("the blick", "off") == "the blick"


def test_meanings_are_not_rewritten_again() -> None:
    chain = Glossary(entries=(Entry(term="blick", meaning="rig"), Entry(term="rig", meaning="vehicle")))
    assert chain.rewrite("blick and rig") == "rig and vehicle"


@pytest.mark.parametrize("expression", ["\u0130nek solda", "k\u0131rm\u0131z\u0131 top"])
def test_letters_that_lower_case_keeps_apart_leave_an_expression_as_it_is(expression: str) -> None:
    entries = (Entry(term="inek", meaning="cow"), Entry(term="kirmizi top", meaning="red ball"))
    assert Glossary(entries=entries).rewrite(expression) == expression


@pytest.mark.parametrize(
    ("term", "meaning"), [("", "apple"), ("blick", " - "), ("apple", "Apple"), ("x" * 81, "y")]
)
def test_an_entry_is_two_different_words(term: str, meaning: str) -> None:
    with pytest.raises(ValidationError):
        Entry(term=term, meaning=meaning)


def test_a_term_has_one_meaning() -> None:
    with pytest.raises(ValidationError, match="two meanings"):
        Glossary(entries=(Entry(term="blick", meaning="apple"), Entry(term="BLICK", meaning="pear")))
    assert TEAM.with_entry(Entry(term="rig", meaning="car")).rewrite("rig") == "car"
    assert TEAM.without("RIG").terms_of("a rig and a blick") == ("blick",)


def test_the_digest_is_of_what_proposals_depend_on() -> None:
    counted = Glossary(entries=(Entry(term="rig", meaning="vehicle", corrections=9),))
    assert counted.digest == Glossary(entries=(Entry(term="rig", meaning="vehicle", origin="edited"),)).digest
    assert counted.digest != TEAM.digest
    assert Glossary().digest == ""


def test_soft_prompts_keep_their_glossary(tmp_path: Path) -> None:
    plain = SoftPrompts(torch.ones(2, 4), torch.zeros(2, 4))
    taught = replace(plain, glossary=TEAM)
    assert taught.digest != plain.digest
    taught.save(tmp_path)
    assert SoftPrompts.load(tmp_path).glossary == TEAM
    assert taught.averaged(plain, 0.5).glossary == TEAM

    plain.save(tmp_path)
    assert not (tmp_path / GLOSSARY_FILE).exists()
    assert SoftPrompts.load(tmp_path).digest == plain.digest


def test_a_damaged_glossary_is_named(tmp_path: Path) -> None:
    replace(SoftPrompts.without_rows(4), glossary=TEAM).save(tmp_path)
    (tmp_path / GLOSSARY_FILE).write_text('{"entries": [{"term": "blick"}]}')
    with pytest.raises(ConfigError, match=r"glossary\.json is no glossary"):
        SoftPrompts.load(tmp_path)
