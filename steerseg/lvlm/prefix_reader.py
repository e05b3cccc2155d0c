"""Chats read on from a kept prefix: on a GPU, a replay of a captured pass.

What is left to read after the vision is a hundred tokens, which a 7B model reads faster than a host launches a
thousand kernels for them. So keys and values of prefix and text lie in one room that stays where it is, and texts are
filled up to a few lengths: what stands after a token never changes it. Passes of one form are captured once.
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
from steerseg.lvlm.static_cache import RoomLayer
from steerseg.lvlm.tap import tapped
from steerseg.runtime.cuda_graphs import CapturedCalls

FILLED_TO = 32
"""A GPU reads texts of a multiple of so many tokens: few forms, and few tokens for nothing."""

_MOST_FORMS = 32


class _TextLayer(RoomLayer):
    """Room for P + T tokens, of which the last T are written together."""

    def __init__(self, keys: Tensor, values: Tensor, begun: int) -> None:
        super().__init__(keys, values)
        self._begun = begun

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the text's and show all."""
        self.keys[:, :, self._begun :] = key_states
        self.values[:, :, self._begun :] = value_states
        return self.keys, self.values


@dataclass(frozen=True)
class ReadOn:
    """What the text model made of chats whose beginning was known.

    It lies in memory that the next such pass uses again.

    Attributes:
        queries: By layer that was asked for (B, H, T, d), of the tokens after the prefix.
        keys: Of each layer (B, H_kv, P + T, d), of the whole chats.
        values: The same.
        scaling: By layer that was asked for, the factor on the logits.
    """

    queries: dict[int, Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    scaling: dict[int, float]


@dataclass(frozen=True)
class _Form:
    """All of a pass that is no tensor.

    Attributes:
        begun: P.
        length: T, as filled up.
        taken: Layers whose queries are wanted; none for the model's output.
        known: (layers, 2, B, H_kv, P + T, d) of keys and values.
        asked: (B, layers, H, T, d) of queries.
    """

    begun: int
    length: int
    taken: tuple[int, ...]
    known: tuple[int, ...]
    asked: tuple[int, ...]

    @property
    def last(self) -> int | None:
        """The layer within which the pass ends; ``None`` for the whole model."""
        return max(self.taken, default=None)

    @property
    def size(self) -> int:
        """Numbers in the room."""
        return math.prod(self.known) + math.prod(self.asked)


class ReadingOn:
    """Reads chats on after what is known of their beginning.

    Args:
        text_model: A model's text layers, which take embeddings.
        filled_to: Texts are filled up to a multiple of so many tokens.
    """

    def __init__(self, text_model: Any, *, filled_to: int = 1) -> None:
        self._text_model = text_model
        self._filled_to = filled_to
        # The frame passes of one expression are of one form, so that capturing pays at first sight.
        self.calls = CapturedCalls(self._pass, sights=1, most=_MOST_FORMS, filled=False, fresh=False)
        self._room: Tensor | None = None
        self._scaling: dict[int, float] = {}

    def attended(self, prefix: Prefix, embeds: Tensor, positions: Tensor, layers: Sequence[int]) -> ReadOn:
        """Queries and keys, up to the last of some layers.

        Args:
            prefix: P tokens of B chats.
            embeds: (B, T, width) embeddings of the tokens after it.
            positions: (..., B, T) their positions.
            layers: Whose queries are wanted.
        """
        return self._read(prefix, embeds, positions, tuple(sorted(layers)))[0]

    def output(self, prefix: Prefix, embeds: Tensor, positions: Tensor) -> tuple[ReadOn, Tensor]:
        """Keys and values of all layers, and the model's output (B, T, width); takes the same."""
        return self._read(prefix, embeds, positions, ())

    def _read(
        self, prefix: Prefix, embeds: Tensor, positions: Tensor, taken: tuple[int, ...]
    ) -> tuple[ReadOn, Tensor]:
        like = prefix.keys[0]
        batch, shared, begun, depth = like.shape
        length = embeds.shape[1]
        missing = -length % self._filled_to
        filled, end = length + missing, begun + length
        heads = self._text_model.config.num_attention_heads
        form = _Form(
            begun,
            filled,
            taken,
            known=(len(prefix.keys), 2, batch, shared, begun + filled, depth),
            asked=(batch, len(taken), heads, filled, depth),
        )
        if self._room is None or self._room.numel() < form.size:
            self.calls.forget()  # what was captured knows the room of before
            self._room = None  # first, since both may not fit
            self._room = like.new_empty(form.size)
        known, asked = self._places(form)
        torch._foreach_copy_(
            [part[:, :, :begun] for layer in known for part in layer],
            [part for layer in zip(prefix.keys, prefix.values, strict=True) for part in layer],
        )
        rows = [F.pad(embeds, (0, 0, 0, missing)), F.pad(positions, (0, missing)).movedim(-2, 0)]
        (given,) = self.calls(form, rows, ())
        read = ReadOn(
            queries=dict(zip(taken, asked[..., :length, :].unbind(1), strict=True)),
            keys=[keys[:, :, :end] for keys, _ in known],
            values=[values[:, :, :end] for _, values in known],
            scaling={layer: self._scaling[layer] for layer in taken},
        )
        return read, given[:, :length]

    def _places(self, form: _Form) -> tuple[Tensor, Tensor]:
        """Where keys and values, and queries, lie in the room."""
        assert self._room is not None
        known, asked = self._room[: form.size].split([math.prod(form.known), math.prod(form.asked)])
        return known.view(form.known), asked.view(form.asked)

    def _pass(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One pass over a room whose beginning is filled: the queries, or the model's output."""
        assert isinstance(key, _Form)
        embeds, positions = rows
        known, asked = self._places(key)
        cache = Cache(layers=[_TextLayer(keys, values, key.begun) for keys, values in known])
        seen = torch.ones(key.length, key.begun + key.length, dtype=torch.bool, device=embeds.device)
        with tapped(key.taken, last=key.last, read_on=True) as tap:
            output: Tensor = self._text_model(
                inputs_embeds=embeds,
                position_ids=positions.movedim(0, -2),
                attention_mask=seen.tril(key.begun)[None, None],
                **cached(self._text_model, cache),
                use_cache=True,
            ).last_hidden_state
        if not key.taken:
            return (output,)
        self._scaling.update(tap.scaling)
        return (torch.stack([tap.queries[layer] for layer in key.taken], dim=1, out=asked),)
