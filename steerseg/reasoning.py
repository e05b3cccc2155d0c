"""Expression -> attributes: one chain-of-thought step of the frozen LVLM, with no soft prompt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from steerseg.errors import ConfigError, ExpressionError
from steerseg.presence.signals import UNSAID, Said
from steerseg.runtime.lru import LruCache
from steerseg.words.attributes import (
    MAX_ATTRIBUTES,
    confident_attributes,
    holds_attributes,
    parse_attributes,
    probabilities,
)

if TYPE_CHECKING:  # a server checks expressions and reads presets without loading torch
    from steerseg.config import ExpressionForm, PipelineConfig
    from steerseg.keyframes import VideoFeatures
    from steerseg.lvlm.answer import Answer
    from steerseg.lvlm.base import LVLM
    from steerseg.lvlm.prefix import PrefixSlot
    from steerseg.lvlm.vision import VisionFeatures

MAX_EXPRESSION_LENGTH = 1000

_MOST_KEPT = 64  # chains of thought, a few hundred bytes each

_GROUP_SIZES = (4, 2)
"""Chains of thought that are decoded at a time."""


@dataclass(frozen=True)
class PromptTexts:
    """The questions, as templates. A preset may bring its own.

    Braces of the text itself are doubled. A question is plain text: special tokens in it are read as text.

    Attributes:
        reasoning: Asks for attributes; ``{expression}`` is filled in.
        whereabouts: The second step of two: asks when and where what may be meant is seen, given ``{expression}`` and
            ``{attributes}`` (our choice).
        grounding: Asks for the main object given ``{expression}`` and ``{attributes}``.
        grounding_without_attributes: The same where there are none.
        background: Asks for what is not the object of ``{expression}``, for maps without the background.
        naming: Asks what the one object of a cut-out is: its name, then its kinds (our choice).
        localisation: Asks where the object is, given ``{expression}``, ``{attributes}`` and the number ``{moments}`` of
            slices of the video pass (our choice).
        localisation_without_attributes: The same where there are none.
        verification: Asks whether each of ``{count}`` numbered objects is that of ``{expression}`` (our choice).

    Raises:
        ConfigError: A question cannot be filled in.
    """

    reasoning: str = (
        "The following expression refers to something in this video.\n"
        'Expression: "{expression}"\n'
        "Think about which object it is, then name short visual attributes that tell it apart from everything "
        "else in the video: what it is, its colour or appearance, its position, its motion.\n"
        'Answer with JSON only: {{"attributes": ["...", "..."], "reasons": "..."}}'
    )
    whereabouts: str = (
        'Expression: "{expression}"\n'
        "Attributes: {attributes}\n"
        "Go through every object in this video that may be meant: when is it seen, and where? Decide which one the "
        "expression means. Then name short phrases for when and where that one is seen, such as its side of the "
        "picture, what it is next to, and whether it comes, goes or stays.\n"
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
    background: str = (
        'Expression: "{expression}"\n'
        "Describe the background of this video in a few words, without what the given expression mentions."
    )
    naming: str = (
        "This video shows one object, cut out of another video.\n"
        "Say what it is: first its plain name, then what kind of thing it is, from narrow to wide, each in one or "
        "two words.\n"
        'Answer with JSON only: {{"attributes": ["...", "...", "..."]}}'
    )
    localisation: str = (
        'Expression: "{expression}"\n'
        "Attributes: {attributes}\n"
        "Where is the object mentioned in the given expression at {moments} moments, evenly spread from the first to "
        "the last frame?\n"
        "Answer with JSON only: {moments} centres as percentages of width and height, null where it is hidden, for "
        "example [[10, 35], null]"
    )
    localisation_without_attributes: str = (
        'Expression: "{expression}"\n'
        "Where is the object mentioned in the given expression at {moments} moments, evenly spread from the first to "
        "the last frame?\n"
        "Answer with JSON only: {moments} centres as percentages of width and height, null where it is hidden, for "
        "example [[10, 35], null]"
    )
    verification: str = (
        "In this video {count} objects are outlined and numbered from 1.\n"
        'Expression: "{expression}"\n'
        "Decide for each number whether that object is the one that the expression means: accept it, reject it, or "
        "doubt it where you cannot tell. Compare their look, position and motion. Say why in a few words.\n"
        'Answer with JSON only: {{"1": {{"verdict": "accept, doubt or reject", "reason": "..."}}, ...}}'
    )

    def __post_init__(self) -> None:
        """Fill each question in once, so that a mistake shows before the first video."""
        for field in fields(self):
            given: dict[str, Any] = {} if field.name == "naming" else {"expression": ""}
            given |= {"attributes": ""} if field.name in ("grounding", "whereabouts", "localisation") else {}
            given |= {"count": ""} if field.name == "verification" else {}
            given |= {"moments": 1} if field.name.startswith("localisation") else {}
            try:
                getattr(self, field.name).format(**given)
            except (AttributeError, IndexError, KeyError, ValueError) as error:
                known = " and ".join(f"{{{name}}}" for name in given)
                raise ConfigError(
                    f"the question {field.name!r} cannot be filled in ({type(error).__name__}: {error}); it takes "
                    f"{known}. Write {{{{ and }}}} for braces that the model shall read."
                ) from None

    def reasoning_question(self, expression: str) -> str:
        """The chain-of-thought question."""
        return self.reasoning.format(expression=expression)

    def whereabouts_question(self, expression: str, attributes: tuple[str, ...]) -> str:
        """The second question of a chain of thought in two steps."""
        return self.whereabouts.format(expression=expression, attributes=", ".join(attributes) or "unknown")

    def grounding_question(self, expression: str, attributes: tuple[str, ...]) -> str:
        """The grounding question; its answer is where attention is read."""
        if not attributes:
            return self.grounding_without_attributes.format(expression=expression)
        return self.grounding.format(expression=expression, attributes=", ".join(attributes))

    def localisation_question(self, expression: str, attributes: tuple[str, ...], moments: int) -> str:
        """The question where the object is."""
        if not attributes:
            return self.localisation_without_attributes.format(expression=expression, moments=moments)
        return self.localisation.format(
            expression=expression, attributes=", ".join(attributes), moments=moments
        )

    def naming_question(self) -> str:
        """The question about a cut-out."""
        return self.naming.format()

    def verification_question(self, expression: str, count: int) -> str:
        """The question about ``count`` candidates that are outlined and numbered."""
        return self.verification.format(expression=expression, count=count)

    def background_question(self, expression: str) -> str:
        """The question whose attention is taken away from that of the grounding question."""
        return self.background.format(expression=expression)

    def described(self, *, background: bool) -> dict[str, str]:
        """The questions of every proposal by name; that about the background only where it is asked."""
        asked = {"reasoning", "grounding", "grounding_without_attributes"} | (
            {"background"} if background else set()
        )
        return {name: text for name, text in asdict(self).items() if name in asked}


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


def expression_as(form: ExpressionForm, expression: str) -> str:
    """The expression as questions hold it; see :class:`steerseg.config.PipelineConfig`."""
    if form == "typed":
        return expression
    return expression.lower() + ("" if expression.endswith(("?", ".")) else ".")


@dataclass(frozen=True)
class Reasoning:
    """The result of the chain-of-thought step.

    Attributes:
        attributes: At most eight short phrases; empty where the answer holds none that the model is sure of.
        said: All phrases of the answer, sure or not.
    """

    attributes: tuple[str, ...] = ()
    said: Said = UNSAID


def said_by(phrases: tuple[str, ...], tokens: Sequence[tuple[str, float]]) -> Said:
    """Phrases of an answer, with the probability of the first.

    Args:
        phrases: As read from the answer, in its order.
        tokens: The answer's tokens, each with its probability in [0, 1].
    """
    return Said(phrases, next(iter(probabilities(phrases[:1], tokens)), 0.0))


def attributes_of(
    lvlm: LVLM,
    video: VisionFeatures,
    expression: str,
    texts: PromptTexts,
    config: PipelineConfig,
    *,
    prefix: PrefixSlot | None = None,
) -> tuple[str, ...]:
    """The attributes of :func:`reason_about` alone."""
    return reason_about(lvlm, video, expression, texts, config, prefix=prefix).attributes


def reason_about(
    lvlm: LVLM,
    video: VisionFeatures,
    expression: str,
    texts: PromptTexts,
    config: PipelineConfig,
    *,
    prefix: PrefixSlot | None = None,
) -> Reasoning:
    """Ask the frozen model for what tells the object apart (chain-of-thought step of the paper).

    Args:
        lvlm: The frozen model.
        video: The keyframes as one video, as its vision tower encoded them.
        expression: The annotator's text.
        texts: The questions.
        config: One step or two, length limit of each answer, and the least confidence of an attribute.
        prefix: Keeps what does not depend on the expression; nothing is kept where left out.
    """

    def ask(questions: Sequence[str]) -> list[Answer]:
        return [
            lvlm.answer(
                question,
                video,
                max_new_tokens=config.max_new_tokens,
                prefix=prefix,
                complete=holds_attributes,
            )
            for question in questions
        ]

    return _reasonings([expression], ask, texts, config)[0]


class ReasoningMemory:
    """Chains of thought that were decoded: by an earlier proposal, or several together ahead of theirs."""

    def __init__(self) -> None:
        self._kept: LruCache[Hashable, Reasoning] = LruCache(_MOST_KEPT)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def recall(
        self,
        features: VideoFeatures,
        expression: str,
        texts: PromptTexts,
        config: PipelineConfig,
        reason: Callable[[], Reasoning],
    ) -> Reasoning:
        """The chain of thought about an expression, by ``reason`` where it is not known.

        Args:
            features: Of the video.
            expression: As the models read it.
            texts: The questions.
            config: Of the proposal.
            reason: Decodes it.
        """
        key = _key_of(features, expression, texts, config)
        if key is None:
            return reason()
        known = self._kept.get(key)
        if known is None:
            known = reason()
            self._kept.put(key, known)
        return known

    def decode_ahead(
        self,
        lvlm: LVLM,
        asked: Iterable[tuple[VideoFeatures, str]],
        texts: PromptTexts,
        config: PipelineConfig,
    ) -> None:
        """Decode chains of thought together: two or four, as of so many a step is captured. The others are left.

        Nothing is done where that of the first is known.

        Args:
            lvlm: The frozen model.
            asked: Features of each video, and the expression as the models read it; made as they are needed.
            texts: The questions.
            config: Of all proposals, but for what comes after the reasoning.
        """
        unknown: dict[Hashable, tuple[VideoFeatures, str]] = {}
        for features, expression in itertools.islice(asked, max(_GROUP_SIZES)):
            key = _key_of(features, expression, texts, config)
            if key is not None and key not in self._kept:
                unknown[key] = (features, expression)
            elif not unknown:
                return
        count = max((count for count in _GROUP_SIZES if count <= len(unknown)), default=0)
        if not count:
            return
        group = dict(itertools.islice(unknown.items(), count))

        def ask(questions: Sequence[str]) -> list[Answer]:
            return lvlm.answer_together(
                [
                    (question, features.context.video, features.question_slot)
                    for question, (features, _) in zip(questions, group.values(), strict=True)
                ],
                max_new_tokens=config.max_new_tokens,
                complete=holds_attributes,
            )

        found = _reasonings([expression for _, expression in group.values()], ask, texts, config)
        for key, reasoning in zip(group, found, strict=True):
            self._kept.put(key, reasoning)


def _key_of(
    features: VideoFeatures, expression: str, texts: PromptTexts, config: PipelineConfig
) -> Hashable | None:
    """What a chain of thought depends on; ``None`` where features are not kept, or nothing is reasoned."""
    if features.prefixes is None or not config.reasoning:
        return None
    limits = config.reasoning_steps, config.max_new_tokens, config.attribute_confidence
    return features.prefixes.video, expression, texts, limits, config.expression_form


def _reasonings(
    expressions: Sequence[str],
    ask: Callable[[Sequence[str]], list[Answer]],
    texts: PromptTexts,
    config: PipelineConfig,
) -> list[Reasoning]:
    """The chain of thought about each expression, where ``ask`` answers a question about each."""
    asked = [expression_as(config.expression_form, expression) for expression in expressions]
    firsts = [_heard(answer, config) for answer in ask([texts.reasoning_question(each) for each in asked])]
    if config.reasoning_steps == 1:
        return firsts
    pairs = list(zip(asked, firsts, strict=True))
    answers = ask([texts.whereabouts_question(each, first.attributes) for each, first in pairs])
    both = [
        tuple(dict.fromkeys((*first.attributes, *_heard(answer, config).attributes)))
        for first, answer in zip(firsts, answers, strict=True)
    ]
    return [
        replace(first, attributes=attributes[:MAX_ATTRIBUTES])
        for first, attributes in zip(firsts, both, strict=True)
    ]


def _heard(answer: Answer, config: PipelineConfig) -> Reasoning:
    phrases = parse_attributes(answer.text)
    return Reasoning(
        confident_attributes(phrases, answer.tokens, config.attribute_confidence),
        said_by(phrases, answer.tokens),
    )
