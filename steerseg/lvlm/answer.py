"""Answers of a language model with the probabilities of their tokens, and a check that ends them early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from steerseg.lvlm.prefix import PrefixSlot
from steerseg.lvlm.vision import VisionFeatures


@dataclass(frozen=True)
class Answer:
    """An answer of the model.

    Attributes:
        text: The answer.
        tokens: Its tokens as text, special ones left out, each with the probability in [0, 1] that the model gave it.
    """

    text: str
    tokens: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int], probabilities: Sequence[float]) -> Answer:
        """Make an answer of token ids; where several make up one letter, it goes to the last.

        Args:
            tokenizer: Of the model.
            ids: The tokens.
            probabilities: In [0, 1], one for each token.
        """
        special = frozenset(tokenizer.all_special_ids)
        tokens: list[tuple[str, float]] = []
        before = ""
        for end, (token, probability) in enumerate(zip(ids, probabilities, strict=True), start=1):
            if token not in special:
                text = tokenizer.decode(ids[:end], skip_special_tokens=True)
                whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
                tokens.append((whole[len(before) :], probability))
                before = whole
        return cls(tokenizer.decode(ids, skip_special_tokens=True).strip(), tuple(tokens))


class CompletionCheck(StoppingCriteria):
    """Ends an answer once it is complete.

    Args:
        tokenizer: Of the model.
        length: Tokens of the chat before the answer.
        complete: Whether an answer of this text is complete.
    """

    def __init__(self, tokenizer: Any, length: int, complete: Callable[[str], bool]) -> None:
        self._tokenizer, self._length, self._complete = tokenizer, length, complete

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens is complete."""
        return self._complete(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """As the model's own ``generate`` asks after each token: (B,) bool."""
        ended = [self.is_complete(row[self._length :].tolist()) for row in input_ids]
        return torch.tensor(ended, device=input_ids.device)


class Meanwhile(StoppingCriteria):
    """Ends no answer, but has work done after each token.

    Args:
        works: Called one after the other. What one raises ends the answer.
    """

    def __init__(self, works: Sequence[Callable[[], None]]) -> None:
        self._works = works

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """As the model's own ``generate`` asks after each token: (B,) bool."""
        for work in self._works:
            work()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@dataclass(frozen=True)
class AskedChat:
    """A chat that ends with a question.

    Attributes:
        inputs: The model's inputs, of one chat.
        vision: The visual tokens in it.
        prefix: Where the part up to the last visual token is kept; nothing is kept where ``None``.
        check: Ends a complete answer.
    """

    inputs: Mapping[str, Any]
    vision: VisionFeatures
    prefix: PrefixSlot | None = None
    check: CompletionCheck | None = None
