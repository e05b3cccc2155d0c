from __future__ import annotations

import pytest

from steerseg.errors import ConfigError, ExpressionError
from steerseg.reasoning import PromptTexts, check_expression


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


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("reasoning", 'Answer with JSON: {"attributes": [] about {expression}'),
        ("reasoning", "What is {expresion}?"),
        ("reasoning", "What is {}?"),
        ("reasoning", "What is {expression.colour}?"),
        ("reasoning", "{expression} of {attributes}?"),
        ("grounding", "{expression} } {attributes}"),
        ("grounding_without_attributes", "{expression} {attributes}"),
    ],
)
def test_a_question_that_cannot_be_filled_in_is_an_error(name: str, question: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"the question '{name}' cannot be filled in .* it takes \{{expression"
    ):
        PromptTexts(**{name: question})


def test_doubled_braces_of_a_question_are_read_as_braces() -> None:
    texts = PromptTexts(reasoning='{expression}: {{"attributes": []}}')
    assert texts.reasoning_question("the dog") == 'the dog: {"attributes": []}'
