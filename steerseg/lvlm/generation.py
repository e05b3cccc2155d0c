"""Greedy answers without a word from the host in between: each token's step is one replay of a CUDA graph.

A step of a 7B model is a few hundred small kernels, which take several times longer to launch one by one than to run.
Everything that changes from token to token lives in buffers on the device, so that a step can be captured once and
replayed. Where capturing does not work, the same steps run one by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache

from steerseg.lvlm.prefix import cached
from steerseg.lvlm.static_cache import RoomLayer

_log = logging.getLogger(__name__)

_BUCKET = 512
"""Room is made in steps of so many tokens, so that questions of other lengths find their graph captured."""

_SPARE = 256
"""Room beyond the question that made it, for longer ones about the same video."""

_MOST_ROOMS = 2

_LOOK = 8
"""Tokens between two looks at whether the answer has ended."""

_CHANGES_WORDS = (
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


Past = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Of each text layer keys and values (1, H_kv, S, d)."""


class _TokenLayer(RoomLayer):
    """Room for M tokens, written one by one at the place that a tensor says."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, place: torch.Tensor) -> None:
        super().__init__(keys, values)
        self.place = place

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token and show the whole room; the mask hides what is not written yet."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: The answer.
        tokens: Its tokens as text, special ones left out, each with the probability in [0, 1] that the model gave it.
    """

    text: str
    tokens: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int], probabilities: Sequence[float]) -> Answer:
        """From the ids of tokens; several of them may make up one letter, which goes to the last."""
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


@dataclass(frozen=True)
class _Room:
    """The buffers of answers of up to M tokens, question included, and the captured step over them."""

    cache: Cache
    place: torch.Tensor  # (1,) where the next token goes
    position: torch.Tensor  # (..., 1, 1) its position as the text model takes it
    mask: torch.Tensor  # (1, 1, 1, M) bool, what is written
    token: torch.Tensor  # (1, 1)
    said: torch.Tensor  # (1, V) bool, words that a repetition penalty applies to
    answer: torch.Tensor  # (M,) the answer, at the places that its tokens have been written to
    chance: torch.Tensor  # (1,) float32 probability of the token
    chances: torch.Tensor  # (M,) those of the answer
    graph: list[torch.cuda.CUDAGraph]


class GreedyAnswers:
    """Answers of one frozen model.

    Args:
        model: A ``*ForConditionalGeneration`` model with ``model.language_model`` and ``lm_head``.
        captures: Whether a GPU replays a captured step.

    Attributes:
        captures: The same.
        capture_seconds: What capturing steps has taken so far.
    """

    def __init__(self, model: Any, *, captures: bool = True) -> None:
        self._model = model
        self._rooms: dict[int, _Room] = {}
        self.captures = captures
        self.capture_seconds = 0.0

    @property
    def serves(self) -> bool:
        """Whether the model's settings ask for nothing that changes words but a repetition penalty."""
        settings = self._model.generation_config
        return not any(getattr(settings, name, None) for name in _CHANGES_WORDS)

    @torch.no_grad()
    def answer(
        self,
        past: Past,
        hidden: torch.Tensor,
        ids: torch.Tensor,
        position: torch.Tensor,
        *,
        most: int,
        enough: Callable[[Sequence[int]], bool] | None = None,
    ) -> list[tuple[int, float]]:
        """Go on after a question that was read.

        Args:
            past: Keys and values of the S tokens of the chat; copied.
            hidden: (1, d) the text model's output at the last of them.
            ids: (1, S) the tokens.
            position: (..., 1, 1) the position of the token that comes next.
            most: Limit of new tokens.
            enough: Whether the tokens of an answer are all that is wanted of it.

        Returns:
            The tokens before the one that ends the answer, each with its probability.
        """
        length = ids.shape[1]
        room = self._room_for(length + most, past, position)
        first = (self._prime(room, past, hidden, ids, position), float(room.chance))
        ends = self._ends()
        for step in range(1, most):
            if step % _LOOK == 0:
                so_far = [first[0], *room.answer[length + 1 : length + step].tolist()]
                if not ends.isdisjoint(so_far) or (enough is not None and enough(so_far)):
                    break
            if room.graph:
                room.graph[0].replay()
            else:
                self._step(room)
        rest = slice(length + 1, length + most)
        said = [first, *zip(room.answer[rest].tolist(), room.chances[rest].tolist(), strict=True)]
        return _until_end([(token, chance) for token, chance in said if token >= 0], ends)

    def _ends(self) -> frozenset[int]:
        end = self._model.generation_config.eos_token_id
        return frozenset() if end is None else frozenset([end] if isinstance(end, int) else end)

    def _room_for(self, length: int, past: Past, position: torch.Tensor) -> _Room:
        size = min((size for size in self._rooms if size >= length), default=0)
        if size == 0 or size > length + 4 * _BUCKET:  # every step reads the whole room
            size = -(-(length + _SPARE) // _BUCKET) * _BUCKET
            while len(self._rooms) >= _MOST_ROOMS:  # videos of one project need the same
                del self._rooms[next(iter(self._rooms))]
            self._rooms[size] = self._make_room(size, past, position)
        self._rooms[size] = self._rooms.pop(size)  # the last to go
        return self._rooms[size]

    def _make_room(self, size: int, past: Past, position: torch.Tensor) -> _Room:
        like = past[0][0]
        device = like.device
        place = torch.zeros(1, dtype=torch.long, device=device)
        layers = []
        for known, _ in past:
            shape = (1, known.shape[1], size, known.shape[3])
            keys, values = (torch.zeros(shape, dtype=like.dtype, device=device) for _ in range(2))
            layers.append(_TokenLayer(keys, values, place))
        room = _Room(
            Cache(layers=layers),
            place,
            position.clone(),
            torch.zeros(1, 1, 1, size, dtype=torch.bool, device=device),
            torch.zeros(1, 1, dtype=torch.long, device=device),
            torch.zeros(1, self._model.lm_head.weight.shape[0], dtype=torch.bool, device=device),
            torch.full((size,), -1, dtype=torch.long, device=device),
            torch.zeros(1, dtype=torch.float32, device=device),
            torch.zeros(size, dtype=torch.float32, device=device),
            [],
        )
        if device.type == "cuda" and self.captures:
            start = time.perf_counter()
            try:
                room.graph.append(self._captured(room))
            except RuntimeError as error:
                torch.cuda.synchronize(device)
                _log.warning("answers are made step by step, since a step could not be captured: %s", error)
            self.capture_seconds += time.perf_counter() - start
        return room

    def _captured(self, room: _Room) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries make their work spaces outside of the capture
            for _ in range(2):
                self._step(room)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(room)
        return graph

    def _prime(
        self, room: _Room, past: Past, hidden: torch.Tensor, ids: torch.Tensor, position: torch.Tensor
    ) -> int:
        """Fill the buffers from the question; returns the first word of the answer."""
        length = ids.shape[1]
        for fixed, (keys, values) in zip(room.cache.layers, past, strict=True):
            fixed.keys[:, :, :length].copy_(keys)
            fixed.values[:, :, :length].copy_(values)
            fixed.values[:, :, length:].zero_()  # hidden, but 0 times what is no number is none either
        room.place.fill_(length)
        room.position.copy_(position)
        room.mask.zero_()[..., :length] = True
        room.said.zero_().scatter_(1, ids, True)
        room.answer.fill_(-1)
        self._choose(room, hidden)
        return int(room.token)

    def _step(self, room: _Room) -> None:
        """Read the last word and choose the next. Nothing here waits for the device."""
        room.mask.index_fill_(3, room.place, True)
        text_model = self._model.model.language_model
        output = text_model(
            inputs_embeds=self._model.get_input_embeddings()(room.token),
            position_ids=room.position,
            attention_mask=room.mask,
            **cached(text_model, room.cache),
            use_cache=True,
        )
        room.place.add_(1)
        room.position.add_(1)
        self._choose(room, output.last_hidden_state[:, -1])
        room.answer.index_copy_(0, room.place, room.token[0])
        room.chances.index_copy_(0, room.place, room.chance)

    def _choose(self, room: _Room, hidden: torch.Tensor) -> None:
        logits: torch.Tensor = self._model.lm_head(hidden).float()
        chances = logits.softmax(dim=-1)
        penalty = self._model.generation_config.repetition_penalty or 1.0
        if penalty != 1.0:
            scaled = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(room.said, scaled, logits)
        room.token.copy_(logits.argmax(dim=-1, keepdim=True))
        room.chance.copy_(chances.gather(1, room.token)[0])
        room.said.scatter_(1, room.token, True)


def _until_end(said: Sequence[tuple[int, float]], ends: frozenset[int]) -> list[tuple[int, float]]:
    """What was said before the first token that ends an answer."""
    return list(takewhile(lambda one: one[0] not in ends, said))
