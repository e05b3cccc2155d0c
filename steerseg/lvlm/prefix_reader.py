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

from steerseg.lvlm.past import Kept, Past, masks_by_kind, recurrent_layers
from steerseg.lvlm.prefix import Prefix, cached
from steerseg.lvlm.static_cache import StaticCacheLayer, StaticStateLayer
from steerseg.lvlm.tap import QueryKeyTap, tapped
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


class _StateLayer(StaticStateLayer):
    """A state that a pass goes on from and leaves as it is, so that the pass can be repeated.

    Attributes:
        after: The latest inputs and the state after the text.
    """

    def __init__(self, inputs: Tensor, state: Tensor) -> None:
        super().__init__(inputs, state)
        self.after = inputs, state

    def update_conv_state(self, conv_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the inputs (B, C, K + T) of the convolution, those before the text first."""
        inputs, state = self.after
        whole = torch.cat([inputs, conv_states], dim=-1)
        self.after = whole[..., -inputs.shape[-1] :], state
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Note the state after the text."""
        self.after = self.after[0], recurrent_states
        return recurrent_states


@dataclass(frozen=True)
class Continuation:
    """Chats whose beginning was known, as the text model read them.

    The tensors lie in memory that the next such pass uses again.

    Attributes:
        queries: By wanted layer (B, H, T, d), of the tokens after the prefix.
        keys: By wanted layer (B, H_kv, P + T, d), of the whole chats.
        scaling: By wanted layer, the factor on the logits.
    """

    queries: dict[int, Tensor]
    keys: dict[int, Tensor]
    scaling: dict[int, float]


@dataclass(frozen=True)
class _Form:
    """All of a pass that is no tensor.

    Attributes:
        prefix_length: Tokens P of the prefix.
        length: Tokens T of the text, padding included.
        tapped: Layers whose queries are wanted; none for the model's output.
        layers: Number of text layers that are read.
        key_shape: (layers that attend, 2, B, H_kv, P + T, d) of keys and values.
        query_shape: (B, layers, H, T, d) of queries.
    """

    prefix_length: int
    length: int
    tapped: tuple[int, ...]
    layers: int
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
        self._recurrent = recurrent_layers(text_model.config)
        self._padded_to = padded_to
        # The frame passes of one expression are of one form, so that capturing pays at first sight.
        self.calls = CapturedCalls(self._pass, sights=1, most=_MOST_FORMS, filled=False, fresh=False)
        self._buffer: Tensor | None = None
        self._states: list[Kept] = []
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
        length = embeds.shape[1]
        end = prefix.length + length
        form, rows = self._prepare(prefix, embeds, positions, tuple(sorted(layers)), self._padded_to)
        self.calls(form, rows, ())
        keys_and_values, queries = self._views(form)
        keys = dict(zip(self._attending(form.layers), keys_and_values[:, 0, :, :, :end], strict=True))
        return Continuation(
            queries=dict(zip(form.tapped, queries[..., :length, :].unbind(1), strict=True)),
            keys={layer: keys[layer] for layer in form.tapped},
            scaling={layer: self._scaling[layer] for layer in form.tapped},
        )

    def output(self, prefix: Prefix, embeds: Tensor, positions: Tensor) -> tuple[Past, Tensor]:
        """Read texts through all layers.

        Args:
            prefix: P tokens of B chats.
            embeds: (B, T, width) embeddings of the tokens after it.
            positions: (..., B, T) their positions.

        Returns:
            What all layers keep, in memory that the next pass uses again, and the model's output (B, T, width).
        """
        length = embeds.shape[1]
        end = prefix.length + length
        # Padding would become part of a state. Texts as they are have too many lengths to capture each.
        exact = bool(self._recurrent)
        form, rows = self._prepare(prefix, embeds, positions, (), 1 if exact else self._padded_to)
        if exact:
            cache, output, _ = self._run(form, *rows)
        else:
            (output,) = self.calls(form, rows, ())
        pairs = iter([(keys[:, :, :end], values[:, :, :end]) for keys, values in self._views(form)[0]])
        past = [
            cache.layers[layer].after if layer in self._recurrent else next(pairs)
            for layer in range(form.layers)
        ]
        return past, output[:, :length]

    def forget(self) -> None:
        """Drop the buffers, and the captured passes over them."""
        self.calls.forget()
        self._buffer = None
        self._states = []

    def _attending(self, layers: int) -> list[int]:
        """Those of the lowest ``layers`` layers that attend."""
        return [layer for layer in range(layers) if layer not in self._recurrent]

    def _prepare(
        self,
        prefix: Prefix,
        embeds: Tensor,
        positions: Tensor,
        tapped_layers: tuple[int, ...],
        padded_to: int,
    ) -> tuple[_Form, list[Tensor]]:
        """Copy the prefix to where passes of a form find it, and fill up the texts."""
        attending = [prefix.past[layer] for layer in self._attending(len(prefix.past))]
        batch, shared, prefix_length, depth = attending[0][0].shape
        missing = -embeds.shape[1] % padded_to
        padded = embeds.shape[1] + missing
        heads = self._text_model.config.num_attention_heads
        form = _Form(
            prefix_length,
            padded,
            tapped_layers,
            layers=len(prefix.past),
            key_shape=(len(attending), 2, batch, shared, prefix_length + padded, depth),
            query_shape=(batch, len(tapped_layers), heads, padded, depth),
        )
        if self._buffer is None or self._buffer.numel() < form.size:
            self.forget()  # first: captured passes read the old buffer, and both may not fit
            self._buffer = attending[0][0].new_empty(form.size)
        keys_and_values, _ = self._views(form)
        torch._foreach_copy_(
            [part[:, :, :prefix_length] for layer in keys_and_values for part in layer],
            [part for layer in attending for part in layer],
        )
        self._hold_states([kept for layer, kept in enumerate(prefix.past) if layer in self._recurrent])
        return form, [F.pad(embeds, (0, 0, 0, missing)), F.pad(positions, (0, missing)).movedim(-2, 0)]

    def _hold_states(self, states: Sequence[Kept]) -> None:
        """Copy the states after a prefix to where captured passes find them."""
        if not states:
            return
        rows = len(states[0][0])
        if not self._states or len(self._states[0][0]) < rows:
            self.calls.forget()  # captured passes read the old buffers
            self._states = []
            inputs, state = states[0]
            self._states = [(torch.empty_like(inputs), torch.empty_like(state)) for _ in self._recurrent]
        torch._foreach_copy_(
            [part[:rows] for held in self._states[: len(states)] for part in held],
            [part for state in states for part in state],
        )

    def _views(self, form: _Form) -> tuple[Tensor, Tensor]:
        """Keys and values, and queries, as views of the buffer."""
        assert self._buffer is not None
        sizes = [math.prod(form.key_shape), math.prod(form.query_shape)]
        keys_and_values, queries = torch.split(self._buffer[: form.size], sizes)
        return keys_and_values.view(form.key_shape), queries.view(form.query_shape)

    def _cache(self, form: _Form) -> Cache:
        """What the prefix left, with room for the text."""
        pairs, states = iter(self._views(form)[0]), iter(self._states)
        layers: list[_TextLayer | _StateLayer] = []
        for layer in range(form.layers):
            if layer in self._recurrent:
                layers.append(_StateLayer(*(part[: form.key_shape[2]] for part in next(states))))
            else:
                keys, values = next(pairs)
                layers.append(_TextLayer(keys, values, form.prefix_length))
        return Cache(layers=layers)

    def _run(self, form: _Form, embeds: Tensor, positions: Tensor) -> tuple[Cache, Tensor, QueryKeyTap]:
        """Read texts over buffers that hold the prefix; no output where queries are wanted."""
        cache = self._cache(form)
        seen = torch.ones(
            form.length, form.prefix_length + form.length, dtype=torch.bool, device=embeds.device
        )
        mask = masks_by_kind(self._text_model.config, seen.tril(form.prefix_length)[None, None])
        output = embeds
        with tapped(form.tapped, last=form.last, continued=True) as tap:
            output = self._text_model(
                inputs_embeds=embeds,
                position_ids=positions.movedim(0, -2),
                attention_mask=mask,
                **cached(self._text_model, cache),
                use_cache=True,
            ).last_hidden_state
        return cache, output, tap

    def _pass(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One pass over buffers that hold the prefix: the queries, or the model's output."""
        assert isinstance(key, _Form)
        _, output, tap = self._run(key, *rows)
        if not key.tapped:
            return (output,)
        self._scaling.update(tap.scaling)
        queries = self._views(key)[1]
        return (torch.stack([tap.queries[layer] for layer in key.tapped], dim=1, out=queries),)
