"""Plain wording: the request around an expression is left out, and slips of the pen are mended, before models read it.

The method as published has no such step (our choice). Annotators type "pls track the dog" or "where's that car going";
expressions of referring datasets, which models and soft prompts are trained on, are "the dog" and "the car".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from steerseg.words.learning import FUNCTION_WORDS

_POLITE = r"(?:please|pls|plz|plss|kindly|thanks|thank you|thx|ty|cheers|hey|hi|hello|ok|okay|so|um|uh|now|just|well)"
_ASK = (
    r"(?:(?:can|could|would|will|may) (?:you|u|i|we)(?: (?:please|pls|plz|maybe|quickly|just))?"
    r"|i(?:'d| would) like(?: you)?|i (?:want|need)(?: you)?|we (?:want|need)"
    r"|let'?s|help me(?: to)?|try to|your task is to|go and)"
)
_VERB = (
    r"(?:track|find|segment|select|follow|highlight|annotate|locate|detect|identify|show(?: me| us)|look (?:for|at)"
    r"|search for|focus on|keep (?:track of|an eye on)|point(?: to| at))"
    r"(?!\s+(?:on|in|at|of|by|near|next|with|which)\b)"
)
_VERB_OR_NOUN = (
    r"(?:mark|label|outline|mask|show|pick(?: out)?|get|give(?: me| us)?|see|have|spot|trace|tag|cut out|watch|draw"
    r"|box|grab|catch|paint)(?=\s+(?:the|a|an|that|this|these|those|all|every|each|both|me|us|my|our|out|where|what"
    r"|something|anything|one|two|three|four|five)\b)"
)
_WHERE = r"(?:where(?:'?s| is| are|'?re)|which (?:one )?(?:is|are)|what(?:'?s| is| are)|who(?:'?s| is))"
_BEGINNINGS = tuple(
    re.compile(rf"^{pattern}(?=\W|$)[\s,:;!-]*", re.IGNORECASE)
    for pattern in (
        _POLITE,
        rf"{_ASK}(?: to)?",
        rf"(?:to )?(?:only )?(?:{_VERB}|{_VERB_OR_NOUN})(?: (?:me|us))?(?: (?:where|only|out|down))?",
        r"(?:do|can|did) (?:you|u) see",
        r"(?:is|are) there",
        r"there(?:'s| is| are)",
        _WHERE,
        r"(?:(?:the|a|an) )?(?:mask|outline|position|track|location|movement|path)s? (?:of|for)",
    )
)
_QUESTION = re.compile(
    rf"^(?:\W*(?:{_POLITE}|show me|show|track|find|see|tell me)\W+)*(?:{_WHERE}|where"
    r"|(?:do|can|did) (?:you|u) see|(?:is|are) there)\b",
    re.IGNORECASE,
)
_ENDS = tuple(
    re.compile(rf"[\s,;:-]+{pattern}\s*$", re.IGNORECASE)
    for pattern in (
        _POLITE,
        r"(?:for|4) me",
        r"if (?:you|u) can",
        r"(?:if )?possible",
        r"(?:and )?(?:track|follow|mark|segment|select) (?:it|them|that)",
        r"(?:through(?:out)?|over|in|during|for) the (?:whole |entire )?(?:video|clip|film|movie|footage|scene)",
        r"in (?:here|all frames|every frame|this(?: (?:video|clip|film|movie|footage|scene))?)",
        r"(?:right )?(?:there|here)",
    )
)
_ENDS_OF_QUESTIONS = re.compile(
    r"\s+(?:(?:going|heading|moving|headed|driving|walking|running|flying)(?: to)?|goes|doing|is|are|at|up to)\s*$",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\s(?:that|which|who)\s", re.IGNORECASE)
_POINTING = re.compile(r"^(?:that|this|my|our|ur|your|teh|hte)\s+(?=\w)", re.IGNORECASE)
_POINTING_AT_SEVERAL = re.compile(r"^(?:those|these)\s+(?=\w)", re.IGNORECASE)
_BEHAVIOUR = re.compile(r"\w+ing(?=\s|$)", re.IGNORECASE)
_MARKS = ".?!,;:… "
_CHAT = {
    "u": "you",
    "r": "are",
    "da": "the",
    "teh": "the",
    "hte": "the",
    "tha": "the",
    "th": "the",
    "wich": "which",
    "thats": "that is",
}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SHORTEST = 5
_SHORTEST_REPLACED = 6


def plain_wording(expression: str) -> str:
    """The object of a request: without politeness, the verb of the request, or the question around it.

    An expression with nothing of the kind comes back as it is, and so does one of which nothing would be left.

    Args:
        expression: The annotator's text, white space tidied.

    Example:
        >>> plain_wording("pls track the dog")
        'the dog'
        >>> plain_wording("where's that car going?")
        'the car'
    """
    text = expression.replace("’", "'").strip(_MARKS)
    asks = _QUESTION.match(text) is not None
    text = _stripped(text, asks=asks)
    if not text:
        return expression
    if asks and _BEHAVIOUR.match(text):
        text = f"the one that is {text}"
    text = _POINTING_AT_SEVERAL.sub("the ", _POINTING.sub("the ", text))
    return expression if text == expression.replace("’", "'").strip(_MARKS) else text


def _stripped(text: str, *, asks: bool) -> str:
    """The text without what stands around the object; empty where that is all."""
    while True:
        shorter = text
        for beginning in _BEGINNINGS:
            shorter = beginning.sub("", shorter, count=1)
        for end in _ENDS:
            shorter = end.sub("", shorter).strip(_MARKS)
        if asks and not _RELATIVE.search(shorter):  # "that starts moving" tells the object apart
            shorter = _ENDS_OF_QUESTIONS.sub("", shorter).strip(_MARKS)
        if shorter == text:
            return text
        text = shorter


def mend_spelling(expression: str, vocabulary: Collection[str]) -> str:
    """The text with words that are one slip away from a single known word put right.

    A slip is two letters swapped, a letter too many or one too few; in longer words, a letter that is another one.
    Words that are known, or that are near to several known ones, stay as they are.

    Args:
        expression: The text.
        vocabulary: The known words in lower case; nothing is mended where there are none.

    Example:
        >>> mend_spelling("the umberlla", ("the", "umbrella"))
        'the umbrella'
    """
    if not vocabulary:
        return expression
    known = frozenset(vocabulary)
    return _WORD.sub(lambda match: _mended(match[0], known), expression)


@lru_cache(maxsize=4096)
def _mended(word: str, known: frozenset[str]) -> str:
    lower = word.lower()
    if lower in known:
        return word
    if lower in _CHAT and known.issuperset(_CHAT[lower].split()):
        return _CHAT[lower]
    if not lower.isascii():
        return word
    if lower in FUNCTION_WORDS:
        return word
    for slips in (_swapped(lower), _resized(lower, known), _replaced(lower)):
        meant = slips & known
        if meant:
            return meant.pop() if len(meant) == 1 else word
    return word


def _swapped(word: str) -> set[str]:
    if len(word) < 3:
        return set()
    return {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}


def _resized(word: str, known: Collection[str]) -> set[str]:
    if len(word) < _SHORTEST:
        return set()
    shorter = {word[:i] + word[i + 1 :] for i in range(len(word))}
    longer = {word[:i] + letter + word[i:] for i in range(len(word) + 1) for letter in _LETTERS}
    return {slip for slip in shorter | longer if len(slip) >= _SHORTEST - 1}


def _replaced(word: str) -> set[str]:
    if len(word) < _SHORTEST_REPLACED:
        return set()
    return {word[:i] + letter + word[i + 1 :] for i in range(len(word)) for letter in _LETTERS}


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
