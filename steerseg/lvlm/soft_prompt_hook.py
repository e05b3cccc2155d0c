"""Soft prompts in place of the embeddings of placeholder tokens, by a hook on the embedding layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class SoftPromptHook:
    """Replaces embeddings of placeholder tokens while a soft prompt is set.

    Args:
        embeddings: The text model's embedding layer.
    """

    def __init__(self, embeddings: nn.Embedding) -> None:
        self._soft_prompt: torch.Tensor | None = None
        self._token = -1
        embeddings.register_forward_hook(self._replace)

    @contextmanager
    def replacing(self, token: int, soft_prompt: torch.Tensor | None) -> Iterator[None]:
        """Inside, embeddings of a token are those of a soft prompt.

        Args:
            token: Id of the placeholder token.
            soft_prompt: (n, d), for n placeholders a chat; ``None`` replaces nothing.
        """
        self._soft_prompt, self._token = soft_prompt, token
        try:
            yield
        finally:
            self._soft_prompt = None

    def _replace(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._soft_prompt is None:
            return None
        replaced = torch.eq(args[0], self._token).unsqueeze(-1)  # none in what follows a prefix that has it
        rows = self._soft_prompt.to(output.dtype).expand(output.shape[0], -1, -1)
        return output.masked_scatter(replaced, rows)
