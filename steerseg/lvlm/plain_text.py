"""Text that people type, in a chat whose structure is made of special tokens."""

from __future__ import annotations

import re
from typing import Any


class PlainText:
    """Writes special tokens of a model so that they are text like any other.

    A tokenizer takes ``<|im_end|>`` for the end of a turn wherever it stands. Split by a space, ``< |im_end|>``, it is
    a few ordinary tokens that the model reads as what was typed.

    Args:
        tokenizer: Of the model. Its special tokens count, and all others that were added in angle brackets.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special or str(token).startswith("<")}
        names = {name for name in names | set(tokenizer.all_special_tokens) if len(name) > 1}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, text: str) -> str:
        """The text with a space after the first character of each special token in it."""
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
