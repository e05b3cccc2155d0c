"""Expression -> attributes: one chain-of-thought step of the frozen LVLM, with no soft prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from steerseg.errors import ExpressionError

if TYPE_CHECKING:  # a server checks expressions and reads presets without loading torch
    from steerseg.config import PipelineConfig
    from steerseg.lvlm.base import LVLM, VisionFeatures
    from steerseg.lvlm.prefix import PrefixSlot

MAX_EXPRESSION_LENGTH = 1000
MAX_ATTRIBUTES = 8
MAX_ATTRIBUTE_LENGTH = 80


@dataclass(frozen=True)
class PromptTexts:
    """The two questions, as templates. A preset may bring its own.

    Attributes:
        reasoning: Asks for attributes; ``{expression}`` is filled in.
        grounding: Asks for the main object given ``{expression}`` and ``{attributes}``.
        grounding_without_attributes: The same where there are none.
    """

    reasoning: str = (
        "The following expression refers to something in this video.\n"
        'Expression: "{expression}"\n'
        "Think about which object it is, then name short visual attributes that tell it apart from everything "
        "else in the video: what it is, its colour or appearance, its position, its motion.\n"
        'Answer with JSON only: {{"attributes": ["...", "..."], "reasons": "..."}}'
    )
    grounding: str = (
        'Expression: "{expression}"\n'
        "Attributes: {attributes}\n"
        "What is the main object mentioned in the given expression using the attributes above?"
    )
    grounding_without_attributes: str = (
        'Expression: "{expression}"\nWhat is the main object mentioned in the given expression?'
    )

    def reasoning_question(self, expression: str) -> str:
        """The chain-of-thought question."""
        return self.reasoning.format(expression=expression)

    def grounding_question(self, expression: str, attributes: tuple[str, ...]) -> str:
        """The grounding question; its answer is where attention is read."""
        if not attributes:
            return self.grounding_without_attributes.format(expression=expression)
        return self.grounding.format(expression=expression, attributes=", ".join(attributes))


def check_expression(expression: str | None) -> str:
    """Return the expression with its white space tidied.

    Raises:
        ExpressionError: It is missing, not text, empty, or longer than 1 000 characters.
    """
    if expression is None:
        raise ExpressionError(
            "no expression was given; say what to track, for example 'the dog on the left'."
        )
    if not isinstance(expression, str):
        raise ExpressionError(f"the expression must be text, not {type(expression).__name__}.")
    tidy = " ".join(expression.split())
    if not tidy:
        raise ExpressionError(
            "the expression is empty; say what to track, for example 'the dog on the left'."
        )
    if len(tidy) > MAX_EXPRESSION_LENGTH:
        raise ExpressionError(
            f"the expression has {len(tidy)} characters; at most {MAX_EXPRESSION_LENGTH} are read. "
            "Shorten it to what tells the object apart."
        )
    return tidy


def _clean(items: list[str]) -> tuple[str, ...]:
    """Tidied phrases, each once whatever its case, at most :data:`MAX_ATTRIBUTES`."""
    unique: dict[str, str] = {}
    for item in items:
        text = " ".join(item.split()).strip(" .,;:-*\"'`")
        if any(letter.isalnum() for letter in text) and len(text) <= MAX_ATTRIBUTE_LENGTH:
            unique.setdefault(text.lower(), text)
    return tuple(unique.values())[:MAX_ATTRIBUTES]


# Each position of an answer is matched in one way only: a long answer that repeats itself costs no backtracking.
_WHOLE_LIST = re.compile(r'"attributes"\s*:\s*(\[\s*(?:"(?:[^"\\]|\\.)*"\s*(?:,\s*)?)*\])')


def parse_attributes(answer: str) -> tuple[str, ...]:
    """Read attributes leniently: JSON, a cut-off JSON list, bullets, or plain text. Nothing usable gives ``()``."""
    whole_object = re.search(r"\{.*\}", answer, flags=re.DOTALL)
    if whole_object:
        try:
            value = json.loads(whole_object.group(0))
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("attributes"), list):
            return _clean([item for item in value["attributes"] if isinstance(item, str)])
    whole_list = _WHOLE_LIST.search(answer)
    if whole_list:  # an answer that ended with its list, or went wrong after it
        try:
            return _clean(json.loads(whole_list.group(1)))
        except json.JSONDecodeError:
            pass  # a comma too many or too few; its strings still count
    cut_list = re.search(r"\[(.*)", answer, flags=re.DOTALL)
    if cut_list:
        # An answer that ran into the length limit has no closing bracket; its complete strings still count.
        return _clean(re.findall(r"\"([^\"]+)\"", cut_list.group(1).partition("]")[0]))
    bullets = re.findall(r"^\s*(?:[-*•]|\d+[.)])\s+(.+)$", answer, flags=re.MULTILINE)
    if bullets:
        return _clean(bullets)
    plain = answer.strip()
    if not plain or any(sign in plain for sign in "{}[]"):
        return ()
    return _clean(re.split(r"[,;\n]", plain.removeprefix("Attributes:")))


def holds_attributes(answer: str) -> bool:
    """Whether the list of attributes is complete; the rest of an answer is not read."""
    return _WHOLE_LIST.search(answer) is not None


def confident_attributes(
    attributes: Sequence[str], tokens: Sequence[tuple[str, float]], least: float
) -> tuple[str, ...]:
    """The attributes that the model is sure of, up to the first that it is not.

    An attribute is said on top of those before it, so what counts is the probability of all of them together.

    Args:
        attributes: As read from the answer, in its order.
        tokens: The answer's tokens, as text, each with the probability in [0, 1] that the model gave it.
        least: Least probability of an attribute and all before it.
    """
    answer = "".join(text for text, _ in tokens)
    ends = list(accumulate(len(text) for text, _ in tokens))
    probability, position = 1.0, 0
    for index, attribute in enumerate(attributes):
        start = answer.find(attribute, position)
        if start < 0:  # written otherwise in the answer, which then counts up to its end
            start, position = position, len(answer)
        else:
            position = start + len(attribute)
        for (text, of_token), end in zip(tokens, ends, strict=True):
            if end > start and end - len(text) < position:
                probability *= of_token
        if probability < least:
            return tuple(attributes[:index])
    return tuple(attributes)


def attributes_of(
    lvlm: LVLM,
    video: VisionFeatures,
    expression: str,
    texts: PromptTexts,
    config: PipelineConfig,
    *,
    prefix: PrefixSlot | None = None,
) -> tuple[str, ...]:
    """Ask the frozen model for what tells the object apart (chain-of-thought step of the paper).

    Args:
        lvlm: The frozen model.
        video: The keyframes as one video, as its vision tower encoded them.
        expression: The annotator's text.
        texts: The questions.
        config: Length limit of the answer, and the least confidence of an attribute.
        prefix: Keeps what does not depend on the expression; nothing is kept where left out.

    Returns:
        At most eight short phrases; empty where the answer holds none that the model is sure of.
    """
    answer = lvlm.answer(
        texts.reasoning_question(expression),
        video,
        max_new_tokens=config.max_new_tokens,
        prefix=prefix,
        complete=holds_attributes,
    )
    return confident_attributes(parse_attributes(answer.text), answer.tokens, config.attribute_confidence)
