"""Whether an expression is of anything in the video: signals of a proposal, and their calibration.

The method as published always answers with a tracklet, since its maps always have a peak. Here a logistic regression
over signals that a proposal leaves anyway, and one look of the LVLM at what was found, says how likely it is that the
expression is of something there (our choice). It is fitted for one preset; others are not calibrated.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from steerseg.presence.calibration import Calibration
from steerseg.words.glossary import singular_of
from steerseg.words.learning import FUNCTION_WORDS, NUMBERS, Lexicon

_COLOURS = frozenset(
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "grey", "gray", "black")
)
_MOST_NATS = 8.0
_NEGATION = re.compile(
    r"\b(?:not|no|nothing|without|except|but|neither|nor|never|none|\w+n't)\b", re.IGNORECASE
)
_HEAD_ENDS = re.compile(
    r"\b(?:that|which|who|whose|to|from|with|of|on|in|at|for|by|near|next|beside|close|closest|nearest|left of|right of"
    r"|above|below|over|under|beneath|you|it|is|are|not|without|except|but)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_STILL = re.compile(r"\b(?:not|never) mov\w+|\b(?:does|do) not move\b", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """What the LVLM says that something is: phrases, its name first.

    Attributes:
        phrases: The phrases; empty where the answer holds none.
        certainty: The probability in [0, 1] that it gave the name; 0 without one.
    """

    phrases: tuple[str, ...] = ()
    certainty: float = 0.0

    @property
    def name(self) -> str:
        """The name; empty without one."""
        return self.phrases[0] if self.phrases else ""


UNSAID = Said()
"""Where the LVLM says nothing."""


@dataclass(frozen=True)
class PresenceSignals:
    """What tells whether an expression is of something in the video. Signs: above 0 speaks for it, below against it.

    Attributes:
        named: How surely what was found is called as the expression calls it, in [-1, 1]; 0 where the expression has
            no known noun.
        named_as_read: The same for the name that reasoning read the expression as.
        read: Whether reasoning read the expression as what its noun covers: 1 or -1; 0 without a known noun.
        coloured: -1 where what was found has another colour than the expression says, -0.7 where the LVLM names no
            colour of it; 0 where the colour is right, or none is asked for.
        expected: How much more likely the name of what was found is for the expression than for any other, in [-1, 1]:
            the log of the ratio in the LVLM's answers about a grey picture, divided by 8 nats and clipped.
        certainty: Probability in [0, 1] of the name that reasoning began with.
        known: Share in [0, 1] of the expression's words that the model was taught.
        nameless: 1 where the expression has no known noun, else 0.
        negated: 1 where the expression denies something other than motion, else 0.
        score: Rank score of the best candidate, in [-1, 1].
        agreement: Pearson correlation of the frame and the video map, in [-1, 1].
        predicted_iou: The segmenter's own estimate in [0, 1] for the best candidate's point.
        visible: Mean probability in [0, 1] that the best candidate is visible on the keyframes.
    """

    named: float
    named_as_read: float
    read: float
    coloured: float
    expected: float
    certainty: float
    known: float
    nameless: float
    negated: float
    score: float
    agreement: float
    predicted_iou: float
    visible: float


class PresenceCalibration(Calibration):
    """A logistic regression over :class:`PresenceSignals`; see :class:`steerseg.presence.calibration.Calibration`.

    Attributes:
        threshold: Least presence in [0, 1] of a proposal that is shown.
    """

    signals: ClassVar[type[PresenceSignals]] = PresenceSignals

    threshold: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class Presence:
    """How likely an expression is of something in the video.

    Attributes:
        value: The probability in [0, 1]; ``None`` where it was not judged, or the preset is not calibrated.
        refused: Whether it is below the preset's threshold, so that nothing is shown.
        found: What the LVLM calls the best candidate; empty where it was not asked.
        understood: Whether the models know all words of the expression, and it denies nothing.
        confidence: How likely the best candidate is what the expression means, in [0, 1]; ``None`` where the preset is
            not calibrated for it.
    """

    value: float | None = None
    refused: bool = False
    found: str = ""
    understood: bool = True
    confidence: float | None = None


NOT_JUDGED = Presence()
"""The presence where nothing judges it: nothing is refused."""


@dataclass(frozen=True)
class Look:
    """What was looked at beside the words of an expression.

    Attributes:
        read: What reasoning read the expression as.
        found: What the LVLM says that the best candidate is, seen alone.
        log_ratio: Of the probability of its name for the expression to that for any, about a grey picture, in nats.
        score: See :class:`PresenceSignals`; so for the others.
    """

    read: Said
    found: Said
    log_ratio: float
    score: float
    agreement: float
    predicted_iou: float
    visible: float


def signals_of(expression: str, look: Look, lexicon: Lexicon) -> PresenceSignals:
    """The signals of an expression and what was found for it.

    Args:
        expression: As the models read it.
        look: What was looked at.
        lexicon: The model's nouns and words.
    """
    noun = head_noun(expression, lexicon)
    asked = frozenset(lexicon.called.get(noun, ()))
    read = frozenset(lexicon.called.get(look.read.name, (look.read.name,) if look.read.name else ()))
    return PresenceSignals(
        named=_signed(look.found, asked),
        named_as_read=_signed(look.found, read),
        read=0.0 if not asked else 1.0 if look.read.name in asked or read & asked else -1.0,
        coloured=_coloured(expression, look.found),
        expected=min(max(look.log_ratio / _MOST_NATS, -1.0), 1.0),
        certainty=look.read.certainty,
        known=known_share(expression, lexicon),
        nameless=float(not asked),
        negated=float(is_negated(expression)),
        score=look.score,
        agreement=look.agreement,
        predicted_iou=look.predicted_iou,
        visible=look.visible,
    )


def head_noun(expression: str, lexicon: Lexicon) -> str:
    """The known noun that an expression is about, in the singular; empty where it begins with none.

    Example:
        >>> head_noun("the red dogs that chase a cat", Lexicon(called={"dog": ("dog",), "cat": ("cat",)}))
        'dog'
    """
    text = " ".join(_WORD.findall(expression.lower()))
    end = _HEAD_ENDS.search(text)
    words = (text[: end.start()] if end else text).split()
    if words[:1] == ["what"]:
        return ""
    nouns = lexicon.called.keys()
    for length in range(min(4, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = " ".join(words[start : start + length])
            if phrase in nouns:
                return phrase
            singular = singular_of(phrase)
            if singular in nouns:
                return singular
    return ""


def known_share(expression: str, lexicon: Lexicon) -> float:
    """The share in [0, 1] of an expression's words that the model was taught; 1 where its words are not known."""
    words = _WORD.findall(expression.lower())
    if not lexicon.words:
        return 1.0
    if not words:
        return 0.0
    taught = lexicon.words
    return sum(word in taught for word in words) / len(words)


def is_negated(expression: str) -> bool:
    """Whether an expression denies something; "not moving" denies nothing, since it says how an object behaves."""
    return _NEGATION.search(_STILL.sub("", expression)) is not None


def names_nothing(expression: str, lexicon: Lexicon) -> bool:
    """Whether an expression only says how something moves, where it is, or how it compares.

    What was found has a name and a colour, which can be held against those of an expression. Where it has neither, low
    signals say that the models are unsure, and not that nothing is there.

    Example:
        >>> words = Lexicon(called={"dog": ("dog",)}, manner=frozenset({"goes", "away", "comes"}))
        >>> names_nothing("the one that goes away and comes back", words)
        True
        >>> names_nothing("the dog that goes away", words)
        False
    """
    words = frozenset(_WORD.findall(expression.lower()))
    told = FUNCTION_WORDS | NUMBERS.keys() | lexicon.manner
    if not words & lexicon.manner or not words <= told:
        return False
    return not is_negated(expression) and not head_noun(expression, lexicon)


def names_no_kind(expression: str, lexicon: Lexicon) -> bool:
    """Whether an expression says of what it means only what :func:`names_nothing` lists, and colours.

    Example:
        >>> words = Lexicon(called={"dog": ("dog",)}, manner=frozenset({"thing", "moves"}))
        >>> names_no_kind("the red thing that moves", words)
        True
        >>> names_no_kind("the red dog that moves", words)
        False
    """
    words = _WORD.findall(expression.lower())
    return names_nothing(" ".join(word for word in words if word not in _COLOURS), lexicon)


def _signed(said: Said, meant: Collection[str]) -> float:
    """The certainty of a name, above 0 where it is meant and below 0 where it is not; 0 where nothing is meant."""
    if not meant or not said.name:
        return 0.0
    return said.certainty if said.name in meant else -said.certainty


def _coloured(expression: str, found: Said) -> float:
    asked = {word for word in _WORD.findall(expression.lower()) if word in _COLOURS}
    shown = {word for phrase in found.phrases[1:] for word in phrase.lower().split() if word in _COLOURS}
    if not asked or asked & shown:
        return 0.0
    return -1.0 if shown else -0.7
