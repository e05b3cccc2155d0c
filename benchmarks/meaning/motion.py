"""Stated motions: J of the first candidate without and with them, for the expressions that state one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from steerseg.motion.reading import stated_motions
from steerseg.pipeline import SteerSeg
from steerseg.statistics import bootstrap_mean


class MotionRow(BaseModel):
    """One expression; J is in [0, 1], on the keyframes.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        alike: Whether another object of the clip has the same name.
        motions: That the expression states.
        without: J of the first candidate where motions are left out.
        shown: The same with them.
        best_without: J of the best of the candidates there.
        best: The same with motions, which add candidates.
    """

    video: str
    kind: str
    text: str
    alike: bool
    motions: tuple[str, ...]
    without: float
    shown: float
    best_without: float
    best: float


def measure_motion(steerseg: SteerSeg, one: ClipQuestions) -> list[MotionRow]:
    """Ask the expressions of a clip that state a motion, without and with it."""
    rows = []
    config = replace(steerseg.config, verification="off", alternatives=steerseg.config.max_candidates)
    for expression in one.clip.entry.expressions:
        motions = stated_motions(steerseg.read(expression.text, config).text)
        if not motions or len(expression.targets) != 1:
            continue
        truth = on_keyframes(one.clip.masks(expression), config)
        qualities = []
        for motion in (False, True):
            found = Asker(steerseg).ask(one.video, expression.text, replace(config, motion=motion))
            qualities.append([mean_iou(found.masks(rank), truth) for rank in range(len(found.ranking))])
        without, shown = ([*quality, 0.0] for quality in qualities)
        row = MotionRow(
            video=one.clip.entry.video,
            kind=expression.kind,
            text=expression.text,
            alike=expression.twin,
            motions=motions,
            without=without[0],
            shown=shown[0],
            best_without=max(without),
            best=max(shown),
        )
        rows.append(row)
    return rows


def describe_motion(rows: Sequence[MotionRow]) -> Iterator[str]:
    """The lines of a table."""
    yield "| expressions | number | without | with stated motions | gain | best order, without | with |"
    yield "|---|---|---|---|---|---|---|"
    groups = {"all": list(rows), "with a namesake": [row for row in rows if row.alike]}
    for motion in sorted({motion for row in rows for motion in row.motions}):
        groups[motion] = [row for row in rows if motion in row.motions]
    for name, group in groups.items():
        if group:
            clips = [row.video for row in group]
            fields = ("without", "shown", "best_without", "best")
            without, shown, best_without, best = (
                np.array([getattr(row, field) for row in group]) for field in fields
            )
            columns = (without, shown, shown - without, best_without, best)
            cells = [bootstrap_mean(values, clips) for values in columns]
            yield f"| {name} | {len(group)} | {' | '.join(map(str, cells))} |"
