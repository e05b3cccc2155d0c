"""Validation of the demo's vision-language model: its answers, and where its raw attention points.

Run during training on fixed clips. Answers are generated greedily; pointing is the share of clips in which
the largest cell of the raw (not steered) grounding map lies on the target.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steerseg.demo import prompts
from steerseg.demo.language import Referral
from tools.demo_models.lvlm_data import MOST_OBJECTS, Batch, BatchMaker, Clip, Mode, Question, Vocabulary
from tools.demo_models.lvlm_dense import cell_shares
from tools.demo_models.lvlm_fast import PREFIX_TEXT, FastLVLM, Layout, attention_bias, rollout

if TYPE_CHECKING:
    from tools.demo_models.train_lvlm import Painter

NATIVE = (270, 480)
AT_ONCE = 64
LONGEST_ANSWER = 40
VISIBLE = 0.15
"""Share of a cell that the target must cover to count as hit."""


@dataclass(frozen=True)
class Validation:
    """Fixed clips of one pass and one expression for each."""

    mode: Mode
    batch: Batch
    referrals: tuple[Referral, ...]


def validation_sets(maker: BatchMaker, count: int, seed: int = 20_240) -> list[Validation]:
    """Clips that training never draws (its seeds are others), kinds of expression in turn."""
    kinds = ("implicit", "spatial", "motion", "attribute", "comparative", "explicit")
    sets: list[Validation] = []
    modes: tuple[Mode, ...] = ("video", "frame")
    for mode in modes:
        rng = np.random.default_rng([seed, len(sets)])
        clips: list[Clip] = []
        chosen: list[Referral] = []
        while len(clips) < count:
            clip, choices = maker.clip(rng, NATIVE, mode)
            wanted = kinds[len(clips) % len(kinds)]
            fitting = [
                referral
                for referral in choices
                if referral.kind == wanted and clip.visible[referral.targets[0]].max() > 0.6
            ]
            if fitting:
                clips.append(clip)
                chosen.append(fitting[0])
        asked = [[Question("ground", prompts.grounding_text(r.expression), r.name, r)] for r in chosen]
        sets.append(Validation(mode, maker.pack(clips, asked, NATIVE, mode), tuple(chosen)))
    return sets


@torch.no_grad()
def generate(
    fast: FastLVLM,
    visual: Tensor,
    layout: Layout,
    questions: Sequence[Sequence[int]],
    stop: int,
    longest: int = LONGEST_ANSWER,
) -> list[list[int]]:
    """Greedy answers, without a cache.

    Args:
        fast: The model.
        visual: (B, N, d) visual tokens.
        layout: Their layout.
        questions: Tokens of each row's question, from behind ``<|vision_end|>`` to where the answer begins.
        stop: Token that ends an answer.
        longest: Most tokens of an answer.
    """
    device = visual.device
    lengths = torch.tensor([len(question) for question in questions], device=device)
    room = int(lengths.max()) + longest
    ids = torch.zeros(len(questions), room, dtype=torch.long, device=device)
    for row, question in enumerate(questions):
        ids[row, : len(question)] = torch.tensor(question, device=device)
    positions = torch.arange(room, device=device).expand(len(questions), -1)
    rows = torch.arange(len(questions), device=device)
    ended = torch.zeros(len(questions), dtype=torch.bool, device=device)
    begun = lengths.clone()
    for _ in range(longest):
        segments = (positions < lengths[:, None]).int()
        embeddings = fast.embed(visual, ids)
        hidden, _ = fast.think(embeddings, layout, positions, segments, middle=0, plain=True)
        last = hidden[rows, layout.prefix + lengths - 1]
        token = fast.logits(last).argmax(-1)
        token = torch.where(ended, torch.full_like(token, stop), token)
        ids[rows, lengths] = token
        ended |= token == stop
        lengths = lengths + (~ended).long()
        if bool(ended.all()):
            break
    return [ids[row, begun[row] : lengths[row]].tolist() for row in range(len(questions))]


@torch.no_grad()
def raw_maps(fast: FastLVLM, visual: Tensor, layout: Layout, questions: Sequence[Sequence[int]]) -> Tensor:
    """Raw grounding maps (B, pairs, rows, columns): rollout over the upper half of the layers, smoothed."""
    device = visual.device
    room = max(len(question) for question in questions)
    ids = torch.zeros(len(questions), room, dtype=torch.long, device=device)
    lengths = torch.tensor([len(question) for question in questions], device=device)
    for row, question in enumerate(questions):
        ids[row, : len(question)] = torch.tensor(question, device=device)
    positions = torch.arange(room, device=device).expand(len(questions), -1)
    segments = (positions < lengths[:, None]).int()
    half = len(fast.language.layers) // 2
    taken: tuple[list[Tensor], list[Tensor]] = ([], [])

    def tap(layer: int, queries: Tensor, keys: Tensor) -> None:
        if layer >= half:
            taken[0].append(queries)
            taken[1].append(keys)

    fast.think(fast.embed(visual, ids), layout, positions, segments, middle=0, plain=True, tap=tap)
    bias = attention_bias(segments, layout.prefix, torch.float32)
    seen = slice(PREFIX_TEXT, PREFIX_TEXT + layout.tokens)
    rolled = rollout(taken[0], taken[1], bias, layout.prefix + lengths - 1, seen)
    maps = rolled.reshape(-1, 1, layout.rows, layout.columns)
    kernel = 3 if layout.video else 7
    steps = torch.arange(kernel, device=device) - kernel // 2
    bell = torch.exp(-0.5 * steps.float() ** 2)
    window = (bell[:, None] * bell[None, :])[None, None]
    mass = F.conv2d(torch.ones_like(maps[:1]), window, padding=kernel // 2)
    smooth = F.conv2d(maps, window, padding=kernel // 2) / mass
    return smooth.reshape(-1, layout.pairs, layout.rows, layout.columns)


def _attributes(text: str) -> list[str]:
    try:
        found = json.loads(text)
        return [str(item) for item in found["attributes"]]
    except (ValueError, KeyError, TypeError):
        return []


@torch.no_grad()
def validate(fast: FastLVLM, painter: Painter, vocabulary: Vocabulary, part: Validation) -> dict[str, float]:
    """All figures of one set of clips.

    Returns:
        For videos ``attribute_name``, ``attribute_recall`` (of what follows the name) and ``attribute_form``
        (valid JSON); ``name``, ``name_<kind>``, ``name_steered`` (true attributes given); ``point`` and
        ``point_steered`` (pointing accuracy without and with true attributes); ``iou`` and ``iou_steered``
        (of the cells above half of the map's range with the target's cells).
    """
    found: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(part.referrals), AT_ONCE):
        batch = part.batch.part(slice(start, start + AT_ONCE))
        referrals = part.referrals[start : start + AT_ONCE]
        layout = batch.layout
        pixels, ids = painter.draw(batch, native=True)
        visual = fast.see(painter.normalise(pixels), layout, plain=True)
        shares = cell_shares(ids, layout, MOST_OBJECTS)
        target = torch.stack([shares[row][..., list(r.targets)].sum(-1) for row, r in enumerate(referrals)])

        def prompt(texts: Sequence[str]) -> list[list[int]]:
            return [ids + vocabulary.turn for ids in vocabulary.encode(texts)]

        stop = vocabulary.end[0]
        plain = prompt([prompts.grounding_text(r.expression) for r in referrals])
        steered = prompt([prompts.grounding_text(r.expression, r.attributes) for r in referrals])
        if part.mode == "video":
            asked = prompt([prompts.reasoning_text(r.expression) for r in referrals])
            for answer, referral in zip(generate(fast, visual, layout, asked, stop), referrals, strict=True):
                said = _attributes(vocabulary.decode(answer))
                found["attribute_form"].append(float(bool(said)))
                found["attribute_name"].append(float(said[:1] == [referral.name]))
                rest = referral.attributes[1:]
                if rest:
                    found["attribute_recall"].append(sum(item in said for item in rest) / len(rest))
        for suffix, questions in (("", plain), ("_steered", steered)):
            answers = generate(fast, visual, layout, questions, stop, longest=10)
            maps = raw_maps(fast, visual, layout, questions)
            for row, referral in enumerate(referrals):
                right = float(vocabulary.decode(answers[row]) == referral.name)
                found[f"name{suffix}"].append(right)
                if not suffix:
                    found[f"name_{referral.kind}"].append(right)
                if float(target[row].max()) < 0.3:
                    continue
                peak = int(maps[row].argmax())
                found[f"point{suffix}"].append(float(target[row].flatten()[peak] >= VISIBLE))
                low, high = maps[row].min(), maps[row].max()
                above = (maps[row] - low) >= 0.5 * (high - low)
                on = target[row] >= 0.5
                union = float((above | on).sum())
                found[f"iou{suffix}"].append(float((above & on).sum()) / max(union, 1.0))
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}
