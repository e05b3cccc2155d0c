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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.meanings import Options, WordTasks, learn_and_measure
from benchmarks.refinement.studies import add_place, in_processes, write_study
from benchmarks.refinement.words import OPEN
from ml_backend.refinement.labelling_order import OpenTask, OrderWeights, order_tasks
from steerseg.evaluation import Sample, bootstrap_mean
from steerseg.pipeline import SteerSeg

RANDOM = "random"
ORDERS: Mapping[str, OrderWeights] = {
    "the backend's": OrderWeights(),
    "uncertainty": OrderWeights(words=0.0, video=0.0),
}


@dataclass(frozen=True)
class Campaign:
    """The command line.

    Attributes:
        options: As of ``benchmarks.refinement.meanings``.
        share: Share of the tasks that use the team's word.
        pool: Tasks that may be labelled.
        shuffles: Random orders.
    """

    options: Options
    share: float
    pool: int
    shuffles: int


def measure_word(campaign: Campaign, word: Convention) -> list[dict[str, Any]]:
    """A record for each seed, order and number of corrections."""
    torch.set_num_threads(1)
    options = campaign.options
    tasks = WordTasks(SteerSeg.from_pretrained("demo", device=options.device), word)
    domain = Domain(word, share=campaign.share)
    root = options.data / f"{word.word}-{campaign.share:g}"
    held_out = samples_of(domain.held_out(options.held_out), root)
    records = []
    for seed in range(1, options.seeds + 1):
        pool = samples_of(domain.work(seed, campaign.pool), root)
        names = {sample.video: tasks.name(sample) for sample in pool}
        for order, samples in _orders(campaign, tasks, pool, seed):
            for size in options.sizes:
                record = learn_and_measure(tasks, seed, samples[:size], names, held_out)
                records.append({**record, "order": order})
    return records


def _orders(
    campaign: Campaign, tasks: WordTasks, pool: Sequence[Sample], seed: int
) -> list[tuple[str, list[Sample]]]:
    open_tasks = [
        OpenTask(number, sample.expression, sample.video, tasks.certainty(sample))
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
            jf = float(np.mean([jf for jf, _ in one["jf"]]))
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
    options = campaign.options
    records = in_processes(measure_word, [(campaign, word) for word in options.words], options.processes)
    write_study(options.output, "labelling", records, table(records))
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
    options = Options(
        words=tuple(word for word in OPEN if word.word in given.words),
        sizes=tuple(sorted(given.sizes)),
        seeds=given.seeds,
        held_out=given.held_out,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )
    return Campaign(options, given.share, given.pool, given.shuffles)


if __name__ == "__main__":
    sys.exit(main())
