"""Memory of a text model's activations: how many chats fit, and what a backward pass computes again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from steerseg.lvlm.past import recurrent_layers, recurrent_width
from steerseg.runtime.memory import free_bytes

_CPU_ROWS = 4
_FILLING_TOKENS = 4096
"""A GPU multiplies matrices of so many rows as fast as larger ones."""


def head_width(config: Any) -> int:
    """Width of an attention head, by a text model's configuration."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


class ActivationMemory:
    """Estimates how many chats a device has room for (our choice).

    Args:
        model: A ``*ForConditionalGeneration`` model.
        device: Where its text layers are.
        dtype: Precision of their weights.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._layers = model.get_decoder().layers
        self._config = model.config.get_text_config()
        self._device = device
        self._itemsize = dtype.itemsize
        # A recurrent layer computes in float32: some sixteen tensors of the width of its values.
        self._recurring = 16 * recurrent_width(self._config) * torch.float32.itemsize // dtype.itemsize
        self._halvings = 0

    def halve(self) -> None:
        """Have half as many chats fit from now on."""
        self._halvings += 1

    @property
    def _working_bytes(self) -> int:
        return self._first_working_bytes >> self._halvings

    @functools.cached_property
    def _first_working_bytes(self) -> int:
        """A quarter of what is free when first asked for: always the same, so that passes and prefixes keep fitting."""
        return free_bytes(self._device) // 4

    def rows_at_once(self, tokens: int, layers: int) -> int:
        """How many chats should be read together: they fill the device, within its memory.

        Args:
            tokens: Length of a chat.
            layers: Number of text layers whose queries and keys are kept.
        """
        if self._device.type != "cuda":
            return _CPU_ROWS
        config = self._config
        # Of one layer at a time some eight tensors of its width and three of its inner one.
        passing = 8 * config.hidden_size + 3 * config.intermediate_size + self._recurring
        kept = layers * head_width(config) * (config.num_attention_heads + config.num_key_value_heads)
        fits = self._working_bytes // (tokens * (passing + kept) * self._itemsize)
        return int(max(1, min(fits, -(-_FILLING_TOKENS // tokens) >> self._halvings)))

    def training_rows(self, tokens: int) -> int:
        """How many chats of ``tokens`` tokens have room together in training, if text layers are recomputed."""
        if self._device.type != "cuda":
            return sys.maxsize
        config = self._config
        # The input of every layer; of one at a time all that its backward pass needs.
        kept = (config.num_hidden_layers + 16) * config.hidden_size + 4 * config.intermediate_size
        kept += self._recurring
        return int(max(1, self._working_bytes // (tokens * kept * self._itemsize)))

    def fits_backward(self, tokens: int) -> bool:
        """Whether everything that a backward pass over ``tokens`` tokens needs has room on the device."""
        if self._device.type != "cuda":
            return True
        config = self._config
        # PyTorch keeps of a layer some sixteen tensors of its width, and four of its inner one.
        width = 16 * config.hidden_size + 4 * config.intermediate_size
        recurring = self._recurring * len(recurrent_layers(config))
        kept = (width * config.num_hidden_layers + recurring) * self._itemsize
        return bool(tokens * kept < 0.8 * free_bytes(self._device))

    @contextmanager
    def recomputing(self, wanted: bool = True, *, up_to: int) -> Iterator[None]:
        """Inside, text layers keep their inputs only and are computed again in the backward pass.

        Args:
            wanted: Whether they are; nothing changes otherwise.
            up_to: Number of layers, counted from the bottom. A pass ends within the next one, which is left alone.
        """
        layers = list(self._layers)[:up_to] if wanted else []
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
            layer.training = True  # of itself only: nothing in it drops out
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False
