"""Attributes out of a model's answer, whatever form it has, and how sure the model is of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from steerseg.words.lenient_json import OPENING, QUOTES, Reading, Value, read_value, skip_separators

MAX_ATTRIBUTES = 8
MAX_ATTRIBUTE_LENGTH = 80

_FENCE = re.compile(r"```\w*")
_KEY = re.compile(r"(?:attributes|属性)[\"'“”‘’」*]*\s*[:：][\s*]*", re.IGNORECASE)
_COLON = re.compile(r"\s*[:：]")
_SEPARATORS = re.compile(r"[,;\n，、；]")
_REASONS = re.compile(
    r"^[\W\d_]*(?:reasons?|reasoning|explanation)\b|\b(?:reasons?|reasoning|explanation)\**\s*[:：]|(?:原因|理由)\W*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
_BULLET = re.compile(r"^\s*(?:[-*•–]\s+|\d+(?:[.)]\s+|、\s*))(.+)$", re.MULTILINE)
_LABEL = re.compile(r"([^:：]{1,40}?)\s*(?::\s+|：\s*)(.+)")
_EXPLANATION_WORDS = 6
_SURROUNDING = " .,;:-*_\"'`“”‘’「」『』，。、；："

# What a phrase is about, as labels before phrases and keys of objects say it.
# fmt: off
_KINDS = frozenset(
    {
        "colour", "color", "appearance", "position", "location", "place", "motion", "movement", "action",
        "activity", "size", "shape", "type", "kind", "category", "class", "object", "name", "identity",
        "texture", "clothing", "pose", "orientation", "direction", "speed", "material", "pattern", "state",
        "attribute", "what", "it", "is", "颜色", "外观", "位置", "动作", "运动", "类别", "物体", "大小", "形状",
    }
)
# fmt: on
# Keys of an object that stands for one phrase: the first of them that is there holds the phrase.
_PHRASE_KEYS = ("value", "description", "phrase", "text", "detail", "details", "label")
# fmt: off
_OTHER_KEYS = frozenset(
    {
        "reason", "reasons", "reasoning", "explanation", "confidence", "score", "bbox", "bbox_2d", "box",
        "point", "point_2d", "time", "start", "end",
    }
)
# fmt: on
_NOTHING = frozenset(
    {
        "none",
        "n/a",
        "na",
        "null",
        "unknown",
        "unclear",
        "not applicable",
        "not visible",
        "not specified",
        "无",
        "未知",
    }
)
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am|we are) (?:so |very )?(?:sorry|unable to|not able to|not sure)|(?:so |very )?sorry\b"
    r"|unable to (?:see|view|find|tell|name|determine|identify|process)"
    r"|i (?:cannot|can['’]t|can not|could not|couldn['’]t|do not|don['’]t|apologi[sz]e)|unfortunately|as an ai"
    r"|my apologies|it is (?:not possible|impossible)|there (?:is|are) no\b|there['’]s no\b|no such\b"
    r"|no (?:object|video|image|frame)s?\b"
    r"|(?:the|this) (?:video|image|expression) (?:does not|doesn['’]t|is not|isn['’]t|cannot)"
    r"|(?:很|非常)?抱歉|对不起|(?:我)?(?:无法|不能)|视频中没有)",
    re.IGNORECASE,
)


def parse_attributes(answer: str) -> tuple[str, ...]:
    """Read attributes leniently: JSON and what is almost JSON, cut off or not, bullets, or plain text.

    Reasons, boxes, labels such as "Colour:" and refusals are no attributes.

    Returns:
        At most :data:`MAX_ATTRIBUTES` phrases; none where the answer holds nothing usable.
    """
    text = _FENCE.sub(" ", answer)
    named = _named_value(text)
    if named is not None:
        return _clean(_phrases(named.value))
    if _REFUSAL.match(text):
        return ()
    headings = list(_KEY.finditer(text))
    text = _REASONS.split(text[headings[0].end() :] if headings else text, maxsplit=1)[0]
    for value in _structures(text):
        if phrases := _clean(_phrases(value)):
            return phrases
    bullets = _BULLET.findall(text)
    if bullets:
        return _clean(bullets)
    return () if any(sign in text for sign in "{}[]") else _clean(_SEPARATORS.split(text))


def holds_attributes(answer: str) -> bool:
    """Whether the list of attributes is complete; the rest of an answer is not read."""
    named = _named_value(_FENCE.sub(" ", answer))
    return named is not None and named.whole


def _named_value(text: str) -> Reading | None:
    """The first list, object or string that the text calls attributes."""
    for key in _KEY.finditer(text):
        sign = text[key.end() : key.end() + 1]
        if sign and sign in OPENING:
            return read_value(text, key.end(), bare=True)
        if sign and sign in QUOTES:
            return _quoted(text, key.end())
    return None


def _quoted(text: str, start: int) -> Reading:
    """Strings one after the other, up to one that is a key; what a single string lists is told apart."""
    strings: list[Value] = []
    end = start
    while text[start : start + 1] in QUOTES:
        string = read_value(text, start)
        if _COLON.match(text, string.end):
            break
        strings.append(string.value)
        end = string.end
        start = skip_separators(text, end)
    if len(strings) == 1 and isinstance(strings[0], str):
        strings = list(_SEPARATORS.split(strings[0]))
    return Reading(strings, end, whole=False)


def _structures(text: str) -> Iterator[Value]:
    """Lists and objects of the text, one after the other."""
    end = 0
    for match in re.finditer(f"[{re.escape(OPENING)}]", text):
        if match.start() >= end:
            reading = read_value(text, match.start())
            end = reading.end
            yield reading.value


def _phrases(value: Value) -> Iterator[str]:
    """All phrases in a value, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _phrases(item)
    else:
        fields = {key.lower(): item for key, item in value.items()}
        phrase = next((key for key in _PHRASE_KEYS if key in fields), None)
        for key, item in fields.items():
            if key == phrase or (phrase is None and key not in _OTHER_KEYS):
                yield from _phrases(item)


def _clean(items: Iterable[str]) -> tuple[str, ...]:
    """Tidied phrases, each once whatever its case, at most :data:`MAX_ATTRIBUTES`."""
    unique: dict[str, str] = {}
    for item in items:
        text = _without_label(" ".join(item.replace("**", "").split()).strip(_SURROUNDING))
        if not any(letter.isalnum() for letter in text) or len(text) > MAX_ATTRIBUTE_LENGTH:
            continue
        if text.lower() not in _NOTHING and not _REFUSAL.match(text):
            unique.setdefault(text.lower(), text)
    return tuple(unique.values())[:MAX_ATTRIBUTES]


def _without_label(text: str) -> str:
    """A phrase without what it is about ("Colour: red"), or without a long explanation after it."""
    match = _LABEL.match(text)
    if match is None:
        return text
    before, after = match.groups()
    if set(re.findall(r"\w+", before.lower())) <= _KINDS:
        return after.strip(_SURROUNDING)
    return before.strip(_SURROUNDING) if len(after.split()) >= _EXPLANATION_WORDS else text


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
    for index, probability in enumerate(probabilities(attributes, tokens)):
        if probability < least:
            return tuple(attributes[:index])
    return tuple(attributes)


def probabilities(attributes: Sequence[str], tokens: Sequence[tuple[str, float]]) -> Iterator[float]:
    """For each attribute in turn, the probability in [0, 1] of it and all before it.

    Args:
        attributes: As read from the answer, in its order.
        tokens: The answer's tokens, as text, each with the probability in [0, 1] that the model gave it.
    """
    answer = "".join(text for text, _ in tokens)
    ends = list(accumulate(len(text) for text, _ in tokens))
    probability, position = 1.0, 0
    for attribute in attributes:
        start = answer.find(attribute, position)
        if start < 0:  # written otherwise in the answer, which then counts up to its end
            start, position = position, len(answer)
        else:
            position = start + len(attribute)
        for (text, of_token), end in zip(tokens, ends, strict=True):
            if end > start and end - len(text) < position:
                probability *= of_token
        yield probability
