"""Expressions of several objects: F1 of instances, each found where its mean IoU is 0.5 or more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, matched, on_keyframes
from steerseg.demo.dataset import Expression
from steerseg.masks import RLE, encode_rle
from steerseg.pipeline import SteerSeg
from steerseg.verification import Opinion
from steerseg.words.counting import alternatives_for, choose_candidates, instances_meant


class PluralRow(BaseModel):
    """One expression: its true instances, those that are shown, how many match; and whether the best one alone does.

    Where presence is refused, nothing would be shown. That is noted, and F1 is told with and without it.
    """

    video: str
    text: str
    true: int
    shown: int
    right: int
    right_of_one: int
    refused: bool = False


@dataclass(frozen=True)
class _Ranked:
    rles: tuple[RLE, ...]
    score: float
    opinion: Opinion | None


def measure_plurals(steerseg: SteerSeg, one: ClipQuestions) -> list[PluralRow]:
    """Ask every expression of a clip."""
    return [_measured(steerseg, one, expression) for expression in one.clip.entry.expressions]


def _measured(steerseg: SteerSeg, one: ClipQuestions, expression: Expression) -> PluralRow:
    config = steerseg.config
    several = instances_meant(expression.text)
    config = replace(config, alternatives=alternatives_for(expression.text, config.alternatives))
    found = Asker(steerseg).ask(one.video, expression.text, config)
    masks = [found.masks(rank) for rank in range(len(found.ranking))]
    ranked = [
        _Ranked(tuple(encode_rle(frame) for frame in each), candidate.score, candidate.opinion)
        for each, candidate in zip(masks, found.ranking, strict=True)
    ]
    chosen = [masks[rank] for rank in choose_candidates(ranked, several)]
    truth = [on_keyframes(one.clip.ids == target + 1, config) for target in expression.targets]
    return PluralRow(
        video=one.clip.entry.video,
        text=expression.text,
        true=len(truth),
        shown=len(chosen),
        right=matched(chosen, truth),
        right_of_one=matched(masks[:1], truth),
        refused=steerseg.judge_presence(found.case, found.ranking, config).refused,
    )


def f1(rows: Sequence[PluralRow]) -> float:
    """F1 of instances over all expressions together."""
    return 2 * sum(row.right for row in rows) / sum(row.true + row.shown for row in rows)


def describe_plurals(rows: Sequence[PluralRow], draws: int = 2000) -> Iterator[str]:
    """The lines of a table."""
    hidden = [row.model_copy(update={"shown": 0, "right": 0}) if row.refused else row for row in rows]
    ones = [row.model_copy(update={"shown": min(1, row.shown), "right": row.right_of_one}) for row in rows]
    rng = np.random.default_rng(0)
    picks = rng.integers(len(rows), size=(draws, len(rows)))
    yield "| shown | F1 of instances | 95 % over clips | expressions | true instances |"
    yield "|---|---|---|---|---|"
    for name, chosen in (
        ("the best candidate", ones),
        ("one candidate an instance", list(rows)),
        ("the same, nothing where presence is refused", hidden),
    ):
        low, high = np.quantile([f1([chosen[i] for i in pick]) for pick in picks], [0.025, 0.975])
        true = sum(row.true for row in chosen)
        yield f"| {name} | {f1(chosen):.3f} | {low:.3f} to {high:.3f} | {len(chosen)} | {true} |"
    yield ""
    yield f"Presence is refused for {sum(row.refused for row in rows)} of {len(rows)} expressions."
