"""Free wordings as people type them: J of the best candidate, as typed and in plain wording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from steerseg.demo.dataset import load_manifest
from steerseg.pipeline import SteerSeg
from steerseg.statistics import bootstrap_mean

FOLDER = Path(__file__).parent


class FreeWording(BaseModel):
    """A wording of an expression of a clip: its name, the expression's index, and what a person would type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video: str
    expression: int
    text: str


class Wordings(BaseModel):
    """Wordings of one split's clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    about: str
    wordings: tuple[FreeWording, ...]


class WordingRow(BaseModel):
    """J of one wording, in [0, 1].

    Attributes:
        video: The clip.
        text: As a person types it.
        wording: As the models read it in plain wording.
        typed: J of the text as typed.
        plain: J in plain wording.
        written: J of the manifest's own expression.
    """

    video: str
    text: str
    wording: str
    typed: float
    plain: float
    written: float


def load_wordings(name: str) -> Wordings:
    """The wordings to develop on, or those that are only measured."""
    return Wordings.model_validate_json((FOLDER / f"wordings-{name}.json").read_bytes())


def measure_wordings(steerseg: SteerSeg, wordings: Wordings, count: int) -> Iterator[WordingRow]:
    """Ask each wording as typed and in plain wording, and the manifest's own expression."""
    asker = Asker(steerseg)
    by_clip = {one.video: one for one in wordings.wordings}
    typed, plain = (replace(steerseg.config, wording=wording) for wording in ("typed", "plain"))
    for one in ClipQuestions.of(load_manifest(wordings.split), 0, count):
        free = by_clip.get(one.clip.entry.video)
        if free is None:
            continue
        expression = one.clip.entry.expressions[free.expression]
        truth = on_keyframes(one.clip.masks(expression), steerseg.config)
        found = [
            asker.ask(one.video, text, config)
            for text, config in ((free.text, typed), (free.text, plain), (expression.text, typed))
        ]
        overlaps = [mean_iou(each.masks(), truth) for each in found]
        yield WordingRow(
            video=free.video,
            text=free.text,
            wording=found[1].wording,
            typed=overlaps[0],
            plain=overlaps[1],
            written=overlaps[2],
        )
        steerseg.forget()


def describe_wordings(rows: Sequence[WordingRow]) -> Iterator[str]:
    """The lines of a table."""
    clips = [row.video for row in rows]
    typed, plain, written = (
        np.array([getattr(row, name) for row in rows]) for name in ("typed", "plain", "written")
    )
    yield "| wording | J, 95 % over clips | number |"
    yield "|---|---|---|"
    for name, values in (
        ("as typed", typed),
        ("in plain wording", plain),
        ("gain of plain wording", plain - typed),
        ("the manifest's own expression", written),
    ):
        yield f"| {name} | {bootstrap_mean(values, clips)} | {len(rows)} |"
