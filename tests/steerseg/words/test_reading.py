"""What the models read for an expression, and which of its words nobody taught."""

from dataclasses import replace

import pytest

from steerseg.config import PipelineConfig
from steerseg.words.glossary import Entry, Glossary
from steerseg.words.learning import Lexicon
from steerseg.words.reading import read_expression

LEXICON = Lexicon(words=frozenset({"the", "dog", "umbrella", "red", "two", "not"}))
LEARNED = Glossary(entries=(Entry(term="blick", meaning="umbrella"),))


@pytest.mark.parametrize(
    ("expression", "text", "new_words"),
    [
        ("pls track the red dog", "the red dog", ()),
        ("the blick on the left", "the umbrella on the left", ()),
        ("the wug", "the wug", ("wug",)),
        ("the umberlla", "the umbrella", ("umberlla",)),  # mended, but it may be a team's own word
        ("the two dog", "the two dog", ()),
        ("das rote auto", "das rote auto", ("das", "rote", "auto")),
    ],
)
def test_the_words_that_nobody_taught_are_new(expression: str, text: str, new_words: tuple[str, ...]) -> None:
    reading = read_expression(expression, PipelineConfig(), LEARNED, LEXICON)
    assert (reading.text, reading.new_words) == (text, new_words)


@pytest.mark.parametrize(("glossary", "new_words"), [("explain", ()), ("off", ("blick",))])
def test_a_learned_word_is_known_where_the_glossary_takes_part(
    glossary: str, new_words: tuple[str, ...]
) -> None:
    config = replace(PipelineConfig(), glossary=glossary)
    assert read_expression("the blick", config, LEARNED, LEXICON).new_words == new_words


def test_no_word_is_new_where_none_are_listed() -> None:
    assert read_expression("das rote auto", PipelineConfig(), Glossary(), Lexicon()).new_words == ()
