"""Greedy decoding that never waits for the host: each token's step is one replay of a CUDA graph.

A step of a 7B model is a few hundred small kernels, which take several times longer to launch one by one than to run.
Everything that changes from token to token lies in buffers on the device, so that a step can be captured once and
replayed. Where capturing does not work, the same steps run one by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache

from steerseg.lvlm.past import Past, masks_by_kind, recurrent_layers
from steerseg.lvlm.prefix import cached
from steerseg.lvlm.static_cache import StaticCacheLayer, StaticStateLayer
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

_BUCKET = 512
"""Buffers have room for a multiple of so many tokens, so that questions of other lengths find their graph captured."""

_SPARE = 256
"""Room beyond the question for which buffers are made, for longer ones about the same video."""

_MOST_BUFFERS = 2

_CHECK_INTERVAL = 8
"""Tokens between two checks whether the answer has ended."""

_UNSUPPORTED_SETTINGS = (
    "no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "encoder_repetition_penalty",
)


class _TokenLayer(StaticCacheLayer):
    """Buffers for M tokens, written one by one at the index that a tensor holds."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, index: torch.Tensor) -> None:
        super().__init__(keys, values)
        self.index = index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token and return the whole buffers; the mask hides what is not written yet."""
        self.keys.index_copy_(2, self.index, key_states)
        self.values.index_copy_(2, self.index, value_states)
        return self.keys, self.values


@dataclass(frozen=True)
class _Buffers:
    """The buffers of chats of up to M tokens, answer included, and the captured step over them.

    Attributes:
        cache: Keys and values of all text layers, or states.
        index: (1,) where the next token goes.
        position: (..., 1, 1) its position as the text model takes it.
        mask: (1, 1, 1, M) bool, what is written.
        token: (1, 1) the latest token.
        seen: (1, V) bool, tokens that a repetition penalty applies to.
        answer: (M,) the answer's tokens, each at its index; -1 elsewhere.
        probability: (1,) float32, of the latest token.
        probabilities: (M,) float32, of the answer's tokens.
        graph: The captured step; empty where there is none.
    """

    cache: Cache
    index: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor
    token: torch.Tensor
    seen: torch.Tensor
    answer: torch.Tensor
    probability: torch.Tensor
    probabilities: torch.Tensor
    graph: list[torch.cuda.CUDAGraph]


class GreedyDecoder:
    """Decodes answers of one frozen model.

    Args:
        model: A ``*ForConditionalGeneration`` model with a decoder and ``lm_head``.
        captures: Whether a GPU replays a captured step.

    Attributes:
        captures: The same.
        meanwhile: Called while the device decodes the tokens between two checks; never waits for the device.
        capture_seconds: Seconds that capturing steps has taken so far.
    """

    def __init__(self, model: Any, *, captures: bool = True) -> None:
        self._model = model
        self._config = model.config.get_text_config()
        self._recurrent = recurrent_layers(self._config)
        self._buffers: LruCache[int, _Buffers] = LruCache(_MOST_BUFFERS)
        self.captures = captures
        self.meanwhile: Callable[[], None] = lambda: None
        self.capture_seconds = 0.0

    @contextmanager
    def doing(self, meanwhile: Callable[[], None]) -> Iterator[None]:
        """Inside, ``meanwhile`` is called while answers are decoded."""
        before, self.meanwhile = self.meanwhile, meanwhile
        try:
            yield
        finally:
            self.meanwhile = before

    def forget(self) -> None:
        """Drop the buffers, and the captured steps over them."""
        self._buffers.clear()

    @property
    def supported(self) -> bool:
        """Whether the model's settings change greedy choices by a repetition penalty at most."""
        settings = self._model.generation_config
        return not any(getattr(settings, name, None) for name in _UNSUPPORTED_SETTINGS)

    @torch.no_grad()
    def decode(
        self,
        past: Past,
        hidden: torch.Tensor,
        ids: torch.Tensor,
        position: torch.Tensor,
        *,
        max_new_tokens: int,
        complete: Callable[[Sequence[int]], bool] | None = None,
    ) -> list[tuple[int, float]]:
        """Decode an answer after a question that was read.

        Args:
            past: What text layers keep of the S tokens of the chat; copied.
            hidden: (1, d) the text model's output at the last of them.
            ids: (1, S) the tokens.
            position: (..., 1, 1) the position of the token that comes next.
            max_new_tokens: Limit of new tokens.
            complete: Whether an answer of some tokens is complete; asked now and then.

        Returns:
            The tokens before the one that ends the answer, each with its probability in [0, 1].
        """
        length = ids.shape[1]
        buffers = self._buffers_for(length + max_new_tokens, past, position)
        first = (self._prime(buffers, past, hidden, ids, position), float(buffers.probability))
        ends = self._end_tokens()
        for step in range(1, max_new_tokens):
            if step % _CHECK_INTERVAL == 0:
                self.meanwhile()
                so_far = [first[0], *buffers.answer[length + 1 : length + step].tolist()]
                if not ends.isdisjoint(so_far) or (complete is not None and complete(so_far)):
                    break
            if buffers.graph:
                buffers.graph[0].replay()
            else:
                self._step(buffers)
        later = slice(length + 1, length + max_new_tokens)
        tokens, probabilities = buffers.answer[later].tolist(), buffers.probabilities[later].tolist()
        answer = [first, *((t, p) for t, p in zip(tokens, probabilities, strict=True) if t >= 0)]
        return list(takewhile(lambda token: token[0] not in ends, answer))

    def _end_tokens(self) -> frozenset[int]:
        end = self._model.generation_config.eos_token_id
        return frozenset() if end is None else frozenset([end] if isinstance(end, int) else end)

    def _buffers_for(self, length: int, past: Past, position: torch.Tensor) -> _Buffers:
        """The smallest buffers with room for ``length`` tokens; new ones where these would be far too large."""
        size = min((size for size in self._buffers if size >= length), default=0)
        if size == 0 or size > length + 4 * _BUCKET:  # every step reads the whole buffers
            size = -(-(length + _SPARE) // _BUCKET) * _BUCKET
            while len(self._buffers) >= _MOST_BUFFERS:  # before new ones are made, since all may not fit
                self._buffers.pop(next(iter(self._buffers)))
            self._buffers.put(size, self._make_buffers(size, past, position))
        buffers = self._buffers.get(size)
        assert buffers is not None
        return buffers

    def _make_buffers(self, size: int, past: Past, position: torch.Tensor) -> _Buffers:
        like = past[0][0]
        device = like.device
        index = torch.zeros(1, dtype=torch.long, device=device)
        layers: list[_TokenLayer | StaticStateLayer] = []
        for layer, kept in enumerate(past):
            if layer in self._recurrent:
                layers.append(StaticStateLayer(*(torch.zeros_like(part) for part in kept)))
                continue
            shape = (1, kept[0].shape[1], size, kept[0].shape[3])
            keys, values = (torch.zeros(shape, dtype=like.dtype, device=device) for _ in range(2))
            layers.append(_TokenLayer(keys, values, index))
        buffers = _Buffers(
            Cache(layers=layers),
            index,
            position.clone(),
            mask=torch.zeros(1, 1, 1, size, dtype=torch.bool, device=device),
            token=torch.zeros(1, 1, dtype=torch.long, device=device),
            seen=torch.zeros(1, self._model.lm_head.weight.shape[0], dtype=torch.bool, device=device),
            answer=torch.full((size,), -1, dtype=torch.long, device=device),
            probability=torch.zeros(1, dtype=torch.float32, device=device),
            probabilities=torch.zeros(size, dtype=torch.float32, device=device),
            graph=[],
        )
        if device.type == "cuda" and self.captures:
            start = time.perf_counter()
            try:
                buffers.graph.append(self._capture(buffers))
            except RuntimeError as error:
                torch.cuda.synchronize(device)
                log.warning("answers are decoded step by step, since a step could not be captured: %s", error)
            self.capture_seconds += time.perf_counter() - start
        return buffers

    def _capture(self, buffers: _Buffers) -> torch.cuda.CUDAGraph:
        # Of its replays, too, small kernels go before the large ones of other work.
        stream = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries make their work spaces outside of the capture
            for _ in range(2):
                self._step(buffers)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._step(buffers)
        return graph

    def _prime(
        self,
        buffers: _Buffers,
        past: Past,
        hidden: torch.Tensor,
        ids: torch.Tensor,
        position: torch.Tensor,
    ) -> int:
        """Fill the buffers from the question, and choose the first token of the answer."""
        length = ids.shape[1]
        for fixed, (keys, values) in zip(buffers.cache.layers, past, strict=True):
            if isinstance(fixed, StaticStateLayer):
                fixed.hold(keys, values)
                continue
            fixed.keys[:, :, :length].copy_(keys)
            fixed.values[:, :, :length].copy_(values)
            fixed.values[:, :, length:].zero_()  # hidden, but 0 times what is no number is none either
        buffers.index.fill_(length)
        buffers.position.copy_(position)
        buffers.mask.zero_()[..., :length] = True
        buffers.seen.zero_().scatter_(1, ids, True)
        buffers.answer.fill_(-1)
        self._choose(buffers, hidden)
        return int(buffers.token)

    def _step(self, buffers: _Buffers) -> None:
        """Read the latest token and choose the next. Nothing here waits for the device."""
        buffers.mask.index_fill_(3, buffers.index, True)
        text_model = self._model.get_decoder()
        output = text_model(
            inputs_embeds=self._model.get_input_embeddings()(buffers.token),
            position_ids=buffers.position,
            attention_mask=masks_by_kind(self._config, buffers.mask),
            **cached(text_model, buffers.cache),
            use_cache=True,
        )
        buffers.index.add_(1)
        buffers.position.add_(1)
        self._choose(buffers, output.last_hidden_state[:, -1])
        buffers.answer.index_copy_(0, buffers.index, buffers.token[0])
        buffers.probabilities.index_copy_(0, buffers.index, buffers.probability)

    def _choose(self, buffers: _Buffers, hidden: torch.Tensor) -> None:
        """Choose the most probable token, after the repetition penalty; its probability is that before."""
        logits: torch.Tensor = self._model.lm_head(hidden).float()
        probabilities = logits.softmax(dim=-1)
        penalty = self._model.generation_config.repetition_penalty or 1.0
        if penalty != 1.0:
            scaled = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(buffers.seen, scaled, logits)
        buffers.token.copy_(logits.argmax(dim=-1, keepdim=True))
        buffers.probability.copy_(probabilities.gather(1, buffers.token)[0])
        buffers.seen.scatter_(1, buffers.token, True)
