"""JSON from outside: read once, and refused where something behind the door could not keep it.

What passes can be stored and written as JSON again: it is nested at most :data:`MAX_DEPTH` deep, its integers fit into
64 bits, its numbers are finite, and its texts are Unicode that every database takes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Most levels of objects and lists within each other."""

MOST_PARTS = 5_000_000
"""Most objects, lists and texts of one body together: each takes some hundred bytes of memory, however short it is."""

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")


class JsonError(ValueError):
    """A text is not JSON, or holds what cannot be kept; the message says what, and what was expected."""


def parse_json(content: bytes | str) -> Any:
    """Read JSON.

    Args:
        content: The JSON, as text or in UTF-8.

    Returns:
        The value; it has passed :func:`check_json`.

    Raises:
        JsonError: It is not JSON, or cannot be kept.
    """
    text = _decode(content)
    if text.count("[") + text.count("{") + text.count('"') // 2 > MOST_PARTS:
        raise JsonError(f"it has too many parts; at most {MOST_PARTS} objects, lists and texts are accepted")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except JsonError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not JSON: {error}") from None
    except ValueError:  # a number of thousands of digits
        raise _too_long() from None
    check_json(value, texts="\\u" in text)
    return value


def check_json(value: Any, *, texts: bool = True) -> None:
    """Check a value that was JSON.

    Args:
        value: Objects, lists, texts, numbers, truth values and ``None``.
        texts: Whether texts may hold characters that are no Unicode; JSON without escapes cannot.

    Raises:
        JsonError: It is nested too deeply, or holds a number or a text that cannot be kept.
    """
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
                if texts:
                    below.extend(item)
            elif kind is list:
                below.extend(item)
            elif kind is not str or texts:
                _check_plain(item)
        level, depth = below, depth + 1
        if depth >= MAX_DEPTH and any(type(item) in (dict, list) for item in level):
            raise _too_deep()


def _check_plain(value: object) -> None:
    if isinstance(value, str):
        if _UNUSABLE.search(value):
            raise JsonError("a text holds half of a surrogate pair or a NUL; expected Unicode")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse_constant(str(value))
    elif isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
        raise _too_long()


def _decode(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise JsonError("it is not UTF-8") from None


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"it holds the number {name}; expected finite numbers")


def _too_deep() -> JsonError:
    return JsonError(f"it is nested too deeply; at most {MAX_DEPTH} levels are accepted")


def _too_long() -> JsonError:
    return JsonError("it holds an integer beyond 64 bits; expected one from -2^63 to 2^63 - 1")
