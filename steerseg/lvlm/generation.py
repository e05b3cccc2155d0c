"""Greedy decoding that never waits for the host: each step, of one or more answers, is a replay of a CUDA graph.

A step of a 7B model is a few hundred small kernels, which take several times longer to launch one by one than to run.
Everything that changes from token to token lies in buffers on the device, so that a step can be captured once and
replayed. Where capturing does not work, the same steps run one by one. A step reads all weights, whatever the number of
answers, so that four answers take little longer than one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache

from steerseg.lvlm.layer_passes import write_token
from steerseg.lvlm.past import Past, masks_by_kind, recurrent_layers
from steerseg.lvlm.prefix import cached
from steerseg.lvlm.static_cache import StaticCacheLayer, StaticStateLayer
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

_BUCKET = 512
"""Buffers have room for a multiple of so many tokens, so that questions of other lengths find their graph captured."""

_SPARE = 256
"""Room beyond the question for which buffers are made, for longer ones about the same video."""

_MOST_BUFFERS = 3

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
    """Buffers for M tokens of B chats, written one by one at the index of each chat that a tensor holds."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, index: torch.Tensor) -> None:
        super().__init__(keys, values)
        self.index = index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token of each chat and return the whole buffers; the mask hides what is not written yet."""
        write_token(self.keys, self.values, key_states, value_states, self.index)
        return self.keys, self.values


@dataclass(frozen=True)
class Question:
    """A chat of S tokens that was read, and whose answer comes next.

    Attributes:
        past: What text layers keep of it; copied.
        hidden: (1, d) the text model's output at the last token.
        ids: (1, S) the tokens.
        position: (..., 1, 1) the position of the token that comes next.
        complete: Whether an answer of some tokens is complete; asked now and then.
    """

    past: Past
    hidden: torch.Tensor
    ids: torch.Tensor
    position: torch.Tensor
    complete: Callable[[Sequence[int]], bool]


@dataclass(frozen=True)
class _Buffers:
    """The buffers of B chats of up to M tokens, answers included, and the captured step over them.

    Attributes:
        rows: (B,) the numbers of the chats.
        cache: Keys and values of all text layers, or states.
        index: (B,) where the next token goes.
        position: (..., B, 1) its position as the text model takes it.
        mask: (B, 1, 1, M) bool, what is written.
        token: (B, 1) the latest token.
        seen: (B, V) bool, tokens that a repetition penalty applies to.
        answer: (B, M) the answers' tokens, each at its index; -1 elsewhere.
        probability: (B, 1) float32, of the latest token.
        probabilities: (B, M) float32, of the answers' tokens.
        graph: The captured step; empty where there is none.
    """

    rows: torch.Tensor
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

    def answers(self, lengths: Sequence[int], step: int) -> list[list[int]]:
        """The tokens of each answer after its first one, so far, by the length of each question."""
        written = [self.answer[row, length + 1 : length + step] for row, length in enumerate(lengths)]
        tokens: list[list[int]] = torch.stack(written).tolist()
        return tokens


class GreedyDecoder:
    """Decodes answers of one frozen model.

    Args:
        model: A ``*ForConditionalGeneration`` model with a decoder and ``lm_head``.
        captures: Whether a GPU replays a captured step.

    Attributes:
        captures: The same.
        meanwhile: Called while the device decodes the tokens between two checks; they never wait for the device. What
            one raises ends the answers.
        capture_seconds: Seconds that capturing steps has taken so far.
    """

    def __init__(self, model: Any, *, captures: bool = True) -> None:
        self._model = model
        self._config = model.config.get_text_config()
        self._recurrent = recurrent_layers(self._config)
        self._buffers: LruCache[tuple[int, int], _Buffers] = LruCache(_MOST_BUFFERS)
        self.captures = captures
        self.meanwhile: tuple[Callable[[], None], ...] = ()
        self.capture_seconds = 0.0

    @contextmanager
    def doing(self, *meanwhile: Callable[[], None]) -> Iterator[None]:
        """Inside, ``meanwhile`` are called while answers are decoded."""
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
        self, questions: Iterable[Question], lengths: Sequence[int], *, max_new_tokens: int
    ) -> list[list[tuple[int, float]]]:
        """Decode the answers of questions together.

        Args:
            questions: As they are read: each is copied before the next one is asked for.
            lengths: Tokens of each question.
            max_new_tokens: Limit of new tokens of each answer.

        Returns:
            Of each question the tokens before the one that ends the answer, each with its probability in [0, 1].
        """
        buffers, checks = self._prime(questions, lengths, max_new_tokens)
        firsts = list(zip(buffers.token[:, 0].tolist(), buffers.probability[:, 0].tolist(), strict=True))
        ends = self._end_tokens()
        enough = [max_new_tokens] * len(lengths)  # tokens that are wanted of each
        for step in range(1, max_new_tokens):
            if step % _CHECK_INTERVAL == 0:
                for work in self.meanwhile:
                    work()
                for row, so_far in enumerate(buffers.answers(lengths, step)):
                    tokens = [firsts[row][0], *so_far]
                    if enough[row] > step and (not ends.isdisjoint(tokens) or checks[row](tokens)):
                        enough[row] = step
                if max(enough) <= step:
                    break
            self._advance(buffers)
        answers = []
        for row, (length, first) in enumerate(zip(lengths, firsts, strict=True)):
            part = slice(length + 1, length + enough[row])
            later = zip(
                buffers.answer[row, part].tolist(), buffers.probabilities[row, part].tolist(), strict=True
            )
            tokens = [first, *(one for one in later if one[0] >= 0)]
            answers.append(list(takewhile(lambda token: token[0] not in ends, tokens)))
        return answers

    def _prime(
        self, questions: Iterable[Question], lengths: Sequence[int], max_new_tokens: int
    ) -> tuple[_Buffers, list[Callable[[Sequence[int]], bool]]]:
        """Fill buffers from questions and choose the first tokens; also returns each question's ``complete``."""
        buffers: _Buffers | None = None
        hidden, checks = [], []
        for row, question in enumerate(questions):
            if buffers is None:
                buffers = self._buffers_for(len(lengths), max(lengths) + max_new_tokens, question)
            self._hold(buffers, row, question)
            hidden.append(question.hidden.clone())
            checks.append(question.complete)
        if buffers is None:
            raise ValueError("there is no question to answer")
        self._choose(buffers, torch.cat(hidden))
        return buffers, checks

    def _advance(self, buffers: _Buffers) -> None:
        """Take one step, as a replay where it was captured."""
        if buffers.graph:
            buffers.graph[0].replay()
        else:
            self._step(buffers)

    def _end_tokens(self) -> frozenset[int]:
        end = self._model.generation_config.eos_token_id
        return frozenset() if end is None else frozenset([end] if isinstance(end, int) else end)

    def _buffers_for(self, rows: int, length: int, question: Question) -> _Buffers:
        """The smallest buffers with room for ``length`` tokens; new ones where these would be far too large."""
        fitting = (size for count, size in self._buffers if count == rows and size >= length)
        size = min(fitting, default=0)
        if size == 0 or size > length + 4 * _BUCKET:  # every step reads the whole buffers
            size = -(-(length + _SPARE) // _BUCKET) * _BUCKET
            while len(self._buffers) >= _MOST_BUFFERS:  # before new ones are made, since all may not fit
                self._buffers.pop(next(iter(self._buffers)))
            self._buffers.put((rows, size), self._make_buffers(rows, size, question))
        buffers = self._buffers.get((rows, size))
        assert buffers is not None
        return buffers

    def _make_buffers(self, rows: int, size: int, question: Question) -> _Buffers:
        like = question.past[0][0]
        device = like.device
        numbers = torch.arange(rows, device=device)
        index = torch.zeros(rows, dtype=torch.long, device=device)
        layers: list[_TokenLayer | StaticStateLayer] = []
        for layer, kept in enumerate(question.past):
            if layer in self._recurrent:
                parts = (part.new_zeros(rows, *part.shape[1:]) for part in kept)
                layers.append(StaticStateLayer(*parts))
                continue
            shape = (rows, kept[0].shape[1], size, kept[0].shape[3])
            keys, values = (torch.zeros(shape, dtype=like.dtype, device=device) for _ in range(2))
            layers.append(_TokenLayer(keys, values, index))
        position = question.position
        vocabulary = self._model.lm_head.weight.shape[0]
        buffers = _Buffers(
            numbers,
            Cache(layers=layers),
            index,
            position.expand(*position.shape[:-2], rows, 1).clone(),
            mask=torch.zeros(rows, 1, 1, size, dtype=torch.bool, device=device),
            token=torch.zeros(rows, 1, dtype=torch.long, device=device),
            seen=torch.zeros(rows, vocabulary, dtype=torch.bool, device=device),
            answer=torch.full((rows, size), -1, dtype=torch.long, device=device),
            probability=torch.zeros(rows, 1, dtype=torch.float32, device=device),
            probabilities=torch.zeros(rows, size, dtype=torch.float32, device=device),
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

    def _hold(self, buffers: _Buffers, row: int, question: Question) -> None:
        """Fill the buffers of one chat from its question."""
        length = question.ids.shape[1]
        for fixed, (keys, values) in zip(buffers.cache.layers, question.past, strict=True):
            if isinstance(fixed, StaticStateLayer):
                fixed.hold(keys, values, row)
                continue
            fixed.keys[row, :, :length].copy_(keys[0])
            fixed.values[row, :, :length].copy_(values[0])
            fixed.values[row, :, length:].zero_()  # hidden, but 0 times what is no number is none either
        buffers.index[row] = length
        buffers.position[..., row : row + 1, :] = question.position
        buffers.mask[row].zero_()[..., :length] = True
        buffers.seen[row].zero_().scatter_(0, question.ids[0], True)
        buffers.answer[row].fill_(-1)

    def _step(self, buffers: _Buffers) -> None:
        """Read the latest tokens and choose the next. Nothing here waits for the device."""
        buffers.mask.scatter_(3, buffers.index[:, None, None, None], True)
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
        buffers.answer[buffers.rows, buffers.index] = buffers.token[:, 0]
        buffers.probabilities[buffers.rows, buffers.index] = buffers.probability[:, 0]

    def _choose(self, buffers: _Buffers, hidden: torch.Tensor) -> None:
        """Choose the most probable tokens, after the repetition penalty; their probabilities are those before."""
        logits: torch.Tensor = self._model.lm_head(hidden).float()
        probabilities = logits.softmax(dim=-1)
        penalty = self._model.generation_config.repetition_penalty or 1.0
        if penalty != 1.0:
            scaled = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(buffers.seen, scaled, logits)
        buffers.token.copy_(logits.argmax(dim=-1, keepdim=True))
        buffers.probability.copy_(probabilities.gather(1, buffers.token))
        buffers.seen.scatter_(1, buffers.token, True)
