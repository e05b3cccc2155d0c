"""The teacher of stand-ins: the frozen model answers with a corrected object's name in the word's place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.refinement.stand_ins import PROMPT_MARK, TaughtAnswer, VideoPast, mark_term
from benchmarks.refinement.studies import WordTasks
from ml_backend.models.messages import NamedObject
from steerseg.evaluation import Sample
from steerseg.lvlm.base import VisionFeatures
from steerseg.pipeline import SteerSeg
from steerseg.reasoning import expression_as
from steerseg.words.attributes import holds_attributes
from steerseg.words.glossary import Entry, Glossary
from steerseg.words.learning import terms_in

SURE = 0.2
"""Least probability of a name that the teacher answers with."""
_FAILURE = 0.5  # a proposal that overlaps its correction less has failed


@dataclass(frozen=True)
class Correction:
    """A corrected task as the learners see it.

    Attributes:
        sample: The task.
        vision: Its visual tokens.
        past: The same, as the text model read them.
        names: What the model calls the corrected object.
        failed: Whether what was proposed is wrong.
    """

    sample: Sample
    vision: VisionFeatures
    past: VideoPast
    names: NamedObject
    failed: bool


class Teacher:
    """The frozen model answers with an object's name in the word's place."""

    def __init__(self, steerseg: SteerSeg) -> None:
        self.steerseg = steerseg
        self._answers: dict[tuple[str, str], tuple[str, float]] = {}

    def correction(self, tasks: WordTasks, sample: Sample) -> Correction:
        """See a corrected task."""
        lvlm = self.steerseg.lvlm
        vision = self.steerseg.encode(sample.load(), self.steerseg.config).context.video
        overlap = tasks.quality(sample).j
        return Correction(
            sample, vision, VideoPast.read(lvlm, vision), tasks.name(sample), overlap < _FAILURE
        )

    def question(self, wording: str) -> str:
        """The reasoning question."""
        form = self.steerseg.config.expression_form
        return self.steerseg.texts.reasoning_question(expression_as(form, wording))

    def answer(self, correction: Correction, wording: str) -> tuple[str, float]:
        """What the model answers to a wording, and the seconds that this took."""
        key = (correction.sample.video, wording)
        if key not in self._answers:
            begun = time.monotonic()
            answer = self.steerseg.lvlm.answer(
                self.question(wording),
                correction.vision,
                max_new_tokens=self.steerseg.config.max_new_tokens,
                complete=holds_attributes,
            )
            self._answers[key] = answer.text, time.monotonic() - begun
        return self._answers[key]

    def lessons(
        self, corrections: Sequence[Correction], term: str, *, in_place: bool
    ) -> tuple[list[TaughtAnswer], float]:
        """What a stand-in is taught, and the seconds that the teacher took.

        Args:
            corrections: What it is taught by; those without the term are left out.
            term: The team's word.
            in_place: Whether the mark stands in the word's place, or before the question.
        """
        taught, seconds = [], 0.0
        for one in corrections:
            typed = one.sample.expression
            marked = mark_term(typed, term)
            if marked == typed:
                continue
            question = self.question(marked) if in_place else PROMPT_MARK + self.question(typed)
            for name, probability in one.names.names.items():
                if probability < SURE or name == term:
                    continue
                wording = Glossary(entries=(Entry(term=term, meaning=name),)).rewrite(typed)
                answer, took = self.answer(one, wording)
                seconds += took
                taught.append(
                    TaughtAnswer.write(
                        self.steerseg.lvlm, one.vision, one.past, question, answer, probability
                    )
                )
        return taught, seconds


def shared_term(expressions: Sequence[str]) -> str:
    """The term that most expressions share, of equals the longest; empty where no two share any."""
    counts = Counter(term for expression in expressions for term in terms_in(expression))
    shared = [term for term, count in counts.items() if count > 1]
    return max(shared, key=lambda term: (counts[term], len(term), term), default="")
