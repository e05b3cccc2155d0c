"""Chats continued from a kept prefix: on a GPU, a replay of a captured pass.

About a hundred tokens are left to read after the vision. A 7B model reads them faster than a host launches a thousand
kernels for them. So keys and values of prefix and text lie in one buffer that stays where it is, and texts are padded
to a few lengths: what stands after a token never changes it. Passes of one form are captured once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from steerseg.lvlm.prefix import Prefix, cached
from steerseg.lvlm.static_cache import StaticCacheLayer
from steerseg.lvlm.tap import tapped
from steerseg.runtime.cuda_graphs import CapturedCalls

PADDED_TO = 32
"""A GPU reads texts of a multiple of so many tokens: few forms, and few tokens for nothing."""

_MOST_FORMS = 32


class _TextLayer(StaticCacheLayer):
    """Buffers for P + T tokens, of which the last T are written together."""

    def __init__(self, keys: Tensor, values: Tensor, prefix_length: int) -> None:
        super().__init__(keys, values)
        self._prefix_length = prefix_length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values of the text and return those of the whole chat."""
        self.keys[:, :, self._prefix_length :] = key_states
        self.values[:, :, self._prefix_length :] = value_states
        return self.keys, self.values


@dataclass(frozen=True)
class Continuation:
    """Chats whose beginning was known, as the text model read them.

    The tensors lie in memory that the next such pass uses again.

    Attributes:
        queries: By wanted layer (B, H, T, d), of the tokens after the prefix.
        keys: Of each layer (B, H_kv, P + T, d), of the whole chats.
        values: The same.
        scaling: By wanted layer, the factor on the logits.
    """

    queries: dict[int, Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    scaling: dict[int, float]


@dataclass(frozen=True)
class _Form:
    """All of a pass that is no tensor.

    Attributes:
        prefix_length: Tokens P of the prefix.
        length: Tokens T of the text, padding included.
        tapped: Layers whose queries are wanted; none for the model's output.
        key_shape: (layers, 2, B, H_kv, P + T, d) of keys and values.
        query_shape: (B, layers, H, T, d) of queries.
    """

    prefix_length: int
    length: int
    tapped: tuple[int, ...]
    key_shape: tuple[int, ...]
    query_shape: tuple[int, ...]

    @property
    def last(self) -> int | None:
        """The layer within which the pass ends; ``None`` for the whole model."""
        return max(self.tapped, default=None)

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        return math.prod(self.key_shape) + math.prod(self.query_shape)


class PrefixReader:
    """Continues chats after a prefix.

    Args:
        text_model: A model's text layers, which take embeddings.
        padded_to: Texts are padded to a multiple of so many tokens.
    """

    def __init__(self, text_model: Any, *, padded_to: int = 1) -> None:
        self._text_model = text_model
        self._padded_to = padded_to
        # The frame passes of one expression are of one form, so that capturing pays at first sight.
        self.calls = CapturedCalls(self._pass, sights=1, most=_MOST_FORMS, filled=False, fresh=False)
        self._buffer: Tensor | None = None
        self._scaling: dict[int, float] = {}

    def queries_and_keys(
        self, prefix: Prefix, embeds: Tensor, positions: Tensor, layers: Sequence[int]
    ) -> Continuation:
        """Read texts up to the last of some layers.

        Args:
            prefix: P tokens of B chats.
            embeds: (B, T, width) embeddings of the tokens after it.
            positions: (..., B, T) their positions.
            layers: Whose queries are wanted.
        """
        return self._read(prefix, embeds, positions, tuple(sorted(layers)))[0]

    def output(self, prefix: Prefix, embeds: Tensor, positions: Tensor) -> tuple[Continuation, Tensor]:
        """Read texts through all layers.

        Args:
            prefix: P tokens of B chats.
            embeds: (B, T, width) embeddings of the tokens after it.
            positions: (..., B, T) their positions.

        Returns:
            Keys and values of all layers, and the model's output (B, T, width).
        """
        return self._read(prefix, embeds, positions, ())

    def forget(self) -> None:
        """Drop the buffer, and the captured passes over it."""
        self.calls.forget()
        self._buffer = None

    def _read(
        self, prefix: Prefix, embeds: Tensor, positions: Tensor, tapped_layers: tuple[int, ...]
    ) -> tuple[Continuation, Tensor]:
        like = prefix.keys[0]
        batch, shared, prefix_length, depth = like.shape
        length = embeds.shape[1]
        missing = -length % self._padded_to
        padded, end = length + missing, prefix_length + length
        heads = self._text_model.config.num_attention_heads
        form = _Form(
            prefix_length,
            padded,
            tapped_layers,
            key_shape=(len(prefix.keys), 2, batch, shared, prefix_length + padded, depth),
            query_shape=(batch, len(tapped_layers), heads, padded, depth),
        )
        if self._buffer is None or self._buffer.numel() < form.size:
            self.forget()  # first: captured passes read the old buffer, and both may not fit
            self._buffer = like.new_empty(form.size)
        keys_and_values, queries = self._views(form)
        torch._foreach_copy_(
            [part[:, :, :prefix_length] for layer in keys_and_values for part in layer],
            [part for layer in zip(prefix.keys, prefix.values, strict=True) for part in layer],
        )
        rows = [F.pad(embeds, (0, 0, 0, missing)), F.pad(positions, (0, missing)).movedim(-2, 0)]
        (output,) = self.calls(form, rows, ())
        read = Continuation(
            queries=dict(zip(tapped_layers, queries[..., :length, :].unbind(1), strict=True)),
            keys=[keys[:, :, :end] for keys, _ in keys_and_values],
            values=[values[:, :, :end] for _, values in keys_and_values],
            scaling={layer: self._scaling[layer] for layer in tapped_layers},
        )
        return read, output[:, :length]

    def _views(self, form: _Form) -> tuple[Tensor, Tensor]:
        """Keys and values, and queries, as views of the buffer."""
        assert self._buffer is not None
        sizes = [math.prod(form.key_shape), math.prod(form.query_shape)]
        keys_and_values, queries = torch.split(self._buffer[: form.size], sizes)
        return keys_and_values.view(form.key_shape), queries.view(form.query_shape)

    def _pass(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One pass over a buffer that holds the prefix: the queries, or the model's output."""
        assert isinstance(key, _Form)
        embeds, positions = rows
        keys_and_values, queries = self._views(key)
        cache = Cache(
            layers=[_TextLayer(keys, values, key.prefix_length) for keys, values in keys_and_values]
        )
        seen = torch.ones(key.length, key.prefix_length + key.length, dtype=torch.bool, device=embeds.device)
        with tapped(key.tapped, last=key.last, continued=True) as tap:
            output: Tensor = self._text_model(
                inputs_embeds=embeds,
                position_ids=positions.movedim(0, -2),
                attention_mask=seen.tril(key.prefix_length)[None, None],
                **cached(self._text_model, cache),
                use_cache=True,
            ).last_hidden_state
        if not key.tapped:
            return (output,)
        self._scaling.update(tap.scaling)
        return (torch.stack([tap.queries[layer] for layer in key.tapped], dim=1, out=queries),)
