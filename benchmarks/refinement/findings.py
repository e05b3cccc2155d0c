"""From runs and measurements to the numbers of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.refinement.loop import Refined
from benchmarks.refinement.measuring import BEFORE
from steerseg.evaluation import Interval, VariantResults, bootstrap_mean
from steerseg.evaluation.results import Result

Choose = Callable[[Result], bool]


@dataclass(frozen=True)
class Change:
    """What refinements changed on some tasks; means over the runs.

    Attributes:
        tasks: How many tasks.
        before: Mean J&F in [0, 1] under the preset's own prompts.
        after: Mean J&F under what is served after the gate.
        gain: The difference, paired by task, with its 95 % interval over videos.
        made: The difference to what was made, whether the gate promoted it or not.
    """

    tasks: int
    before: float
    after: float
    gain: Interval
    made: Interval


@dataclass(frozen=True)
class Findings:
    """All that was measured.

    Attributes:
        runs: The runs of the loop, at least one.
        team: Results on the team's held-out tasks by digest of the soft prompts, and :data:`BEFORE`.
        old: The same on the old domain.
        word: The team's word, which is the kind of its expressions.
        accept: Mean IoU from which the annotator accepts a proposal.
    """

    runs: Sequence[Refined]
    team: Mapping[str, VariantResults]
    old: Mapping[str, VariantResults]
    word: str
    accept: float

    @property
    def sizes(self) -> list[int]:
        """Numbers of corrected tasks, ascending."""
        return sorted({run.tasks for run in self.runs})

    def of_size(self, tasks: int) -> list[Refined]:
        """The runs with so many corrected tasks, by seed."""
        return sorted((run for run in self.runs if run.tasks == tasks), key=lambda run: run.seed)

    def change(
        self,
        runs: Sequence[Refined],
        measured: Mapping[str, VariantResults],
        choose: Choose = lambda result: True,
    ) -> Change | None:
        """What runs changed on the chosen tasks; ``None`` without tasks."""
        before = [result for result in measured[BEFORE].results.values() if choose(result)]
        if not before or not runs:
            return None
        was = np.array([result.jf for result in before])
        served = np.mean([_jf(measured[_served(run)], before) for run in runs], axis=0)
        made = np.mean([_jf(measured[run.digest or BEFORE], before) for run in runs], axis=0)
        videos = [result.video for result in before]
        return Change(
            tasks=len(before),
            before=float(was.mean()),
            after=float(served.mean()),
            gain=bootstrap_mean(served - was, videos),
            made=bootstrap_mean(made - was, videos),
        )

    def by_word(self, runs: Sequence[Refined]) -> dict[str, Change]:
        """What runs changed on tasks with the team's word and on those without; nothing where all have it."""
        word = self.word
        parts = {
            f"with “{word}”": self.change(runs, self.team, lambda result: result.kind == word),
            "with ordinary expressions": self.change(runs, self.team, lambda result: result.kind != word),
        }
        return {name: change for name, change in parts.items() if change} if all(parts.values()) else {}

    def needed_before(self) -> float:
        """Share of the team's held-out tasks whose proposal is not accepted, under the preset's own prompts."""
        return self._needed(self.team[BEFORE])

    def needed_after(self, run: Refined) -> float:
        """The same under what is served after a run."""
        return self._needed(self.team[_served(run)])

    def _needed(self, measured: VariantResults) -> float:
        return float(np.mean([result.j < self.accept for result in measured.results.values()]))

    def jf_after(self, run: Refined) -> float:
        """Mean J&F on the team's held-out tasks under what is served after a run."""
        return _mean(self.team[_served(run)])

    def jf_before(self) -> float:
        """The same before any."""
        return _mean(self.team[BEFORE])

    def old_after(self, run: Refined) -> float:
        """Mean J&F on the old domain under what is served after a run."""
        return _mean(self.old[_served(run)])

    def old_before(self) -> float:
        """The same before any."""
        return _mean(self.old[BEFORE])


def _served(run: Refined) -> str:
    return run.digest if run.promoted else BEFORE


def _jf(measured: VariantResults, like: Sequence[Result]) -> list[float]:
    return [measured.results[result.id].jf for result in like]


def _mean(measured: VariantResults) -> float:
    return float(np.mean([result.jf for result in measured.results.values()]))
