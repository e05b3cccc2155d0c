"""``python -m benchmarks.refinement.meanings``: what a glossary learned from corrections gives, for several words.

For each invented word, number of corrections and seed, words are learned and tried by the code that refinements
run (:mod:`ml_backend.refinement.words`); nothing is trained. Proposals are then measured on tasks that nobody
corrected: as the team types them, with the glossary that is served, and, as the bound, with the plain word typed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.studies import (
    add_place,
    best_masks,
    corrected_example,
    in_processes,
    name_of,
    write_study,
)
from benchmarks.refinement.words import OPEN, WORDS
from ml_backend.models.examples import CorrectionExample
from ml_backend.models.messages import NamedObject, SoftPromptsRef
from ml_backend.refinement.words import WordLessons, WordsJudgement
from steerseg.evaluation import Sample, bootstrap_mean
from steerseg.evaluation.metrics import score
from steerseg.pipeline import SteerSeg
from steerseg.words.glossary import Glossary


@dataclass(frozen=True)
class Options:
    """The command line."""

    words: tuple[Convention, ...]
    sizes: tuple[int, ...]
    seeds: int
    held_out: int
    device: str
    processes: int
    data: Path
    output: Path


class WordTasks:
    """Tasks of one word with the models: proposals are made once a wording."""

    def __init__(self, steerseg: SteerSeg, word: Convention) -> None:
        self.steerseg = steerseg
        self.word = word
        self._known: dict[tuple[str, str], tuple[float, float, float]] = {}

    def quality(self, sample: Sample, wording: str) -> tuple[float, float]:
        """J&F and J in [0, 1] of the best tracklet for a wording."""
        return self._measure(sample, wording)[:2]

    def certainty(self, sample: Sample) -> float:
        """How sure the proposal for a sample as it is typed is; see ``ProposalStore.certainties``."""
        return self._measure(sample, sample.expression)[2]

    def _measure(self, sample: Sample, wording: str) -> tuple[float, float, float]:
        key = (sample.video, wording)
        if key not in self._known:
            self._known[key] = propose_and_score(self.steerseg, sample, wording)
        return self._known[key]

    def plain(self, sample: Sample) -> str:
        """The expression with the plain word typed."""
        words = sample.expression.split()
        return " ".join(self.word.means if word == self.word.word else word for word in words)

    def name(self, sample: Sample) -> NamedObject:
        """What the model calls the object of a task."""
        return name_of(self.steerseg, sample)


def propose_and_score(steerseg: SteerSeg, sample: Sample, wording: str) -> tuple[float, float, float]:
    """J&F and J in [0, 1] of the best tracklet for a wording, and how sure it is; see ``ProposalStore.certainties``."""
    truth = sample.masks()
    proposal = steerseg.propose(sample.load(), wording)
    scores = [tracklet.score for tracklet in proposal.tracklets[:2]]
    certainty = min(scores[0], scores[0] - scores[1]) if len(scores) > 1 else [*scores, -1.0][0]
    result = score(best_masks(proposal.tracklets, truth.shape), truth)
    return result.jf, result.j, certainty


def _measure_word(options: Options, word: Convention) -> list[dict[str, Any]]:
    """A record for each seed and size, one of a word's tasks as they are, and one of its bound."""
    torch.set_num_threads(1)
    tasks = WordTasks(SteerSeg.from_pretrained("demo", device=options.device), word)
    domain = Domain(word)
    root = options.data / word.word
    held_out = samples_of(domain.held_out(options.held_out), root)
    records: list[dict[str, Any]] = [
        {
            "word": word.word,
            "kind": "as typed",
            "jf": [tasks.quality(one, one.expression) for one in held_out],
        },
        {
            "word": word.word,
            "kind": "bound",
            "jf": [tasks.quality(one, tasks.plain(one)) for one in held_out],
        },
    ]
    for seed in range(1, options.seeds + 1):
        samples = samples_of(domain.work(seed, max(options.sizes)), root)
        names = {sample.video: tasks.name(sample) for sample in samples}
        for size in options.sizes:
            records.append(learn_and_measure(tasks, seed, samples[:size], names, held_out))
    return records


def learn_words(
    tasks: WordTasks, samples: Sequence[Sample], names: Mapping[str, NamedObject]
) -> WordsJudgement:
    """Learn words from corrected tasks and try them, as a refinement does.

    Args:
        tasks: The word and the models.
        samples: The tasks.
        names: What the model calls the object of each, by the name of its clip.
    """
    preset = tasks.steerseg.preset
    by_key = {sample.video: sample for sample in samples}
    examples = [
        corrected_example(
            sample, number, sample.masks(), tasks.quality(sample, sample.expression)[1], sample.video
        )
        for number, sample in enumerate(samples)
    ]
    with tempfile.TemporaryDirectory() as folder:
        lessons = WordLessons(Path(folder), preset.prompts_folder, preset.load_lexicon(), preset.recipe)

        def attempt(
            trials: Sequence[tuple[CorrectionExample, SoftPromptsRef]],
        ) -> dict[str, tuple[float, float]]:
            results = {}
            for example, version in trials:
                wording = Glossary.load(version.folder).rewrite(example.expression)
                sample = by_key[example.key]
                results[example.key] = (
                    tasks.quality(sample, wording)[0],
                    tasks.quality(sample, sample.expression)[0],
                )
            return results

        return lessons.learn(examples, lambda example: names[example.key], attempt)


def learn_and_measure(
    tasks: WordTasks,
    seed: int,
    samples: Sequence[Sample],
    names: Mapping[str, NamedObject],
    held_out: Sequence[Sample],
) -> dict[str, Any]:
    """A record of what is learned from some corrected tasks, and of what it gives on others."""
    judged = learn_words(tasks, samples, names)
    served = judged.glossary if judged.accepted else Glossary()
    return {
        "word": tasks.word.word,
        "kind": "served",
        "seed": seed,
        "size": len(samples),
        "learned": {entry.term: entry.meaning for entry in judged.glossary.entries},
        "accepted": judged.accepted,
        "reason": judged.reason,
        "jf": [tasks.quality(one, served.rewrite(one.expression)) for one in held_out],
        "made": [tasks.quality(one, judged.glossary.rewrite(one.expression)) for one in held_out],
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as tables of Markdown."""
    before = {one["word"]: _jf(one["jf"]) for one in records if one["kind"] == "as typed"}
    bound = {one["word"]: _jf(one["jf"]) for one in records if one["kind"] == "bound"}
    served = [one for one in records if one["kind"] == "served"]
    sizes = sorted({one["size"] for one in served})
    lines = [
        "| word | stands for | as typed | "
        + " | ".join(f"{size} corrections" for size in sizes)
        + " | bound |",
        "|---|---|---|" + "---|" * len(sizes) + "---|",
    ]
    means = {word.word: word.means for word in WORDS}
    for word in before:
        after = [
            np.mean([_jf(one["jf"]) for one in served if (one["word"], one["size"]) == (word, size)], 0)
            for size in sizes
        ]
        cells = " | ".join(f"{part.mean():.3f}" for part in after)
        lines.append(
            f"| “{word}” | {means[word]} | {before[word].mean():.3f} | {cells} | {bound[word].mean():.3f} |"
        )
    lines += [
        "",
        "| corrections | gain of what is served [95 % interval] | share of the distance to the bound | accepted | "
        "right of the accepted | lost (gain < 0) |",
        "|---|---|---|---|---|---|",
    ]
    for size in sizes:
        runs = [one for one in served if one["size"] == size]
        gains = np.concatenate([_jf(one["jf"]) - before[one["word"]] for one in runs])
        tasks = [f"{one['word']}-{index}" for one in runs for index in range(len(one["jf"]))]
        shares = [
            (np.mean([_jf(one["jf"]).mean() for one in runs if one["word"] == word]) - before[word].mean())
            / (bound[word].mean() - before[word].mean())
            for word in before
        ]
        accepted = [one for one in runs if one["accepted"]]
        right = sum(one["learned"].get(one["word"]) == means[one["word"]] for one in accepted)
        lost = sum(float((_jf(one["jf"]) - before[one["word"]]).mean()) < 0 for one in accepted)
        interval = bootstrap_mean(gains, tasks)
        lines.append(
            f"| {size} | {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] | {np.mean(shares):.0%} "
            f"(least {min(shares):.0%}) | {len(accepted)} of {len(runs)} | {right} | {lost} |"
        )
    return "\n".join(lines) + "\n"


def _jf(pairs: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array([jf for jf, _ in pairs])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``meanings.jsonl`` and ``meanings.md`` into the output folder."""
    options = _parse(arguments)
    records = in_processes(_measure_word, [(options, word) for word in options.words], options.processes)
    write_study(options.output, "meanings", records, table(records))
    return 0


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.meanings", description=__doc__)
    parser.add_argument("--words", nargs="+", default=[word.word for word in OPEN], help="of words.py")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2, 4, 8, 16, 24], help="numbers of corrections"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=80, help="tasks a word that are measured")
    add_place(parser, data="data/words", output="artefacts/meanings")
    given = parser.parse_args(arguments)
    return Options(
        words=tuple(word for word in WORDS if word.word in given.words),
        sizes=tuple(sorted(given.sizes)),
        seeds=given.seeds,
        held_out=given.held_out,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
