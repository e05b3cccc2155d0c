"""The tables and the picture of ``benchmarks.refinement.meanings``, from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.refinement.annotator import working_seconds
from benchmarks.refinement.plots import learning_curves
from benchmarks.refinement.studies import ACCEPT, ProposalQuality
from benchmarks.refinement.words import SEALED
from steerseg.evaluation import bootstrap_mean

Record = Mapping[str, Any]


class Study:
    """The records of a study, by word.

    Args:
        records: As the study writes them.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self.words = {one["word"]: one["means"] for one in records if one["kind"] == "as typed"}
        served = [one for one in records if one["kind"] == "served"]
        self.sizes = sorted({one["size"] for one in served})
        self.shares = sorted({one["share"] for one in served}, reverse=True)

    def tasks(self, kind: str, word: str) -> list[ProposalQuality]:
        """How good the proposals for a word's tasks are, as typed or with the plain word (``"bound"``)."""
        parts = [one for one in self._records if (one["kind"], one["word"]) == (kind, word)]
        parts.sort(key=lambda one: one["begin"])
        return [ProposalQuality(*task) for part in parts for task in part["tasks"]]

    def runs(self, share: float, size: int, word: str | None = None) -> list[Record]:
        """The projects of a size, of one word where given."""
        return [
            one
            for one in self._records
            if one["kind"] == "served"
            and (one["share"], one["size"]) == (share, size)
            and word in (None, one["word"])
        ]

    def mean(self, kind: str, word: str) -> float:
        """Mean J&F of a word's tasks, as typed or with the plain word."""
        return float(_jf(self.tasks(kind, word)).mean())

    def served(self, share: float, size: int, word: str) -> float:
        """Mean J&F of a word's tasks with what is served, over the projects of a size."""
        return float(np.mean([_jf(one["tasks"]).mean() for one in self.runs(share, size, word)]))

    def covered(self, share: float, size: int, word: str) -> float:
        """The share of the distance to the bound that is served."""
        before = self.mean("as typed", word)
        return (self.served(share, size, word) - before) / (self.mean("bound", word) - before)

    def gain(self, share: float, size: int) -> str:
        """Gain of what is served over all words' tasks, with its interval."""
        gains, tasks = [], []
        for one in self.runs(share, size):
            gains.append(_jf(one["tasks"]) - _jf(self.tasks("as typed", one["word"])))
            tasks += [f"{one['word']}-{index}" for index in range(len(one["tasks"]))]
        return _interval(np.concatenate(gains), tasks)

    def elsewhere(self, share: float, size: int, kind: str) -> str:
        """Gain of what is served on tasks without a team's word, with its interval."""
        runs = self.runs(share, size)
        gains = [np.array(one["gains"][kind]) for one in runs]
        return _interval(np.concatenate(gains), [str(task) for part in gains for task in range(len(part))])


def table(records: Sequence[Record]) -> str:
    """The records as tables of Markdown."""
    study = Study(records)
    return "\n".join([*_by_word(study), "", *_by_size(study), "", *_work(study)]) + "\n"


def plot(records: Sequence[Record], path: Path) -> None:
    """Write a picture: for each word J&F by number of corrections, with the bound as a line."""
    study = Study(records)
    share = study.shares[0]
    curves = {
        f"“{word}” ({means})": (
            [study.mean("as typed", word), *(study.served(share, size, word) for size in study.sizes)],
            study.mean("bound", word),
        )
        for word, means in study.words.items()
    }
    learning_curves([0, *study.sizes], curves).savefig(path)


def _by_word(study: Study) -> list[str]:
    share = study.shares[0]
    sealed = {word.word for word in SEALED}
    lines = [
        "| word | stands for | as typed | "
        + " | ".join(f"{size} corrections" for size in study.sizes)
        + " | bound |",
        "|---|---|---|" + "---|" * len(study.sizes) + "---|",
    ]
    for word, means in study.words.items():
        cells = " | ".join(f"{study.served(share, size, word):.3f}" for size in study.sizes)
        name = f"“{word}” (sealed)" if word in sealed else f"“{word}”"
        lines.append(
            f"| {name} | {means} | {study.mean('as typed', word):.3f} | {cells} | "
            f"{study.mean('bound', word):.3f} |"
        )
    return lines


def _by_size(study: Study) -> list[str]:
    lines = [
        "| tasks with the word | corrections | gain on them [95 % interval] | share of the distance to the bound | "
        "accepted | right of the accepted | lost (gain < 0) | ordinary tasks | old domain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for share in study.shares:
        for size in study.sizes:
            runs = study.runs(share, size)
            shares = [study.covered(share, size, word) for word in study.words]
            accepted = [one for one in runs if one["accepted"]]
            right = sum(one["learned"].get(one["word"]) == one["means"] for one in accepted)
            lost = sum(
                _jf(one["tasks"]).mean() < study.mean("as typed", one["word"]) - 1e-9 for one in accepted
            )
            lines.append(
                f"| {share:.0%} | {size} | {study.gain(share, size)} | {np.mean(shares):.0%} "
                f"(least {min(shares):.0%}) | {len(accepted)} of {len(runs)} | {right} | {lost} | "
                f"{study.elsewhere(share, size, 'ordinary')} | {study.elsewhere(share, size, 'old')} |"
            )
    return lines


def _work(study: Study) -> list[str]:
    share = study.shares[0]
    lines = ["| | corrections needed per task | annotator minutes per 100 tasks |", "|---|---|---|"]
    for kind in ("as typed", "bound"):
        tasks = [task for word in study.words for task in study.tasks(kind, word)]
        lines.append(_work_line(kind, tasks))
    for size in study.sizes:
        tasks = [ProposalQuality(*task) for one in study.runs(share, size) for task in one["tasks"]]
        lines.insert(-1, _work_line(f"after {size} corrections", tasks))
    return lines


def _work_line(name: str, tasks: Sequence[ProposalQuality]) -> str:
    needed = [task.j < ACCEPT for task in tasks]
    seconds = [working_seconds(task.pages if wrong else 0) for task, wrong in zip(tasks, needed, strict=True)]
    return f"| {name} | {np.mean(needed):.2f} | {np.mean(seconds) * 100 / 60:.0f} |"


def _jf(tasks: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array([task[0] for task in tasks])


def _interval(values: NDArray[np.float64], units: list[str]) -> str:
    interval = bootstrap_mean(values, units)
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
