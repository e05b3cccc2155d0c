"""``python -m benchmarks.refinement.learners``: learners of a team's word, compared on equal corrections.

The frozen model names each corrected object. From these names learn

- the *glossary* that refinements make: as served after its trial, and as made, whatever the trial says;
- *inversion*: a few vectors in the word's place, in reasoning and in grounding;
- the *mean of names*, where the inversion begins: nothing is trained;
- a *reasoning prompt*: vectors before the reasoning question, a third soft prompt.

Inversion and reasoning prompt are trained until the model answers as it does with the object's name in the word's
place; see :mod:`benchmarks.refinement.stand_ins`. Vectors have no trial. Proposals are measured on tasks that nobody
corrected, and those with the reasoning prompt on ordinary expressions, too, which the others never change.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.learners_report import (
    BOUND,
    GLOSSARY,
    INVERSION,
    LEARNERS,
    MADE,
    MEAN,
    PROMPT,
    TYPED,
    Comparison,
    Learned,
    Measured,
    report,
)
from benchmarks.refinement.meanings import learn_words
from benchmarks.refinement.stand_ins import (
    PROMPT_MARK,
    WORD_MARK,
    Schedule,
    StandIn,
    mark_term,
    mean_embedding,
    standing_in,
    teach,
)
from benchmarks.refinement.studies import WordTasks, add_place, add_seconds, measure_proposal
from benchmarks.refinement.teacher import SURE, Correction, Teacher, shared_term
from benchmarks.refinement.words import OPEN
from steerseg.evaluation import Sample
from steerseg.pipeline import SteerSeg
from steerseg.runtime.artefacts import write_bytes, write_tensors
from steerseg.words.glossary import Entry, Glossary

_CHUNK = 4  # tasks of a piece of work
_LEARNING = 0.5  # share of the time in which learning may begin


@dataclass(frozen=True)
class Options:
    """The command line."""

    words: tuple[Convention, ...]
    sizes: tuple[int, ...]
    seeds: int
    tasks: int
    ordinary: int
    inversion: Schedule
    prompt: Schedule
    seconds: float
    device: str
    processes: int
    data: Path
    output: Path


@functools.cache
def _models(device: str) -> SteerSeg:
    torch.set_num_threads(1)
    return SteerSeg.from_pretrained("demo", device=device)


# --- tasks


@dataclass(frozen=True)
class _Tasks:
    """The tasks of a word.

    Attributes:
        work: Those that are corrected, by seed.
        held_out: Those that nobody corrects.
        ordinary: The same, without the word.
    """

    work: Mapping[int, Sequence[Sample]]
    held_out: Sequence[Sample]
    ordinary: Sequence[Sample]


def _draw(options: Options, word: Convention) -> _Tasks:
    """The tasks of a word; their clips are drawn where they are missing."""
    root, domain = options.data / word.word, Domain(word)
    draw = functools.partial(samples_of, workers=options.processes)
    return _Tasks(
        work={
            seed: draw(domain.work(seed, max(options.sizes)), root) for seed in range(1, options.seeds + 1)
        },
        held_out=draw(domain.held_out(options.tasks), root),
        ordinary=draw(Domain(word, share=0.0).held_out(options.ordinary), root / "ordinary")
        if options.ordinary
        else (),
    )


# --- learning


def _learn(work: tuple[Options, Convention, int, Sequence[Sample], float]) -> list[Learned]:
    """What all learners make of the corrections of one word and seed; stand-ins go to the output folder."""
    options, word, seed, samples, end = work
    steerseg = _models(options.device)
    tasks, teacher = WordTasks(steerseg, word, options.output / "known"), Teacher(steerseg)
    corrections = [teacher.correction(tasks, sample) for sample in samples]
    names = {one.sample.video: one.names for one in corrections}
    learned = []
    for size in options.sizes:
        if time.time() > end:
            break
        judged = learn_words(tasks, samples[:size], names)
        served = judged.glossary if judged.accepted else Glossary()
        for learner, glossary in ((GLOSSARY, served), (MADE, judged.glossary)):
            learned.append(
                _of_glossary(glossary, Learned(word=word.word, seed=seed, size=size, learner=learner))
            )
        untrained = replace(options.inversion, steps=0)
        for learner, schedule in (
            (MEAN, untrained),
            (INVERSION, options.inversion),
            (PROMPT, options.prompt),
        ):
            plan = Learned(word=word.word, seed=seed, size=size, learner=learner)
            learned.append(_train(teacher, corrections[:size], plan, schedule, options.output))
    return learned


def _of_glossary(glossary: Glossary, plan: Learned) -> Learned:
    return plan.model_copy(
        update={
            "term": ", ".join(entry.term for entry in glossary.entries),
            "meaning": ", ".join(entry.meaning for entry in glossary.entries),
            "bytes": len(glossary.to_bytes()) if glossary else 0,
        }
    )


def _train(
    teacher: Teacher, corrections: Sequence[Correction], plan: Learned, schedule: Schedule, output: Path
) -> Learned:
    """Train a stand-in; without failures, or without a sure name, there is nothing to learn."""
    lvlm, in_place = teacher.steerseg.lvlm, plan.learner != PROMPT
    term = shared_term([one.sample.expression for one in corrections if one.failed])
    taught, seconds = teacher.lessons(corrections, term, in_place=in_place) if term else ([], 0.0)
    if not taught:
        return plan
    begun = time.monotonic()
    if in_place:
        named: dict[str, float] = defaultdict(float)
        for one in corrections:
            for name, probability in one.names.names.items():
                named[name] += probability if probability >= SURE else 0.0
        start = StandIn.around(lvlm, WORD_MARK, mean_embedding(lvlm, named))
    else:
        start = StandIn.around(lvlm, PROMPT_MARK, lvlm.line_break)
    stand_in, losses = teach(lvlm, start, taught, schedule)
    write_tensors(_file(output, plan), {"vectors": stand_in.vectors})
    return plan.model_copy(
        update={
            "term": term,
            "seconds": round(seconds + time.monotonic() - begun, 2),
            "bytes": stand_in.nbytes,
            "losses": tuple(round(loss, 4) for loss in (*losses[:1], *losses[1:][-1:])),
        }
    )


def _file(output: Path, learned: Learned) -> Path:
    name = "-".join((learned.word, str(learned.seed), str(learned.size), learned.learner.replace(" ", "-")))
    return output / "stand-ins" / f"{name}.safetensors"


# --- measuring


def _measure(
    work: tuple[Options, Convention, Sequence[Learned], Sequence[Sample], bool, float],
) -> list[Measured]:
    """J&F of all that was learned of a word, on a few tasks, unless time is over."""
    options, word, learned, samples, ordinary, end = work
    tasks = WordTasks(_models(options.device), word, options.output / "known")
    measured = []
    for sample in samples:
        if time.time() > end:
            break
        jf = {TYPED: tasks.quality(sample).jf}
        if not ordinary:
            jf[BOUND] = tasks.quality(sample, tasks.plain(sample)).jf
        for one in learned:
            if not ordinary or one.learner == PROMPT:
                jf[one.key] = _quality(tasks, sample, one, options.output)
        rounded = {key: round(value, 4) for key, value in jf.items()}
        measured.append(Measured(word=word.word, task=sample.video, ordinary=ordinary, jf=rounded))
    return measured


def _quality(tasks: WordTasks, sample: Sample, learned: Learned, output: Path) -> float:
    """J&F of a task with what was learned."""
    if not learned.term:
        return tasks.quality(sample).jf
    if learned.meaning:
        pairs = zip(learned.term.split(", "), learned.meaning.split(", "), strict=True)
        glossary = Glossary(entries=tuple(Entry(term=term, meaning=meaning) for term, meaning in pairs))
        return tasks.quality(sample, glossary.rewrite(sample.expression)).jf
    vectors = load_file(_file(output, learned))["vectors"]
    tasks.steerseg.reasonings.clear()  # a mark stood for other vectors before
    if learned.learner != PROMPT:
        with standing_in(tasks.steerseg.lvlm, [StandIn(WORD_MARK, vectors)]):
            return measure_proposal(tasks.steerseg, sample, mark_term(sample.expression, learned.term)).jf
    with (
        standing_in(tasks.steerseg.lvlm, [StandIn(PROMPT_MARK, vectors)]),
        _before_reasoning(tasks.steerseg, PROMPT_MARK),
    ):
        return measure_proposal(tasks.steerseg, sample, sample.expression).jf


@contextmanager
def _before_reasoning(steerseg: SteerSeg, text: str) -> Iterator[None]:
    """Inside, the reasoning question begins with a text."""
    texts = steerseg.texts
    steerseg.texts = replace(texts, reasoning=text + texts.reasoning)
    try:
        yield
    finally:
        steerseg.texts = texts


# --- the command


def compare(options: Options) -> Comparison:
    """Learn and measure."""
    begun = time.time()
    tasks = {word: _draw(options, word) for word in options.words}
    print(f"{time.time() - begun:.0f} s: the clips are there", flush=True)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        end = begun + options.seconds * _LEARNING
        lessons = [
            (options, word, seed, samples, end)
            for word, of_word in tasks.items()
            for seed, samples in of_word.work.items()
        ]
        learned = [one for part in pool.imap_unordered(_learn, lessons, chunksize=1) for one in part]
        learned.sort(key=lambda one: (one.word, one.seed, one.size))
        wanted = len(lessons) * len(options.sizes) * len(LEARNERS)
        print(f"{time.time() - begun:.0f} s: learned {len(learned)} of {wanted}", flush=True)
        end = begun + options.seconds
        pieces = [
            (options, word, [one for one in learned if one.word == word.word], part, ordinary, end)
            for word, of_word in tasks.items()
            for ordinary, samples in ((False, of_word.held_out), (True, of_word.ordinary))
            for part in (samples[at : at + _CHUNK] for at in range(0, len(samples), _CHUNK))
        ]
        random.Random(0).shuffle(pieces)  # what time leaves out is spread over the words
        measured = [one for part in pool.imap_unordered(_measure, pieces, chunksize=1) for one in part]
    wanted = sum(len(piece[3]) for piece in pieces)
    print(f"{time.time() - begun:.0f} s: measured {len(measured)} of {wanted} tasks", flush=True)
    measured.sort(key=lambda one: (one.word, one.ordinary, one.task))
    return Comparison(learned=tuple(learned), measured=tuple(measured))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and write ``learners.json`` and ``learners.md`` into the output folder."""
    options = _parse(arguments)
    comparison = compare(options)
    write_bytes(options.output / "learners.json", comparison.model_dump_json(indent=1).encode())
    text = report(comparison)
    write_bytes(options.output / "learners.md", text.encode())
    print(text)
    return 0


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.learners", description=__doc__)
    known = {word.word: word for word in OPEN}
    parser.add_argument("--words", nargs="+", default=list(known), choices=known, help="of words.py")
    parser.add_argument("--corrections", type=int, nargs="+", default=[4, 8, 16, 24], help="how many")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=40, help="tasks with the word that are measured, a word")
    parser.add_argument("--ordinary", type=int, default=16, help="tasks without the word, a word")
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    parser.add_argument("--inversion-rate", type=float, default=0.03, help="see stand_ins.Schedule")
    parser.add_argument("--prompt-rate", type=float, default=0.1, help="the same of the reasoning prompt")
    add_seconds(parser)
    add_place(parser, data="data/words", output="artefacts/learners")
    given = parser.parse_args(arguments)
    return Options(
        words=tuple(known[word] for word in given.words),
        sizes=tuple(sorted(given.corrections)),
        seeds=given.seeds,
        tasks=given.tasks,
        ordinary=given.ordinary,
        inversion=Schedule(steps=given.steps, rate=given.inversion_rate),
        prompt=Schedule(steps=given.steps, rate=given.prompt_rate),
        seconds=given.seconds,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
