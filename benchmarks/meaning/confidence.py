"""Confidence: how well it tells right candidates from wrong ones, beside the rank score, and its fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from benchmarks.meaning.logistic import fit_logistic
from benchmarks.meaning.presence import auroc_interval
from steerseg.pipeline import SteerSeg
from steerseg.presence.confidence import ConfidenceCalibration, ConfidenceSignals
from steerseg.presence.signals import signals_of
from steerseg.statistics import bootstrap_mean

RIGHT = 0.5
"""J above which a candidate counts as right."""

_FOLDS = 10


class ConfidenceRow(BaseModel):
    """One expression of one object.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        alike: Whether another object of the clip has the same name.
        score: Rank score of the first candidate, in [-1, 1]; -1 where there is none.
        presence: Of the expression, in [0, 1].
        signals: Of the first candidate; ``None`` where there is none.
        j: Its J, in [0, 1], on the keyframes.
    """

    video: str
    kind: str
    text: str
    alike: bool
    score: float
    presence: float
    signals: ConfidenceSignals | None
    j: float


def measure_confidence(steerseg: SteerSeg, one: ClipQuestions) -> list[ConfidenceRow]:
    """Ask the expressions of a clip that are of one object."""
    config = replace(steerseg.config, presence="judge")
    rows = []
    for expression in one.clip.entry.expressions:
        if len(expression.targets) != 1:
            continue
        found = Asker(steerseg).ask(one.video, expression.text, config, look=True)
        row = ConfidenceRow(
            video=one.clip.entry.video,
            kind=expression.kind,
            text=expression.text,
            alike=expression.twin,
            score=-1.0,
            presence=0.0,
            signals=None,
            j=0.0,
        )
        if found.look is not None:
            score = found.ranking[0].score
            presence = steerseg.judge.presence(found.case, found.look, score, config).value
            signals = signals_of(found.case.reading.text, found.look, steerseg.lexicon)
            truth = on_keyframes(one.clip.masks(expression), config)
            told = {
                "score": score,
                "presence": presence,
                "signals": ConfidenceSignals.of(score, signals),
                "j": mean_iou(found.masks(), truth),
            }
            row = row.model_copy(update=told)
        rows.append(row)
    return rows


def fit_confidence(rows: Sequence[ConfidenceRow], *, ridge: float = 0.1) -> ConfidenceCalibration:
    """A calibration by rows that are right and wrong.

    Args:
        rows: What it is fitted on.
        ridge: Weight of the squared weights, as a share of the number of rows.
    """
    seen = [row for row in rows if row.signals is not None]
    names = [field.name for field in fields(ConfidenceSignals)]
    signals = np.array([[asdict(row.signals)[name] for name in names] for row in seen if row.signals])
    right = np.array([float(row.j > RIGHT) for row in seen])
    weights, bias = fit_logistic(signals, right, names, ridge=ridge)
    return ConfidenceCalibration(weights=weights, bias=bias)


def confidences(rows: Sequence[ConfidenceRow], calibration: ConfidenceCalibration) -> NDArray[np.float64]:
    """(N,) confidence of each row; 0 where nothing was found."""
    return np.array([0.0 if row.signals is None else calibration.probability(row.signals) for row in rows])


def left_out(rows: Sequence[ConfidenceRow]) -> NDArray[np.float64]:
    """(N,) confidence of each row by a calibration that was fitted without a tenth of the clips, its own among them."""
    clips = np.array([row.video for row in rows])
    names = np.unique(clips)
    fold = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % _FOLDS, strict=True))
    folds = np.array([fold[clip] for clip in clips])
    values = np.zeros(len(rows))
    for k in range(_FOLDS):
        calibration = fit_confidence([row for row, other in zip(rows, folds, strict=True) if other != k])
        inside = np.flatnonzero(folds == k)
        values[inside] = confidences([rows[i] for i in inside], calibration)
    return values


def describe_confidence(
    rows: Sequence[ConfidenceRow], calibration: ConfidenceCalibration | None
) -> Iterator[str]:
    """The lines of two tables; without a calibration, of one that is fitted here, each clip by one without it."""
    values = left_out(rows) if calibration is None else confidences(rows, calibration)
    if calibration is None:
        yield fit_confidence(rows).model_dump_json()
        yield ""
    right, clips = np.array([row.j > RIGHT for row in rows]), [row.video for row in rows]
    yield f"| of {len(rows)} expressions, {int(right.sum())} of them right | AUROC for J > {RIGHT}, 95 % over clips |"
    yield "|---|---|"
    measures = {
        "rank score": np.array([row.score for row in rows]),
        "presence": np.array([row.presence for row in rows]),
        "confidence": values,
    }
    for name, measure in measures.items():
        yield f"| {name} | {auroc_interval(measure, right, clips)} |"
    yield ""
    yield "| confidence | expressions | right |"
    yield "|---|---|---|"
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0)):
        members = [i for i, value in enumerate(values) if low <= value < high or value == high == 1.0]
        if members:
            share = bootstrap_mean(right[members].astype(np.float64), [clips[i] for i in members])
            yield f"| {low:.2f} to {high:.2f} | {len(members)} | {share} |"
