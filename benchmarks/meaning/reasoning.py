"""Reasoning in two steps: J of the first candidate after one question, and after a second one about when and where."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from benchmarks.meaning.answers import Asker, ClipQuestions, mean_iou, on_keyframes
from steerseg.demo.dataset import Expression
from steerseg.pipeline import SteerSeg
from steerseg.presence.signals import Said
from steerseg.reasoning import expression_as, said_by
from steerseg.statistics import bootstrap_mean
from steerseg.words.attributes import holds_attributes, parse_attributes


class ReasoningRow(BaseModel):
    """One expression; J is in [0, 1], on the keyframes.

    Attributes:
        video: The clip.
        kind: Kind of the expression.
        text: The expression.
        alike: Whether another object of the clip has the same name.
        one: J of the first candidate after one question.
        two: J of the first candidate after two.
        attributes: Attributes of the first question.
        answer: Phrases of the second answer, sure or not.
        certainty: Probability in [0, 1] of the first of them; 0 without one.
        added: What the second question adds to the attributes: the sure phrases that are new.
        one_seconds: CPU seconds of a cold answer on the keyframes, with one question.
        two_seconds: The same with two.
    """

    video: str
    kind: str
    text: str
    alike: bool
    one: float
    two: float
    attributes: tuple[str, ...]
    answer: tuple[str, ...]
    certainty: float
    added: tuple[str, ...]
    one_seconds: float
    two_seconds: float


def measure_reasoning(steerseg: SteerSeg, one: ClipQuestions) -> list[ReasoningRow]:
    """Ask every expression of a clip with one step and with two, each cold."""
    return [_measured(steerseg, one, expression) for expression in one.clip.entry.expressions]


def _measured(steerseg: SteerSeg, one: ClipQuestions, expression: Expression) -> ReasoningRow:
    truth = on_keyframes(one.clip.masks(expression), steerseg.config)
    quality: list[float] = []
    seconds: list[float] = []
    attributes: list[tuple[str, ...]] = []
    for steps in (1, 2):
        config = replace(steerseg.config, reasoning_steps=steps)
        steerseg.forget()
        begin = time.process_time()
        found = Asker(steerseg).ask(one.video, expression.text, config)
        seconds.append(time.process_time() - begin)
        quality.append(mean_iou(found.masks(), truth))
        attributes.append(found.attributes)
    first, both = attributes
    said = _second_answer(steerseg, one, found.case.reading.text, first)
    return ReasoningRow(
        video=one.clip.entry.video,
        kind=expression.kind,
        text=expression.text,
        alike=expression.twin,
        one=quality[0],
        two=quality[1],
        attributes=first,
        answer=said.phrases,
        certainty=said.certainty,
        added=tuple(phrase for phrase in both if phrase not in first),
        one_seconds=seconds[0],
        two_seconds=seconds[1],
    )


def _second_answer(steerseg: SteerSeg, one: ClipQuestions, wording: str, attributes: tuple[str, ...]) -> Said:
    """All that the second question is answered with, of which reasoning keeps the sure phrases alone."""
    config = steerseg.config
    question = steerseg.texts.whereabouts_question(expression_as(config.expression_form, wording), attributes)
    answer = steerseg.lvlm.answer(
        question,
        steerseg.encode(one.video, config).context.video,
        max_new_tokens=config.max_new_tokens,
        complete=holds_attributes,
    )
    return said_by(parse_attributes(answer.text), answer.tokens)


def describe_reasoning(rows: Sequence[ReasoningRow]) -> Iterator[str]:
    """The lines of a table, and what the second question said and cost."""
    yield "| expressions | number | one step | two steps | gain | of them changed |"
    yield "|---|---|---|---|---|---|"
    kinds = sorted({row.kind for row in rows})
    groups = {"**all**": list(rows), **{kind: [row for row in rows if row.kind == kind] for kind in kinds}}
    groups["with a namesake"] = [row for row in rows if row.alike]
    groups["to which the second question adds"] = [row for row in rows if row.added]
    for name, group in groups.items():
        if group:
            clips = [row.video for row in group]
            one, two = (np.array([getattr(row, field) for row in group]) for field in ("one", "two"))
            cells = [bootstrap_mean(values, clips) for values in (one, two, two - one)]
            changed = int((abs(two - one) > 1e-6).sum())
            yield f"| {name} | {len(group)} | {' | '.join(map(str, cells))} | {changed} |"
    yield ""
    answered = [row for row in rows if row.answer]
    sure = np.median([row.certainty for row in answered]) if answered else 0.0
    yield f"The second answer has phrases for {len(answered)}; its first has a median probability of {sure:.2f}."
    yield f"The second question adds phrases to {sum(bool(row.added) for row in rows)} of {len(rows)} expressions."
    once, twice = (
        np.median([getattr(row, field) for row in rows]) for field in ("one_seconds", "two_seconds")
    )
    yield f"CPU seconds of a cold answer, median: {once:.1f} with one step, {twice:.1f} with two."
