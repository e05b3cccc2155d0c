"""What the learners of a word made of corrections, and what it gave, as a file and as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from steerseg.statistics import bootstrap_mean

TYPED, BOUND = "as typed", "bound"
GLOSSARY, MADE = "glossary", "glossary, no trial"
MEAN, INVERSION, PROMPT = "mean of names", "inversion", "reasoning prompt"
LEARNERS = (GLOSSARY, MADE, MEAN, INVERSION, PROMPT)


class Learned(BaseModel):
    """What one learner made of some corrections.

    Attributes:
        word: The team's word.
        seed: Of the tasks.
        size: Corrections.
        learner: One of :data:`LEARNERS`.
        term: The word that it took for the team's; empty where it found none, or serves none.
        meaning: What the glossary says of the term.
        seconds: Of training, the teacher's answers included. Objects are named before that, for all learners.
        bytes: Of what is stored.
        losses: The first and the last loss of the training.
    """

    model_config = ConfigDict(frozen=True)

    word: str
    seed: int
    size: int
    learner: str
    term: str = ""
    meaning: str = ""
    seconds: float = 0.0
    bytes: int = 0
    losses: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Names it among what is measured on a task of its word."""
        return f"{self.learner}/{self.seed}/{self.size}"


class Measured(BaseModel):
    """What was measured on one task.

    Attributes:
        word: The team's word.
        task: Name of the task.
        ordinary: Whether its expression lacks the word.
        jf: J&F in [0, 1] of the best tracklet, by :data:`TYPED`, :data:`BOUND` and :attr:`Learned.key`.
    """

    model_config = ConfigDict(frozen=True)

    word: str
    task: str
    ordinary: bool
    jf: dict[str, float]


class Comparison(BaseModel):
    """All that was learned and measured."""

    model_config = ConfigDict(frozen=True)

    learned: tuple[Learned, ...]
    measured: tuple[Measured, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The words, in their order."""
        return tuple(dict.fromkeys(one.word for one in self.measured))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of corrections, ascending."""
        return tuple(sorted({one.size for one in self.learned}))

    def of(self, learner: str, size: int) -> list[Learned]:
        """What a learner made of so many corrections."""
        return [one for one in self.learned if (one.learner, one.size) == (learner, size)]

    def tasks(self, word: str | None = None, *, ordinary: bool = False) -> list[Measured]:
        """The measured tasks of a word, or of all."""
        return [one for one in self.measured if one.ordinary == ordinary and word in (None, one.word)]


def report(comparison: Comparison) -> str:
    """The tables, as Markdown."""
    parts = [_overview(comparison), _by_word(comparison), _ordinary(comparison)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(comparison: Comparison) -> str:
    """Learners by number of corrections: gain, share of the way to the bound, cost."""
    sizes = comparison.sizes
    lines = [
        "| learner | " + " | ".join(f"{size} corrections" for size in sizes) + " | seconds | bytes |",
        "|---|" + "---|" * (len(sizes) + 2),
    ]
    for learner in LEARNERS:
        cells = [_cell(comparison, learner, size) for size in sizes]
        most = comparison.of(learner, sizes[-1])
        seconds, stored = (
            np.mean([getattr(one, name) for one in most]) if most else 0.0 for name in ("seconds", "bytes")
        )
        lines.append(f"| {learner} | {' | '.join(cells)} | {seconds:.1f} | {stored:.0f} |")
    return "\n".join(lines)


def _cell(comparison: Comparison, learner: str, size: int) -> str:
    """Gain, share of the way, and how many runs they are of where some are missing."""
    runs, wanted = (len(comparison.of(learner, one)) for one in (size, comparison.sizes[0]))
    missing = "" if runs == wanted else f" ({runs} of {wanted} runs)"
    way = share(comparison, learner, size)
    return f"{gain(comparison, learner, size)}" + ("" if math.isnan(way) else f", {way:.0%}") + missing


def _by_word(comparison: Comparison) -> str:
    """J&F of each word by learner and number of corrections."""
    columns = [(learner, size) for learner in LEARNERS for size in comparison.sizes]
    lines = [
        "| word | as typed | " + " | ".join(f"{learner}, {size}" for learner, size in columns) + " | bound |",
        "|---|---|" + "---|" * len(columns) + "---|",
    ]
    for word in comparison.words:
        tasks = comparison.tasks(word)
        typed, bound = (_mean(tasks, [wording]) for wording in (TYPED, BOUND))
        cells = [
            f"{_mean(tasks, [one.key for one in comparison.of(learner, size) if one.word == word]):.3f}"
            for learner, size in columns
        ]
        lines.append(f"| “{word}” | {typed:.3f} | {' | '.join(cells)} | {bound:.3f} |")
    return "\n".join(lines)


def _ordinary(comparison: Comparison) -> str:
    """What the reasoning prompt does to ordinary expressions, which the others leave alone."""
    if not comparison.tasks(ordinary=True):
        return ""
    lines = ["| corrections | ordinary expressions, by the reasoning prompt |", "|---|---|"]
    lines += [f"| {size} | {gain(comparison, PROMPT, size, ordinary=True)} |" for size in comparison.sizes]
    return "\n".join(lines)


def gain(comparison: Comparison, learner: str, size: int, *, ordinary: bool = False) -> str:
    """Mean gain in J&F over what is typed, with its 95 % interval over tasks."""
    keys = {one.key for one in comparison.of(learner, size)}
    pairs = [
        (one.jf[key] - one.jf[TYPED], f"{one.word}-{one.task}")
        for one in comparison.tasks(ordinary=ordinary)
        for key in sorted(keys & one.jf.keys())
    ]
    if not pairs:
        return "not measured"
    found = bootstrap_mean(np.array([value for value, _ in pairs]), [task for _, task in pairs])
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def share(comparison: Comparison, learner: str, size: int) -> float:
    """Share of the way from what is typed to the bound, of all words together; NaN where there is no way to go."""
    gone, way = 0.0, 0.0
    for word in comparison.words:
        tasks = comparison.tasks(word)
        keys = [one.key for one in comparison.of(learner, size) if one.word == word]
        if keys:
            typed, bound, after = (_mean(tasks, wording) for wording in ([TYPED], [BOUND], keys))
            gone, way = gone + after - typed, way + bound - typed
    return gone / way if way > 0 else float("nan")


def _mean(tasks: Sequence[Measured], keys: Sequence[str]) -> float:
    values = [one.jf[key] for one in tasks for key in keys if key in one.jf]
    return float(np.mean(values)) if values else float("nan")
