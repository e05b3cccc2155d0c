"""Stated positions: J of the first candidate by the maps alone, and where the LVLM also says where the object is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from benchmarks.meaning.presence import auroc_interval
from steerseg.pipeline import SteerSeg
from steerseg.statistics import bootstrap_mean


class LocalisationRow(BaseModel):
    """One expression; J is in [0, 1], on the keyframes.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        alike: Whether another object of the clip has the same name.
        stated: Whether the model stated positions.
        maps: J of the candidate that correlates best with the maps.
        both: J of the first candidate by the maps and the stated positions.
        correlation: Of the former with the maps, in [-1, 1].
        score: Of the latter, in [-1, 1].
        best: J of the best candidate: the most that an order can reach.
    """

    video: str
    kind: str
    text: str
    alike: bool
    stated: bool
    maps: float
    both: float
    correlation: float
    score: float
    best: float


def measure_localisation(steerseg: SteerSeg, one: ClipQuestions) -> list[LocalisationRow]:
    """Ask every expression of a clip once, and order its candidates both ways."""
    config = replace(steerseg.config, localisation=True, motion=False, verification="off")
    config = replace(config, alternatives=config.max_candidates)
    rows = []
    for expression in one.clip.entry.expressions:
        found = Asker(steerseg).ask(one.video, expression.text, config)
        truth = on_keyframes(one.clip.masks(expression), config)
        if not found.ranking:
            continue
        quality = [mean_iou(found.masks(rank), truth) for rank in range(len(found.ranking))]
        by_maps = max(range(len(quality)), key=lambda rank: found.ranking[rank].correlation)
        row = LocalisationRow(
            video=one.clip.entry.video,
            kind=expression.kind,
            text=expression.text,
            alike=expression.twin,
            stated=any(ranked.score != ranked.correlation for ranked in found.ranking),
            maps=quality[by_maps],
            both=quality[0],
            correlation=found.ranking[by_maps].correlation,
            score=found.ranking[0].score,
            best=max(quality),
        )
        rows.append(row)
    return rows


def describe_localisation(rows: Sequence[LocalisationRow]) -> Iterator[str]:
    """The lines of two tables."""
    yield "| expressions | number | by the maps | with stated positions | gain | in the best order |"
    yield "|---|---|---|---|---|---|"
    kinds = sorted({row.kind for row in rows})
    groups = {"all": list(rows), **{kind: [row for row in rows if row.kind == kind] for kind in kinds}}
    groups["with a namesake"] = [row for row in rows if row.alike]
    groups["namesake, told apart by motion or place"] = [
        row for row in rows if row.alike and row.kind in ("motion", "spatial")
    ]
    for name, group in groups.items():
        if group:
            clips = [row.video for row in group]
            maps, both, best = (
                np.array([getattr(row, field) for row in group]) for field in ("maps", "both", "best")
            )
            cells = [bootstrap_mean(values, clips) for values in (maps, both, both - maps, best)]
            yield f"| {name} | {len(group)} | {' | '.join(map(str, cells))} |"
    yield ""
    yield "| score of the first | AUROC for J above 0.5, 95 % over clips |"
    yield "|---|---|"
    clips = [row.video for row in rows]
    for name, scores, quality in (
        ("by the maps", [row.correlation for row in rows], [row.maps for row in rows]),
        ("with stated positions", [row.score for row in rows], [row.both for row in rows]),
    ):
        yield f"| {name} | {auroc_interval(np.array(scores), np.array(quality) > 0.5, clips)} |"
    yield ""
    yield f"Positions were stated for {sum(row.stated for row in rows)} of {len(rows)} expressions."
