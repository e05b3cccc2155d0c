"""Free wordings as people type them: J of the best candidate, as typed and in plain wording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from steerseg.config import PipelineConfig
from steerseg.demo.dataset import ClipEntry, Expression, Manifest
from steerseg.pipeline import SteerSeg
from steerseg.presets import find_preset, load_preset
from steerseg.statistics import bootstrap_mean
from steerseg.words.wording import mend_spelling, plain_wording

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


def clips_of(wordings: Wordings, manifest: Manifest, count: int) -> list[ClipEntry]:
    """The first clips of a split that a wording is about."""
    about = {one.video for one in wordings.wordings}
    return [entry for entry in manifest.clips[:count] if entry.video in about]


def measure_wordings(wordings: Wordings, steerseg: SteerSeg, one: ClipQuestions) -> list[WordingRow]:
    """Ask each wording of a clip as typed and in plain wording, and the manifest's own expression."""
    entry = one.clip.entry
    return [
        _measured(steerseg, one, free.text, entry.expressions[free.expression])
        for free in wordings.wordings
        if free.video == entry.video
    ]


def clips_read_otherwise(manifest: Manifest, count: int) -> list[ClipEntry]:
    """Clips, each with those of its expressions alone that plain wording changes."""
    words = load_preset(find_preset("demo")).load_lexicon().words
    changed = [
        replace(
            entry,
            expressions=tuple(
                one for one in entry.expressions if mend_spelling(plain_wording(one.text), words) != one.text
            ),
        )
        for entry in manifest.clips[:count]
    ]
    return [entry for entry in changed if entry.expressions]


def measure_readings(steerseg: SteerSeg, one: ClipQuestions) -> list[WordingRow]:
    """Ask each expression of a clip as it stands and in plain wording."""
    return [
        _measured(steerseg, one, expression.text, expression) for expression in one.clip.entry.expressions
    ]


def _measured(steerseg: SteerSeg, one: ClipQuestions, text: str, expression: Expression) -> WordingRow:
    asker = Asker(steerseg)
    typed, plain = (replace(steerseg.config, wording=wording) for wording in ("typed", "plain"))
    truth = on_keyframes(one.clip.masks(expression), steerseg.config)

    def j(text: str, config: PipelineConfig) -> float:
        return mean_iou(asker.ask(one.video, text, config).masks(), truth)

    as_typed = j(text, typed)
    return WordingRow(
        video=one.clip.entry.video,
        text=text,
        wording=steerseg.read(text, plain).text,
        typed=as_typed,
        plain=j(text, plain),
        written=as_typed if text == expression.text else j(expression.text, typed),
    )


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
