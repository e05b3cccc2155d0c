from __future__ import annotations

import pytest

from steerseg.errors import ExpressionError
from steerseg.reasoning import (
    PromptTexts,
    check_expression,
    confident_attributes,
    holds_attributes,
    parse_attributes,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            '{"attributes": ["dog", "grey and white", "on the left"], "reasons": "it stays"}',
            ("dog", "grey and white", "on the left"),
        ),
        ('Sure!\n```json\n{"attributes": ["cat", "small"]}\n```', ("cat", "small")),
        ('{"attributes": ["dog", "brown", "on the le', ("dog", "brown")),
        ("- a red car\n- turning left.\n", ("a red car", "turning left")),
        ("1. red\n2) small", ("red", "small")),
        ("red, small, moving left", ("red", "small", "moving left")),
        ('{"attributes": ["Dog", "dog", ""]}', ("Dog",)),
        ('{"attributes": [1, null, "red"]}', ("red",)),
        ("", ()),
        ("{}", ()),
        ('{"answer": 3}', ()),
    ],
)
def test_attributes_are_read_leniently(answer: str, expected: tuple[str, ...]) -> None:
    assert parse_attributes(answer) == expected


SAID = (
    ('{"attributes":', 1.0),
    (' ["', 1.0),
    ("high", 0.9),
    (" heel", 1.0),
    ('", "', 1.0),
    ("red", 0.8),
    ('", "', 1.0),
    ("still", 0.6),
    ('"]}', 0.1),
)


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0.0, ("high heel", "red", "still")),
        (0.4, ("high heel", "red", "still")),  # 0.9 * 0.8 * 0.6 = 0.432
        (0.5, ("high heel", "red")),
        (0.8, ("high heel",)),
        (0.95, ()),
    ],
)
def test_attributes_count_up_to_the_first_that_the_model_is_not_sure_of(
    least: float, expected: tuple[str, ...]
) -> None:
    attributes = parse_attributes("".join(text for text, _ in SAID))
    assert confident_attributes(attributes, SAID, least) == expected


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ('{"attributes": ["dog", "a \\"good\\" one"]', True),
        ('{"attributes": []', True),
        ('{"attributes": ["dog [brown]", "lef', False),
        ('{"attributes": ["dog", ', False),
        ("red, small", False),
    ],
)
def test_a_whole_list_of_attributes_is_all_that_is_wanted(answer: str, whole: bool) -> None:
    assert holds_attributes(answer) is whole


@pytest.mark.parametrize(
    "listed",
    [
        '["a \\"good\\" dog", "left"]',
        '["dog [brown]", "left"]',
        '["caf\\u00e9 sign"]',
        "[]",
        '["dog", "left",]',
    ],
)
@pytest.mark.parametrize("before", ["", "See [1]. "])
@pytest.mark.parametrize("after", [', "reasons": "x [y] {z}"}', ', "reasons": "cut off'])
def test_an_answer_that_ends_with_its_list_says_the_same(before: str, listed: str, after: str) -> None:
    answer = f'{before}{{"attributes": {listed}{after}'
    parts = [answer[:end] for end in range(len(answer) + 1)]
    complete = [part for part in parts if holds_attributes(part)]
    assert complete
    assert {parse_attributes(part) for part in complete} == {parse_attributes(answer)}


def test_an_answer_that_repeats_itself_is_soon_looked_through() -> None:
    assert not holds_attributes('{"attributes": [' + '"a" ' * 5000)


def test_an_attribute_that_is_written_otherwise_counts_with_all_that_follows() -> None:
    said = (('{"attributes": ["high ', 0.9), (" heel", 0.9), ('", "', 1.0), ("red", 0.5), ('"]}', 1.0))
    attributes = parse_attributes("".join(text for text, _ in said))
    assert attributes == ("high heel", "red")
    assert confident_attributes(attributes, said, 0.4) == attributes
    assert confident_attributes(attributes, said, 0.5) == ()


@pytest.mark.parametrize("expression", [None, "", "   \n\t", "x" * 10_000, 7])
def test_a_bad_expression_says_what_is_expected(expression: object) -> None:
    with pytest.raises(ExpressionError, match="expression"):
        check_expression(expression)  # type: ignore[arg-type]


def test_white_space_is_tidied() -> None:
    assert check_expression("  the  dog\n on the left ") == "the dog on the left"


def test_braces_in_an_expression_are_only_text() -> None:
    texts = PromptTexts()
    assert "{attributes}" in texts.grounding_question("the {attributes} dog", ("red",))
    assert '"attributes"' in texts.reasoning_question("dog")
