"""``python -m benchmarks.refinement.meanings``: what a glossary learned from corrections gives, for several words.

For each invented word, number of corrections and seed, words are learned and tried by the code that refinements
run (:mod:`ml_backend.refinement.words`); nothing is trained. Proposals are then measured on tasks that nobody
corrected: as the team types them, with the glossary that is served, and, as the bound, with the plain word typed.
In a project of halves, every other corrected task has an ordinary expression; ordinary tasks are then measured, too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.meanings_report import plot, table
from benchmarks.refinement.studies import (
    WordTasks,
    add_place,
    corrected_example,
    in_processes,
    write_study,
)
from benchmarks.refinement.words import OPEN, WORDS
from ml_backend.models.examples import CorrectionExample
from ml_backend.models.messages import NamedObject, SoftPromptsRef
from ml_backend.refinement.words import WordLessons, WordsJudgement
from steerseg.evaluation import Sample, open_dataset
from steerseg.pipeline import SteerSeg
from steerseg.words.glossary import Glossary

_CHUNK = 8  # tasks of a piece of work


@dataclass(frozen=True)
class Options:
    """The command line.

    Attributes:
        words: The words.
        sizes: Numbers of corrections.
        shares: Shares of the corrected tasks that use the word.
        seeds: Projects of each word and share.
        held_out: Tasks a word that are measured.
        ordinary: Ordinary tasks, and as many of the old domain, that are measured where a glossary changes them.
        device: As of :meth:`steerseg.pipeline.SteerSeg.from_pretrained`.
        processes: Pieces of work at a time.
        data: Folder of rendered clips.
        output: Folder of the results.
    """

    words: tuple[Convention, ...]
    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    seeds: int
    held_out: int
    ordinary: int
    device: str
    processes: int
    data: Path
    output: Path

    @property
    def known(self) -> Path:
        """Folder of what was measured already."""
        return self.output / "known"


@dataclass(frozen=True)
class Project:
    """Corrected tasks of one word, and what others are measured.

    Attributes:
        word: The word.
        share: Share of the corrected tasks that use it.
        seed: Of the corrected tasks.
    """

    word: Convention
    share: float
    seed: int

    def corrected(self, options: Options, workers: int = 1) -> list[Sample]:
        """The tasks in the order in which they are corrected."""
        manifest = Domain(self.word, self.share).work(self.seed, max(options.sizes))
        return samples_of(manifest, options.data / f"{self.word.word}-{self.share:g}", workers)


def projects(options: Options) -> list[Project]:
    """All projects of a study."""
    return [
        Project(word, share, seed)
        for share, seed, word in itertools.product(options.shares, range(1, options.seeds + 1), options.words)
    ]


def held_out(options: Options, word: Convention, workers: int = 1) -> list[Sample]:
    """Tasks with the word that nobody corrects."""
    return samples_of(Domain(word).held_out(options.held_out), options.data / f"{word.word}-1", workers)


def others(options: Options, workers: int = 1) -> dict[str, list[Sample]]:
    """Tasks without a team's word that nobody corrects, by what they are."""
    ordinary = Domain(OPEN[0], 0.0).held_out(options.ordinary)
    return {
        "ordinary": samples_of(ordinary, options.data / "ordinary", workers),
        "old": open_dataset("sprites-ref", "val", options.data, workers)[: options.ordinary],
    }


@cache
def models(device: str) -> SteerSeg:
    """The demo's models, once a process."""
    torch.set_num_threads(1)
    return SteerSeg.from_pretrained("demo", device=device)


def _measure_tasks(options: Options, word: Convention, begin: int) -> list[dict[str, Any]]:
    """A record of some of a word's tasks as they are typed, and one of their bound."""
    tasks = WordTasks(models(options.device), word, options.known)
    samples = held_out(options, word)[begin : begin + _CHUNK]
    wordings: Mapping[str, Callable[[Sample], str]] = {
        "as typed": lambda sample: sample.expression,
        "bound": tasks.plain,
    }
    return [
        {
            "word": word.word,
            "means": word.means,
            "kind": kind,
            "begin": begin,
            "tasks": [tasks.quality(sample, wording(sample)) for sample in samples],
        }
        for kind, wording in wordings.items()
    ]


def _measure_project(options: Options, project: Project) -> list[dict[str, Any]]:
    """A record for each number of corrections of a project."""
    tasks = WordTasks(models(options.device), project.word, options.known)
    corrected, measured = project.corrected(options), held_out(options, project.word)
    names = {sample.video: tasks.name(sample) for sample in corrected}
    records = []
    for size in options.sizes:
        record = learn_and_measure(tasks, project.seed, corrected[:size], names, measured)
        served = Glossary.model_validate_json(record["served"])
        gains = {kind: _gains(tasks, served, samples) for kind, samples in others(options).items()}
        records.append({**record, "share": project.share, "gains": gains})
    return records


def _gains(tasks: WordTasks, served: Glossary, samples: Sequence[Sample]) -> list[float]:
    """What a glossary changes in J&F; 0 for a task whose expression it leaves alone."""
    return [
        0.0
        if (wording := served.rewrite(sample.expression)) == sample.expression
        else tasks.quality(sample, wording).jf - tasks.quality(sample).jf
        for sample in samples
    ]


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
        corrected_example(sample, number, sample.masks(), tasks.quality(sample).j, sample.video)
        for number, sample in enumerate(samples)
    ]
    with tempfile.TemporaryDirectory() as folder:
        lessons = WordLessons(Path(folder), preset.prompts_folder, preset.load_lexicon(), preset.recipe)

        def attempt(
            trials: Sequence[tuple[CorrectionExample, SoftPromptsRef]],
        ) -> dict[str, tuple[float, float]]:
            results = {}
            for example, version in trials:
                sample = by_key[example.key]
                wording = Glossary.load(version.folder).rewrite(example.expression)
                results[example.key] = tasks.quality(sample, wording).jf, tasks.quality(sample).jf
            return results

        return lessons.learn(examples, lambda example: names[example.key], attempt)


def learn_and_measure(
    tasks: WordTasks,
    seed: int,
    samples: Sequence[Sample],
    names: Mapping[str, NamedObject],
    measured: Sequence[Sample],
) -> dict[str, Any]:
    """A record of what is learned from some corrected tasks, and of what it gives on others."""
    judged = learn_words(tasks, samples, names)
    served = judged.glossary if judged.accepted else Glossary()
    return {
        "word": tasks.word.word,
        "means": tasks.word.means,
        "kind": "served",
        "seed": seed,
        "size": len(samples),
        "learned": {entry.term: entry.meaning for entry in judged.glossary.entries},
        "accepted": judged.accepted,
        "reason": judged.reason,
        "served": served.to_bytes().decode(),
        "tasks": [tasks.quality(one, served.rewrite(one.expression)) for one in measured],
        "made": [tasks.quality(one, judged.glossary.rewrite(one.expression)) for one in measured],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``meanings.jsonl``, ``meanings.md`` and a picture into the output folder."""
    options = _parse(arguments)
    begun = time.monotonic()
    for word in options.words:
        held_out(options, word, options.processes)
    others(options, options.processes)
    for project in projects(options):
        project.corrected(options, options.processes)
    print(f"{time.monotonic() - begun:.0f} s: all clips are drawn", flush=True)
    pieces = [
        (options, word, begin) for begin in range(0, options.held_out, _CHUNK) for word in options.words
    ]
    records = in_processes(_measure_tasks, pieces, options.processes)
    print(f"{time.monotonic() - begun:.0f} s: held-out tasks are measured", flush=True)
    work = [(options, project) for project in projects(options)]
    records += in_processes(_measure_project, work, options.processes)
    write_study(options.output, "meanings", records, table(records))
    plot(records, options.output / "meanings.png")
    return 0


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.meanings", description=__doc__)
    parser.add_argument("--words", nargs="+", default=[word.word for word in OPEN], help="of words.py")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2, 4, 8, 16, 24, 48], help="numbers of corrections"
    )
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0, 0.5], help="of corrected tasks with the word"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=80, help="tasks a word that are measured")
    parser.add_argument("--ordinary", type=int, default=60, help="ordinary tasks, and of the old domain")
    add_place(parser, data="data/words", output="artefacts/meanings")
    given = parser.parse_args(arguments)
    return Options(
        words=tuple(word for word in WORDS if word.word in given.words),
        sizes=tuple(sorted(given.sizes)),
        shares=tuple(given.shares),
        seeds=given.seeds,
        held_out=given.held_out,
        ordinary=given.ordinary,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
