"""Verification: J of the best candidate as ranked, and after the LVLM accepted, doubted or rejected each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, Found, mean_iou, on_keyframes
from steerseg.config import Verification
from steerseg.pipeline import SteerSeg
from steerseg.statistics import bootstrap_mean

WAYS: tuple[Verification, ...] = ("look", "ask")


class VerificationRow(BaseModel):
    """One expression.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        ranked: J in [0, 1] of the best candidate as it was ranked.
        look: After each was looked at alone.
        ask: After the model was asked about all of them.
        best: J of the best of all ranked candidates: the most that an order can reach.
        said: How many candidates either way said something of, first by looks, then when asked.
    """

    video: str
    kind: str
    text: str
    ranked: float
    look: float
    ask: float
    best: float
    said: tuple[int, int]


def measure_verification(steerseg: SteerSeg, one: ClipQuestions) -> list[VerificationRow]:
    """Ask every expression of a clip, and have its candidates verified both ways."""
    rows = []
    for expression in one.clip.entry.expressions:
        found = Asker(steerseg).ask(one.video, expression.text, replace(steerseg.config, verification="off"))
        truth = on_keyframes(one.clip.masks(expression), steerseg.config)
        look, ask = (
            Found(
                found.case,
                steerseg.verify(found.case, found.ranking, replace(steerseg.config, verification=way)),
            )
            for way in WAYS
        )
        row = VerificationRow(
            video=one.clip.entry.video,
            kind=expression.kind,
            text=expression.text,
            ranked=mean_iou(found.masks(), truth),
            look=mean_iou(look.masks(), truth),
            ask=mean_iou(ask.masks(), truth),
            best=max((mean_iou(found.masks(rank), truth) for rank in range(len(found.ranking))), default=0.0),
            said=(_said(look), _said(ask)),
        )
        rows.append(row)
    return rows


def _said(found: Found) -> int:
    return sum(ranked.opinion is not None for ranked in found.ranking)


def describe_verification(rows: Sequence[VerificationRow]) -> Iterator[str]:
    """The lines of a table."""
    clips = [row.video for row in rows]
    ranked, look, ask, best = (
        np.array([getattr(row, name) for row in rows]) for name in ("ranked", *WAYS, "best")
    )
    yield "| candidates | J of the first, 95 % over clips | number |"
    yield "|---|---|---|"
    for name, values in (
        ("as ranked", ranked),
        ("looked at alone", look),
        ("gain of looks", look - ranked),
        ("asked about, numbered", ask),
        ("gain of asking", ask - ranked),
        ("in the best order", best),
    ):
        yield f"| {name} | {bootstrap_mean(values, clips)} | {len(rows)} |"
    yield ""
    looked, asked = (sum(row.said[way] for row in rows) for way in range(len(WAYS)))
    yield f"An opinion of {looked} candidates by looks, of {asked} when asked."
