"""Learned vectors that a frozen model reads in the place of text, and their training: two learners beside the glossary.

A mark of characters that nobody types stands in the text, and while :func:`standing_in` is in force the model reads
learned vectors in place of the embeddings of the mark's tokens.

- *Textual inversion* (Gal et al., An image is worth one word, arXiv 2208.01618): the mark takes a word's place in the
  expression, in all questions (:func:`mark_term`).
- *A soft prompt for the reasoning pass* (Lester et al., The power of scale for parameter-efficient prompt tuning,
  2021): the mark stands before the reasoning question.

Both learn by teacher forcing: the model is to answer as it answers with a plain noun in the word's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.lvlm.prefix import cached
from steerseg.words.glossary import plural_of

WORD_MARK = "\ue000"
PROMPT_MARK = "\ue001" * 4
"""Private characters of Unicode, a few tokens each: they have no meaning, and tokenizers join them with nothing."""

_IGNORED = -100


@dataclass(frozen=True)
class StandIn:
    """A mark and the vectors that are read in its place.

    Attributes:
        mark: Text that nobody types.
        vectors: (n, d) float32, one for each token of the mark.
    """

    mark: str
    vectors: Tensor

    @classmethod
    def around(
        cls, lvlm: LVLM, mark: str, embedding: Tensor, *, noise: float = 0.05, seed: int = 1
    ) -> StandIn:
        """A start: one embedding for every token, with a little noise that lets them part.

        Args:
            lvlm: The model.
            mark: The mark.
            embedding: (d,) where every vector begins.
            noise: Its deviation, as a share of the embedding's.
            seed: Of the noise.
        """
        row = embedding.detach().float().cpu()
        size = (len(tokens_of(lvlm, mark)), len(row))
        spread = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        return cls(mark, row + noise * row.std() * spread)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return self.vectors.nbytes


def tokens_of(lvlm: LVLM, text: str) -> list[int]:
    """The tokens of a piece of text."""
    ids: list[int] = lvlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def mean_embedding(lvlm: LVLM, names: Mapping[str, float]) -> Tensor:
    """(d,) mean of the embeddings of names, each name weighted by its probability."""
    rows = [lvlm.embeddings.weight[tokens_of(lvlm, f" {name}")].float().mean(dim=0) for name in names]
    weights = torch.tensor(list(names.values()), device=lvlm.device)
    return (torch.stack(rows) * weights[:, None]).sum(dim=0) / weights.sum()


def mark_term(expression: str, term: str, mark: str = WORD_MARK) -> str:
    """An expression with a mark in the place of a term or its plural, and of the space before it.

    Example:
        >>> mark_term("the Blick on the left", "blick", "#")
        'the# on the left'
    """
    forms = "|".join(re.escape(form) for form in (plural_of(term), term))
    return re.sub(rf"\s*(?<!\w)(?:{forms})(?!\w)", mark, expression, flags=re.IGNORECASE)


@contextmanager
def standing_in(lvlm: LVLM, stand_ins: Sequence[StandIn]) -> Iterator[None]:
    """Inside, the model reads the vectors of some stand-ins wherever their marks stand in a chat."""
    parts = [
        (torch.tensor(tokens_of(lvlm, one.mark), device=lvlm.device), one.vectors.to(lvlm.device))
        for one in stand_ins
    ]

    def replace_marks(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for tokens, vectors in parts:
            output = _replaced(args[0], output, tokens, vectors)
        return output

    handle = lvlm.embeddings.register_forward_hook(replace_marks)
    try:
        yield
    finally:
        handle.remove()


def _replaced(ids: Tensor, embeds: Tensor, tokens: Tensor, vectors: Tensor) -> Tensor:
    """Embeddings (B, S, d) of ``ids`` (B, S) with vectors (n, d) wherever the n tokens follow each other."""
    count = len(tokens)
    if ids.shape[1] <= count:  # a token of an answer, not a chat
        return embeds
    found = (ids.unfold(1, count, 1) == tokens).all(dim=-1)
    rows, starts = found.nonzero(as_tuple=True)
    columns = starts[:, None] + torch.arange(count, device=ids.device)
    values = vectors.to(embeds.dtype).expand(len(rows), -1, -1)
    return embeds.index_put((rows[:, None].expand_as(columns), columns), values)


@dataclass(frozen=True)
class VideoPast:
    """What the text model keeps of a chat up to its last visual token, which no text after it changes.

    Attributes:
        layers: Of each text layer keys and values (1, H_kv, P, d).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Tokens P."""
        return self.layers[0][0].shape[2]

    @classmethod
    @torch.no_grad()
    def read(cls, lvlm: LVLM, vision: VisionFeatures) -> VideoPast:
        """Read a video."""
        inputs = lvlm.chats.with_positions(lvlm.chats.inputs([lvlm.chats.write("?", vision)], vision))
        length = _length(lvlm, inputs["input_ids"], vision)
        past, _ = lvlm.reader.read_question(inputs, length, None)
        return cls(tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in past))


def _length(lvlm: LVLM, ids: Tensor, vision: VisionFeatures) -> int:
    return int(lvlm.chats.vision_indices(ids, vision.kind)[0, -1]) + 1


@dataclass(frozen=True)
class TaughtAnswer:
    """A question about a video with the answer that it should get.

    Attributes:
        past: The video.
        ids: (T,) tokens after the video, the answer included.
        positions: (..., T) their positions.
        labels: (T,) the same tokens where they are of the answer.
        weight: In the loss.
    """

    past: VideoPast
    ids: Tensor
    positions: Tensor
    labels: Tensor
    weight: float

    @classmethod
    def write(
        cls,
        lvlm: LVLM,
        vision: VisionFeatures,
        past: VideoPast,
        question: str,
        answer: str,
        weight: float = 1.0,
    ) -> TaughtAnswer:
        """Write the chat.

        Args:
            lvlm: The model.
            vision: The video's visual tokens.
            past: The same, as the text model read them.
            question: The question, with whatever marks.
            answer: The wanted answer.
            weight: In the loss.
        """
        chat = lvlm.chats.write(question, vision)
        asked = lvlm.chats.inputs([chat], vision)["input_ids"].shape[1]
        inputs = lvlm.chats.with_positions(lvlm.chats.inputs([chat + answer], vision))
        ids = inputs["input_ids"][0]
        labels = ids.clone()
        labels[:asked] = _IGNORED
        return cls(
            past,
            ids[past.length :].to(lvlm.device),
            inputs["position_ids"][..., 0, past.length :].to(lvlm.device),
            labels[past.length :].to(lvlm.device),
            weight,
        )


def answer_loss(lvlm: LVLM, taught: Sequence[TaughtAnswer]) -> Tensor:
    """Weighted mean cross-entropy, in nats a token, of answers to questions about videos of one layout.

    Gradients flow to the vectors that stand in for marks.
    """
    longest = max(len(one.ids) for one in taught)

    def padded(part: Tensor, value: int = 0) -> Tensor:
        return F.pad(part, (0, longest - part.shape[-1]), value=value)  # after the text: it changes nothing

    cache = DynamicCache()
    for index, layers in enumerate(zip(*(one.past.layers for one in taught), strict=True)):
        keys, values = (torch.cat(part) for part in zip(*layers, strict=True))
        cache.update(keys, values, index)
    length = taught[0].past.length
    seen = torch.ones(longest, length + longest, dtype=torch.bool, device=lvlm.device).tril(length)
    hidden = lvlm.text_model(
        inputs_embeds=lvlm.embeddings(torch.stack([padded(one.ids) for one in taught])),
        position_ids=torch.stack([padded(one.positions) for one in taught], dim=-2),
        attention_mask=seen[None, None].expand(len(taught), 1, -1, -1),
        **cached(lvlm.text_model, cache),
        use_cache=True,
    ).last_hidden_state
    labels = torch.stack([padded(one.labels, _IGNORED) for one in taught])[:, 1:]
    told = labels != _IGNORED
    logits = lvlm.model.lm_head(hidden[:, :-1][told]).float()
    weights = torch.tensor([one.weight for one in taught], device=lvlm.device)
    of_token = (weights / told.sum(dim=1) / weights.sum())[:, None].expand_as(told)[told]
    return (F.cross_entropy(logits, labels[told], reduction="none") * of_token).sum()


@dataclass(frozen=True)
class Schedule:
    """How stand-ins learn.

    Attributes:
        steps: Of AdamW, without weight decay; the rate falls to zero along a cosine.
        rate: Peak rate, as a share of the deviation of the model's embeddings.
        rows: Answers of a step.
        seed: Of their order.
    """

    steps: int = 60
    rate: float = 0.1
    rows: int = 12
    seed: int = 1


def teach(
    lvlm: LVLM, start: StandIn, taught: Sequence[TaughtAnswer], schedule: Schedule
) -> tuple[StandIn, list[float]]:
    """Train a stand-in; the model stays as it is.

    Args:
        lvlm: The frozen model.
        start: Where the vectors begin.
        taught: The answers, of videos of any layouts.
        schedule: See :class:`Schedule`.

    Returns:
        The stand-in, and the loss of each step.
    """
    vectors = start.vectors.to(lvlm.device, torch.float32).clone().requires_grad_()
    rate = schedule.rate * float(lvlm.embeddings.weight.float().std())
    optimizer = torch.optim.AdamW([vectors], lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, schedule.steps))
    rng = np.random.default_rng(schedule.seed)
    losses = []
    with standing_in(lvlm, [replace(start, vectors=vectors)]):
        for _ in range(schedule.steps):
            optimizer.zero_grad()
            chosen = [taught[index] for index in rng.permutation(len(taught))[: schedule.rows]]
            total = 0.0
            for part in _of_one_length(chosen):
                loss = answer_loss(lvlm, part) * (len(part) / len(chosen))
                torch.autograd.backward(loss)
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_([vectors], 1.0)
            optimizer.step()
            falling.step()
            losses.append(total)
    return replace(start, vectors=vectors.detach().cpu()), losses


def _of_one_length(taught: Sequence[TaughtAnswer]) -> list[list[TaughtAnswer]]:
    """Answers about videos of as many tokens each, which go through the model together."""
    groups: dict[int, list[TaughtAnswer]] = {}
    for one in taught:
        groups.setdefault(one.past.length, []).append(one)
    return list(groups.values())
