"""Values out of text that is almost JSON, as language models write it.

Well-formed JSON is read as such. Beyond it, strings may be in single, typographic or corner quotes, separators may be
Chinese, keys and words may lack quotes, a comma may be missing or one too many, and the text may end anywhere. Every
character is looked at once, so that a long answer which repeats itself costs no backtracking.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "str | list[Value] | dict[str, Value]"
"""Numbers, truth values and ``null`` are no values here."""

OPENING = "[【{"
QUOTES = {'"': '"＂', "＂": '＂"', "“": '”“"', "”": '”"', "'": "'", "‘": "’‘'", "「": "」", "『": "』"}
"""Opening quotes, each with what may close it."""

_DEEPEST = 8
_SPACE = re.compile(r"\s*")
_SEPARATORS = re.compile(r"[\s,，、;；]*")
# A quote within a string is told from one that ends it by what follows.
_AFTER_STRING = re.compile(rf"\s*(?:[,，、;；:：\]】}})]|[{''.join(QUOTES)}]|\Z)")
_BARE = re.compile(r"[^,，、;；\]】}\n]*")
_BARE_KEY = re.compile(r"[^:：,，\[\]【】{}\n]*")
_NO_WORD = re.compile(r"(?:[-+]?[\d.]+(?:e[-+]?\d+)?|true|false|null|none|\.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """One value of a text.

    Attributes:
        value: What was read; complete strings of a value that is cut off count.
        end: Index of the character after it.
        whole: Whether the value was complete.
    """

    value: Value
    end: int
    whole: bool


def read_value(text: str, start: int, *, bare: bool = False) -> Reading:
    """Read the list, object or string that begins at an index.

    Args:
        text: The answer.
        start: Index of the opening bracket or quote.
        bare: Whether words without quotes are values.
    """
    reader = _Reader(text, start, bare)
    value = reader.value(0)
    return Reading([] if value is None else value, reader.index, reader.whole)


def skip_separators(text: str, index: int) -> int:
    """The index of the first character from ``index`` on that is neither space nor a separator."""
    match = _SEPARATORS.match(text, index)
    return match.end() if match else index


class _Reader:
    def __init__(self, text: str, index: int, bare: bool) -> None:
        self.text, self.index, self._bare = text, index, bare
        self.whole = True

    def _next(self) -> str:
        """The next character, or nothing at the end of the text."""
        return self.text[self.index : self.index + 1]

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.index)
        assert match is not None  # the patterns match the empty text
        self.index = match.end()
        return match.group()

    def value(self, depth: int) -> Value | None:
        if self._next() in QUOTES:
            return self._string()
        if self._next() and self._next() in OPENING and depth < _DEEPEST:
            opening = self._next()
            self.index += 1
            return self._object(depth + 1) if opening == "{" else self._list(depth + 1)
        word = self._skip(_BARE).strip()
        return word if self._bare and not _NO_WORD.fullmatch(word) else None

    def _ends(self, closing: str) -> bool:
        """Whether a list or an object ends here; a bracket of the other kind ends it, and what it is in."""
        self._skip(_SEPARATORS)
        if not self._next():
            self.whole = False
            return True
        if self._next() in closing:
            self.index += 1
            return True
        return self._next() in "]】}"

    def _list(self, depth: int) -> list[Value]:
        items: list[Value] = []
        while not self._ends("]】"):
            item = self.value(depth)
            if item is not None:
                items.append(item)
        return items

    def _object(self, depth: int) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        while not self._ends("}"):
            key = self._string() if self._next() in QUOTES else self._skip(_BARE_KEY).strip()
            self._skip(_SPACE)
            if self._next() and self._next() in ":：":
                self.index += 1
                self._skip(_SPACE)
                item = self.value(depth)
            else:
                key, item = "", key or self.value(depth)
            if key is not None and item is not None:
                fields[key] = [fields[key], item] if key in fields else item
        return fields

    def _string(self) -> str | None:
        """The string that begins here; ``None`` where the text ends before it does."""
        opening, start = self._next(), self.index + 1
        index = start
        while index < len(self.text):
            sign = self.text[index]
            if sign in QUOTES[opening] and _AFTER_STRING.match(self.text, index + 1):
                self.index = index + 1
                return _unescaped(self.text[start:index])
            index += 2 if sign == "\\" else 1
        self.index, self.whole = len(self.text), False
        return None


def _unescaped(string: str) -> str:
    if "\\" not in string:
        return string
    try:
        return str(json.loads(f'"{string}"'))
    except ValueError:
        return string.replace("\\", "")
