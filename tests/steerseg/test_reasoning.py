from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerseg.config import PipelineConfig
from steerseg.errors import ConfigError, ExpressionError
from steerseg.lvlm.answer import Answer
from steerseg.lvlm.base import LVLM
from steerseg.reasoning import PromptTexts, check_expression, reason_about


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


def test_two_steps_ask_when_and_where_and_keep_the_attributes_of_both(tiny_lvlm: LVLM) -> None:
    frames = torch.randint(0, 256, (4, 3, 28, 56), dtype=torch.uint8)
    video = tiny_lvlm.encode_vision(frames, "video", seconds_per_slice=1.0)
    texts, config = PromptTexts(), PipelineConfig(max_new_tokens=4, reasoning_steps=2)
    said = {
        "{attributes}": '{"attributes": ["a dog", "grey"]}',
        "when": '{"attributes": ["grey", "leaves early"]}',
    }
    asked: list[str] = []
    answer = tiny_lvlm.answer

    def listen(question: str, *args: Any, **options: Any) -> Answer:
        asked.append(question)
        real = answer(question, *args, **options)  # the chat of both questions goes through the model
        text = said["when" if "when is it seen" in question else "{attributes}"]
        return Answer(text, real.tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_lvlm, "answer", listen)
        reasoning = reason_about(tiny_lvlm, video, "the dog", texts, config)
        one_step = reason_about(tiny_lvlm, video, "the dog", texts, replace(config, reasoning_steps=1))
    assert reasoning.attributes == ("a dog", "grey", "leaves early")
    assert reasoning.said.phrases == one_step.attributes == ("a dog", "grey")
    assert asked[:2] == [
        texts.reasoning_question("the dog"),
        texts.whereabouts_question("the dog", ("a dog", "grey")),
    ]
    assert len(asked) == 3


def test_there_are_one_or_two_steps() -> None:
    with pytest.raises(ConfigError, match="reasoning_steps is 3"):
        PipelineConfig(reasoning_steps=3)
    with pytest.raises(ConfigError, match="added_keyframes is -1"):
        PipelineConfig(added_keyframes=-1)
