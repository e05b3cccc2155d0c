"""Presence: how well it tells what is there from what is not, what it refuses, and the fit of its calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from benchmarks.meaning.logistic import fit_logistic
from steerseg.pipeline import SteerSeg
from steerseg.presence.signals import (
    Look,
    PresenceCalibration,
    PresenceSignals,
    names_nothing,
    signals_of,
)
from steerseg.statistics import Interval, bootstrap_mean
from steerseg.words.learning import Lexicon


class PresenceRow(BaseModel):
    """One expression of one clip.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        there: Whether it has a target.
        wording: What the models read.
        new_words: Its words that nobody taught, which ``"refuse-known"`` never refuses.
        look: What presence follows from; ``None`` where nothing was found.
        j: Mean IoU in [0, 1] of the best candidate with the target on the keyframes.
    """

    video: str
    kind: str
    text: str
    there: bool
    wording: str
    new_words: tuple[str, ...] = ()
    look: Look | None
    j: float


def measure_presence(steerseg: SteerSeg, one: ClipQuestions) -> list[PresenceRow]:
    """Ask every expression of a clip."""
    asker = Asker(steerseg)
    rows = []
    for expression in one.clip.entry.expressions:
        found = asker.ask(one.video, expression.text, steerseg.config, look=True)
        truth = on_keyframes(one.clip.masks(expression), steerseg.config)
        row = PresenceRow(
            video=one.clip.entry.video,
            kind=expression.kind,
            text=expression.text,
            there=bool(expression.targets),
            wording=found.case.reading.text,
            new_words=found.case.reading.new_words,
            look=found.look,
            j=mean_iou(found.masks(), truth) if expression.targets else 0.0,
        )
        rows.append(row)
    return rows


def presences(
    rows: Sequence[PresenceRow], calibration: PresenceCalibration, lexicon: Lexicon
) -> NDArray[np.float64]:
    """(N,) presence of each row; 0 where nothing was found."""
    return np.array(
        [
            0.0 if row.look is None else calibration.probability(signals_of(row.wording, row.look, lexicon))
            for row in rows
        ]
    )


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def auroc_interval(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], clips: Sequence[str], draws: int = 500
) -> Interval:
    """The same with a 95 % bootstrap interval over clips."""
    names, member = np.unique(np.array(clips), return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        picked = np.concatenate(
            [np.flatnonzero(member == k) for k in rng.integers(len(names), size=len(names))]
        )
        if positive[picked].any() and not positive[picked].all():
            drawn.append(auroc(scores[picked], positive[picked]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(auroc(scores, positive), float(low), float(high), len(scores))


def describe_presence(
    rows: Sequence[PresenceRow], calibration: PresenceCalibration, lexicon: Lexicon
) -> Iterator[str]:
    """The lines of a table."""
    values = presences(rows, calibration, lexicon)
    there = np.array([row.there for row in rows])
    clips = [row.video for row in rows]
    refused = (values < calibration.threshold).astype(np.float64)
    judged = np.array([not row.new_words and not names_nothing(row.wording, lexicon) for row in rows])
    if not there.all():
        yield f"AUROC of what is there against what is not: {auroc_interval(values, there, clips)}"
    good = np.array([row.j > 0.5 for row in rows])
    clips_there = [clip for clip, shown in zip(clips, there, strict=True) if shown]
    right = auroc_interval(values[there], good[there], clips_there)
    yield f"AUROC of presence for J > 0.5, among what is there: {right}"
    yield ""
    yield "| expressions | refused | 95 % over clips | may be refused | by refuse-known | number |"
    yield "|---|---|---|---|---|---|"
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups["**there**" if row.there else "**not there**"].append(i)
        groups[row.kind].append(i)
        if row.there:
            groups["there, and J > 0.5" if row.j > 0.5 else "there, and J ≤ 0.5"].append(i)
    for name, members in sorted(groups.items(), key=lambda item: (rows[item[1][0]].there, item[0])):
        share = bootstrap_mean(refused[members], [clips[i] for i in members])
        by_known = float((refused * judged)[members].mean())
        yield (
            f"| {name} | {share.mean:.3f} | {share.low:.3f} to {share.high:.3f} | {int(judged[members].sum())} "
            f"| {by_known:.3f} | {share.count} |"
        )


def fit(
    rows: Sequence[PresenceRow], lexicon: Lexicon, *, refused: float, ridge: float = 0.005
) -> PresenceCalibration:
    """A logistic regression by Newton's method, on standardised signals, and the threshold for a share of refusals.

    Args:
        rows: What it is fitted on.
        lexicon: The model's nouns and words.
        refused: Wanted share in [0, 1] of what is there that is refused; the threshold is that quantile.
        ridge: Weight of the squared weights, as a share of the number of rows.
    """
    seen = [row for row in rows if row.look is not None]
    signals = [signals_of(row.wording, row.look, lexicon) for row in seen if row.look is not None]
    names = list(PresenceSignals.__dataclass_fields__)
    raw = np.array([[getattr(one, name) for name in names] for one in signals])
    there = np.array([float(row.there) for row in seen])
    weights, bias = fit_logistic(raw, there, names, ridge=ridge)
    calibration = PresenceCalibration(weights=weights, bias=bias, threshold=0.5)
    values = presences(rows, calibration, lexicon)[[row.there for row in rows]]
    return calibration.model_copy(update={"threshold": round(float(np.quantile(values, refused)), 3)})
