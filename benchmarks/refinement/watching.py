"""``python -m benchmarks.refinement.watching``: false alarms and finds of the rule that watches promotions.

Overlaps of proposals are simulated, a video a task, and the backend's own rule looks after every task. No model runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ml_backend.refinement.watching import RULE, WatchRule, standard_errors_below, variance_of_mean

Values = NDArray[np.float64]
_ACCEPTED = 0.75  # a proposal that overlaps by as much is accepted as it is, and overlaps by 1 then


@dataclass(frozen=True)
class World:
    """How good proposals are.

    Attributes:
        name: For the table.
        found: Probability that the right object is found.
        good: Beta distribution of the overlap of what is found.
        bad: The same of what is not.
        alike: Probability that two versions of one quality find, or miss, the same.
    """

    name: str
    found: float
    good: tuple[float, float] = (30.0, 2.0)
    bad: tuple[float, float] = (1.0, 20.0)
    alike: float = 0.8

    def overlaps(
        self, rng: np.random.Generator, shape: tuple[int, int], loss: float
    ) -> tuple[Values, Values]:
        """Overlaps of a new and an old version with the truth, each of this shape; the new one loses so much."""
        gap = self.good[0] / sum(self.good) - self.bad[0] / sum(self.bad)
        same = rng.random(shape) < self.alike
        first = rng.random(shape)
        second = np.where(same, first, rng.random(shape))
        return (
            self._quality(rng, first < self.found - loss / gap),
            self._quality(rng, second < self.found),
        )

    def _quality(self, rng: np.random.Generator, found: NDArray[np.bool_]) -> Values:
        return np.where(found, rng.beta(*self.good, found.shape), rng.beta(*self.bad, found.shape))


WORLDS = (
    World("half found", 0.5),
    World("most found", 0.8),
    World("nearly all found", 0.95),
    World("found, outlines loose", 0.85, good=(8.0, 3.0), bad=(1.0, 8.0)),
    World("versions differ much", 0.7, alike=0.4),
)


@dataclass(frozen=True)
class Setting:
    """What there is to compare with.

    Attributes:
        name: For the table.
        before: Tasks of the old version before the promotion.
        paired: Whether the old version proposed for the new version's tasks as well.
    """

    name: str
    before: int
    paired: bool


SETTINGS = (
    Setting("both proposed for each task", 24, paired=True),
    Setting("24 tasks before", 24, paired=False),
    Setting("100 tasks before", 100, paired=False),
)


def first_alarms(
    world: World, setting: Setting, loss: float, rule: WatchRule, runs: int, seed: int = 1
) -> NDArray[np.int64]:
    """After how many tasks the rule takes the new version back, (runs,); 0 for never."""
    rng = np.random.default_rng(seed)
    new, same = world.overlaps(rng, (runs, rule.tasks), loss)
    before = world.overlaps(rng, (runs, setting.before), 0.0)[1]
    # The annotator begins from what is shown, and accepts it as it is where it is good.
    new, before = (np.where(shown >= _ACCEPTED, 1.0, shown) for shown in (new, before))
    new, same, before = rule.credit(new), rule.credit(same), rule.credit(before)
    limit = NormalDist().inv_cdf(rule.limit(setting.paired))
    alarm = np.zeros(runs, dtype=np.int64)
    for tasks in range(rule.videos, rule.tasks + 1):
        if setting.paired:
            values = new[:, :tasks] - same[:, :tasks]
            mean = values.mean(1)
            variance = variance_of_mean(values, rule.prior, rule.paired_spread)
        else:
            mean = new[:, :tasks].mean(1) - before.mean(1)
            variance = variance_of_mean(new[:, :tasks], rule.prior, rule.spread)
            variance = variance + variance_of_mean(before, rule.prior, rule.spread)
        worse = np.asarray(standard_errors_below(mean, variance, rule.margin)) > limit
        alarm[(alarm == 0) & worse] = tasks
    return alarm


def table(rule: WatchRule, runs: int) -> str:
    """False alarms, and how soon losses are found, in Markdown."""
    lines = [
        f"Taken back where the probability of a loss above {rule.margin} exceeds {rule.certainty:.1%} "
        f"({rule.paired_certainty:.1%} where both proposed), from {rule.videos} videos on, a look after each of "
        f"{rule.tasks} tasks; {runs} runs a row.",
        "",
        "| proposals | compared | equal, taken back | loss 0.1: taken back within 50 | 100 | 200 | median | "
        "loss 0.3: within 50 | median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        for world in WORLDS:
            equal, small, large = (first_alarms(world, setting, loss, rule, runs) for loss in (0.0, 0.1, 0.3))
            within = [f"{_share(small, tasks):.0%}" for tasks in (50, 100, 200)]
            lines.append(
                f"| {world.name} | {setting.name} | {_share(equal, rule.tasks):.1%} | {' | '.join(within)} | "
                f"{_median(small)} | {_share(large, 50):.0%} | {_median(large)} |"
            )
    return "\n".join(lines) + "\n"


def _share(alarms: NDArray[np.int64], tasks: int) -> float:
    return float(((alarms > 0) & (alarms <= tasks)).mean())


def _median(alarms: NDArray[np.int64]) -> str:
    """Median number of tasks until the alarm, over all runs; a dash where most have none."""
    found = np.where(alarms > 0, alarms, np.iinfo(np.int64).max)
    median = int(np.median(found))
    return "–" if median > alarms.max() else str(median)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, and print or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.watching", description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, help="simulated promotions a row")
    parser.add_argument("--certainty", type=float, default=RULE.certainty)
    parser.add_argument("--paired-certainty", type=float, default=RULE.paired_certainty)
    parser.add_argument("--margin", type=float, default=RULE.margin)
    parser.add_argument("--videos", type=int, default=RULE.videos)
    parser.add_argument("-o", "--output", type=Path, help="file to write the table to")
    given = parser.parse_args(arguments)
    rule = replace(
        RULE,
        certainty=given.certainty,
        paired_certainty=given.paired_certainty,
        margin=given.margin,
        videos=given.videos,
    )
    text = table(rule, given.runs)
    print(text)
    if given.output is not None:
        given.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
