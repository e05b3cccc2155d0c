"""Chats read by the text model, as a whole or from a kept prefix: for answers and for rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from steerseg.lvlm.activations import head_width
from steerseg.lvlm.past import Past, empty_cache, past_of, recurrent_layers, state_bytes
from steerseg.lvlm.prefix import KeptQueries, Prefix, PrefixSize, PrefixSlot, cached
from steerseg.lvlm.prefix_reader import PADDED_TO, PrefixReader
from steerseg.lvlm.tap import QueryKeyTap, tapped
from steerseg.runtime.memory import to_device


class ChatReader:
    """Reads model inputs, as :class:`steerseg.lvlm.chats.ChatTokenizer` makes them.

    Args:
        model: A ``*ForConditionalGeneration`` model.
        captures: Whether a GPU captures passes after a kept prefix.

    Attributes:
        prefix_reader: Continues chats after a prefix.
    """

    def __init__(self, model: Any, *, captures: bool) -> None:
        self._model = model
        self._config = model.config.get_text_config()
        self._embeddings: nn.Embedding = model.get_input_embeddings()
        weight = self._embeddings.weight
        self._device, self._itemsize = weight.device, weight.dtype.itemsize
        padded_to = PADDED_TO if self._device.type == "cuda" else 1
        self.prefix_reader = PrefixReader(model.get_decoder(), padded_to=padded_to)
        self.prefix_reader.calls.enabled = captures

    def on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The same inputs for the model to read. Nothing waits for the device."""
        return {
            name: to_device(part, self._device) if isinstance(part, torch.Tensor) else part
            for name, part in inputs.items()
        }

    def read_question(
        self, inputs: Mapping[str, Any], prefix_length: int, slot: PrefixSlot | None
    ) -> tuple[Past, torch.Tensor]:
        """Read one chat through all layers.

        Args:
            inputs: Of the chat, with positions.
            prefix_length: Tokens up to the last visual one.
            slot: Where these are kept; the chat is read as a whole where left out, or where there is no room.

        Returns:
            What each layer keeps; the text model's output (1, d) at the last token.
        """
        past, output = self._read(inputs, prefix_length, slot)
        return past, output[:, -1]

    def read_outputs(
        self, inputs: Mapping[str, Any], prefix_length: int, count: int, slot: PrefixSlot | None
    ) -> torch.Tensor:
        """The text model's output (1, count, d) at the last tokens of one chat; arguments as above.

        Args:
            inputs: Of the chat, with positions.
            prefix_length: Tokens up to the last visual one.
            count: How many tokens, all of them after the prefix.
            slot: Where the prefix is kept.
        """
        return self._read(inputs, prefix_length, slot)[1][:, -count:]

    def _read(
        self, inputs: Mapping[str, Any], prefix_length: int, slot: PrefixSlot | None
    ) -> tuple[Past, torch.Tensor]:
        there = self.on_device(inputs)
        prefix = None
        if slot is not None:
            last = self._config.num_hidden_layers - 1
            prefix = self._prefix(inputs, prefix_length, (), last, None, slot)
        if prefix is None:
            cache = empty_cache(self._config)
            inner = self._model.model
            output = inner(**there, **cached(inner, cache), use_cache=True).last_hidden_state
            return past_of(cache, self._config.num_hidden_layers), output
        embeds = self._embeddings(there["input_ids"][:, prefix_length:])
        return self.prefix_reader.output(prefix, embeds, there["position_ids"][..., prefix_length:])

    def read_queries(self, inputs: Mapping[str, Any], layers: Sequence[int]) -> QueryKeyTap:
        """Read whole chats up to the last of some layers, and record queries and keys.

        Args:
            inputs: Of B chats; positions are optional.
            layers: Whose queries and keys are wanted.
        """
        with tapped(layers, last=max(layers)) as tap:
            # The inner model: no logits over the sequence are wanted.
            self._model.model(**self.on_device(inputs), use_cache=False)
        return tap

    def continue_queries(
        self,
        inputs: Mapping[str, Any],
        prefix_length: int,
        layers: Sequence[int],
        soft_prompt: torch.Tensor | None,
        slot: PrefixSlot,
    ) -> QueryKeyTap | None:
        """Read chats of one length from their prefix on, which is taken from ``slot`` or stored there.

        Args:
            inputs: Of B chats, with positions.
            prefix_length: Tokens of the prefix.
            layers: Whose queries and keys are wanted.
            soft_prompt: (n, d) the soft prompt within the prefix, if there is one.
            slot: Where the prefix is kept.

        Returns:
            Queries and keys over the whole chats; ``None`` where there is no room for the prefix.
        """
        prefix = self._prefix(inputs, prefix_length, layers, max(layers), soft_prompt, slot)
        if prefix is None:
            return None
        ids, positions = inputs["input_ids"], inputs["position_ids"]
        tap = QueryKeyTap(layers)
        tap.queries = prefix.queries.restore(ids.shape[1])
        try:
            embeds = self._embeddings(to_device(ids[:, prefix.length :], self._device))
            read = self.prefix_reader.queries_and_keys(
                prefix, embeds, to_device(positions[..., prefix.length :], self._device), layers
            )
        finally:  # also where memory ran out: nobody may be given what is still copied to
            prefix.queries.wait()
        for layer, query in read.queries.items():
            tap.queries[layer][:, :, prefix.length :] = query
            tap.keys[layer], tap.scaling[layer] = read.keys[layer], read.scaling[layer]
        return tap

    def _prefix(
        self,
        inputs: Mapping[str, Any],
        length: int,
        layers: Sequence[int],
        last: int,
        soft_prompt: torch.Tensor | None,
        slot: PrefixSlot,
    ) -> Prefix | None:
        """The prefix of chats up to text layer ``last``, from ``slot`` or into it; ``None`` where it has no room."""
        known = slot.store.find(slot.owner, slot.part)
        if known is not None and known.matches(inputs["input_ids"], soft_prompt):
            return known
        ids = inputs["input_ids"][:, :length]
        offloaded = self._device.type == "cuda" and slot.store.offloads
        size = self._size_of(len(ids), length, len(layers), last + 1, offloaded=offloaded)
        if not slot.store.make_room(slot.owner, slot.part, size):
            return None
        beginning = {**inputs, "input_ids": ids, "position_ids": inputs["position_ids"][..., :length]}
        if "mm_token_type_ids" in inputs:
            beginning["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, :length]
        cache = empty_cache(self._config)
        inner = self._model.model
        with tapped(layers, last=last) as tap:
            inner(**self.on_device(beginning), **cached(inner, cache), use_cache=True)
        prefix = Prefix(
            ids,
            soft_prompt,
            past_of(cache, last + 1),
            KeptQueries(tap.queries, offloaded=offloaded),
            size,
        )
        slot.store.keep(slot.owner, slot.part, prefix)
        return prefix

    def _size_of(
        self, chats: int, length: int, query_layers: int, read_layers: int, *, offloaded: bool
    ) -> PrefixSize:
        """Memory of a prefix of so many tokens in each chat, read through so many layers."""
        text = self._config
        head = chats * length * head_width(text) * self._itemsize
        states = sum(layer < read_layers for layer in recurrent_layers(text))
        kept = 2 * (read_layers - states) * text.num_key_value_heads * head
        if states:
            kept += chats * states * state_bytes(text, self._itemsize)
        return PrefixSize.of(
            kept,
            query_layers * text.num_attention_heads * head,
            query_layers,
            offloaded=offloaded,
        )
