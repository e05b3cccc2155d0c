"""``python -m benchmarks.refinement.labelling``: fewer corrections by labelling in the backend's order, or not.

For each word and seed, a pool of tasks is labelled in the backend's order, by uncertainty alone, and in random orders.
After each number of corrections, words are learned and tried by the code that refinements run; nothing is trained.
Proposals are measured on tasks that nobody labelled. Each is made once a wording, so that orders are paired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.meanings import learn_and_measure, models
from benchmarks.refinement.studies import WordTasks, add_place, in_processes, write_study
from benchmarks.refinement.words import OPEN
from ml_backend.refinement.labelling_order import OpenTask, OrderWeights, order_tasks
from steerseg.evaluation import Sample, bootstrap_mean

RANDOM = "random"
ORDERS: Mapping[str, OrderWeights] = {
    "the backend's": OrderWeights(),
    "uncertainty": OrderWeights(words=0.0, video=0.0),
}


@dataclass(frozen=True)
class Campaign:
    """The command line.

    Attributes:
        words: The words.
        sizes: Numbers of corrections.
        seeds: Pools of each word.
        share: Share of the tasks that use the team's word.
        pool: Tasks that may be labelled.
        shuffles: Random orders.
        held_out: Tasks a word that are measured.
        device: As of :meth:`steerseg.pipeline.SteerSeg.from_pretrained`.
        processes: Pieces of work at a time.
        data: Folder of rendered clips.
        output: Folder of the results.
    """

    words: tuple[Convention, ...]
    sizes: tuple[int, ...]
    seeds: int
    share: float
    pool: int
    shuffles: int
    held_out: int
    device: str
    processes: int
    data: Path
    output: Path

    def measured(self, word: Convention, workers: int = 1) -> list[Sample]:
        """Tasks that nobody labels."""
        return samples_of(Domain(word, self.share).held_out(self.held_out), self._root(word), workers)

    def open(self, word: Convention, seed: int, workers: int = 1) -> list[Sample]:
        """Tasks that may be labelled."""
        return samples_of(Domain(word, self.share).work(seed, self.pool), self._root(word), workers)

    def _root(self, word: Convention) -> Path:
        return self.data / f"{word.word}-{self.share:g}"


def measure_pool(campaign: Campaign, word: Convention, seed: int) -> list[dict[str, Any]]:
    """A record for each order and number of corrections."""
    tasks = WordTasks(models(campaign.device), word, campaign.output / "known")
    measured, pool = campaign.measured(word), campaign.open(word, seed)
    names = {sample.video: tasks.name(sample) for sample in pool}
    return [
        {**learn_and_measure(tasks, seed, samples[:size], names, measured), "order": order}
        for order, samples in _orders(campaign, tasks, pool, seed)
        for size in campaign.sizes
    ]


def _orders(
    campaign: Campaign, tasks: WordTasks, pool: Sequence[Sample], seed: int
) -> list[tuple[str, list[Sample]]]:
    open_tasks = [
        OpenTask(number, sample.expression, sample.video, tasks.quality(sample).certainty)
        for number, sample in enumerate(pool)
    ]
    rng = np.random.default_rng(seed)
    orders = [(RANDOM, [pool[i] for i in rng.permutation(len(pool))]) for _ in range(campaign.shuffles)]
    for name, weights in ORDERS.items():
        ordered = order_tasks(open_tasks, (), len(pool), weights)
        orders.append((name, [pool[one.task.id] for one in ordered]))
    return orders


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """What each order gives, and how many corrections it needs for what a random one gives, in Markdown."""
    sizes = sorted({one["size"] for one in records})
    lines = [
        "| order | " + " | ".join(f"J&F after {size}" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for order in (RANDOM, *ORDERS):
        cells = [_mean(records, order, size) for size in sizes]
        lines.append(f"| {order} | " + " | ".join(f"{part.mean():.3f}" for part in cells) + " |")
    lines += ["", "| order | corrections | gain over random, paired [95 % interval] |", "|---|---|---|"]
    for order in ORDERS:
        for size in sizes:
            gain = _mean(records, order, size) - _mean(records, RANDOM, size)
            interval = bootstrap_mean(gain, [str(unit) for unit in range(len(gain))])
            lines.append(
                f"| {order} | {size} | {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] |"
            )
    lines += ["", "| order | corrections needed for the J&F of 8 random ones | of 16 |", "|---|---|---|"]
    for order in (RANDOM, *ORDERS):
        needed = [_needed(records, order, size, sizes) for size in (8, 16)]
        lines.append(f"| {order} | " + " | ".join(needed) + " |")
    return "\n".join(lines) + "\n"


def _mean(records: Sequence[Mapping[str, Any]], order: str, size: int) -> NDArray[np.float64]:
    """Mean J&F of each word and seed, (U,); random orders are averaged."""
    units: dict[tuple[str, int], list[float]] = {}
    for one in records:
        if (one["order"], one["size"]) == (order, size):
            jf = float(np.mean([task[0] for task in one["tasks"]]))
            units.setdefault((one["word"], one["seed"]), []).append(jf)
    return np.array([np.mean(units[unit]) for unit in sorted(units)])


def _needed(records: Sequence[Mapping[str, Any]], order: str, goal: int, sizes: Sequence[int]) -> str:
    """Corrections that reach what random orders reach with ``goal``; linear between the sizes."""
    if goal not in sizes:
        return "–"
    wanted = _mean(records, RANDOM, goal).mean()
    curve = np.maximum.accumulate([_mean(records, order, size).mean() for size in sizes])
    if curve[-1] < wanted:
        return f"more than {sizes[-1]}"
    at = int(np.argmax(curve >= wanted))
    if at == 0:
        return f"{sizes[0]} or fewer"
    low, high = curve[at - 1], curve[at]
    return f"{sizes[at - 1] + (wanted - low) / (high - low) * (sizes[at] - sizes[at - 1]):.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``labelling.jsonl`` and ``labelling.md`` into the output folder."""
    campaign = _parse(arguments)
    pools = [(word, seed) for seed in range(1, campaign.seeds + 1) for word in campaign.words]
    for word, seed in pools:
        campaign.measured(word, campaign.processes)
        campaign.open(word, seed, campaign.processes)
    work = [(campaign, word, seed) for word, seed in pools]
    records = in_processes(measure_pool, work, campaign.processes)
    write_study(campaign.output, "labelling", records, table(records))
    return 0


def _parse(arguments: Sequence[str] | None) -> Campaign:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.labelling", description=__doc__)
    parser.add_argument(
        "--words", nargs="+", default=[word.word for word in OPEN], choices=[word.word for word in OPEN]
    )
    parser.add_argument("--share", type=float, default=0.5, help="share of the tasks with the team's word")
    parser.add_argument("--pool", type=int, default=48, help="tasks that may be labelled")
    parser.add_argument("--shuffles", type=int, default=5, help="random orders")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 6, 8, 12, 16, 24])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=60, help="tasks a word that are measured")
    add_place(parser, data="data/labelling", output="artefacts/labelling")
    given = parser.parse_args(arguments)
    return Campaign(
        words=tuple(word for word in OPEN if word.word in given.words),
        sizes=tuple(sorted(given.sizes)),
        seeds=given.seeds,
        share=given.share,
        pool=given.pool,
        shuffles=given.shuffles,
        held_out=given.held_out,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
