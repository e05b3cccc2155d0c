"""``python -m benchmarks.refinement.gate_study``: are the gate's decisions right?

Many refinements are made by the code that servers run: over words, seeds and numbers of corrections, and some with
nothing to learn. What the gate saw of each is recorded, and the truth beside it: what the versions do on further
tasks that nobody corrected. :mod:`benchmarks.refinement.gate_rules` then tries rules on the records, without a model.
"""

from __future__ import annotations

import argparse
import enum
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.studies import (
    ACCEPT,
    add_place,
    add_seconds,
    best_masks,
    corrected_example,
    name_of,
    write_records,
)
from benchmarks.refinement.words import OPEN, WORDS
from ml_backend.models.examples import CorrectionExample, Example, Pool
from ml_backend.models.messages import (
    MediaFile,
    NamedObject,
    PrepareRequest,
    SoftPromptsRef,
    TrainRequest,
)
from ml_backend.models.refine import Refiner
from ml_backend.models.reporter import SilentReporter
from ml_backend.models.sample_files import SampleReader
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.models.trainings import Trainings
from ml_backend.refinement.plan import InsufficientData, Plan, split_examples
from ml_backend.refinement.words import WordLessons
from steerseg.errors import ConfigError
from steerseg.evaluation import Sample, open_dataset
from steerseg.evaluation.metrics import region_iou, score
from steerseg.masks import RLE, decode_rle
from steerseg.pipeline import SteerSeg
from steerseg.runtime.artefacts import write_json
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.replay import open_replay
from steerseg.video import Video, VideoLimits
from steerseg.video.isolation import IsolatedDecoder
from steerseg.words.glossary import Glossary

_OLD_TASKS = 40
_CHUNK = 5  # tasks of a piece of work of the truth
_SILENT = SilentReporter()


class Condition(enum.StrEnum):
    """What the corrected tasks are like."""

    WORD = "word"  # all use the team's word
    HALVES = "halves"  # half of them do
    ORDINARY = "ordinary"  # none does: there is no word to learn
    SHUFFLED = "shuffled"  # the word stands for objects of all kinds: there is nothing to learn


@dataclass(frozen=True)
class Case:
    """One refinement of the study."""

    condition: Condition
    word: str
    seed: int
    size: int

    @property
    def key(self) -> str:
        """Identifies it."""
        return f"{self.condition}-{self.word}-{self.seed}-{self.size}"

    @property
    def measured_on(self) -> tuple[str, ...]:
        """The sets of tasks that say what its versions truly do."""
        own, others = (self.word,), ("ordinary",)
        sets = {Condition.HALVES: own + others, Condition.ORDINARY: others}
        return (*sets.get(self.condition, own), "old")


@dataclass(frozen=True)
class Options:
    """The command line."""

    cases: tuple[Case, ...]
    training: bool
    held_out: int
    seconds: float
    device: str
    processes: int
    data: Path
    output: Path

    @property
    def most(self) -> int:
        """Corrections of the largest case."""
        return max(case.size for case in self.cases)


@dataclass
class _Clock:
    """Seconds by part of a refinement."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - begun, 2)


class _Bench:
    """The models of one process; what was measured once is kept in a folder that all share."""

    def __init__(self, device: str, known: Path) -> None:
        torch.set_num_threads(1)
        self.steerseg = SteerSeg.from_pretrained("demo", device=device, remembered_bytes=1 << 30)
        self.preset = self.steerseg.preset
        self.lexicon = self.preset.load_lexicon()
        samples, prompts = SampleReader(), SoftPromptCache()
        self.refiner = Refiner(self.steerseg, IsolatedDecoder(VideoLimits()), prompts, samples)
        self.trainings = Trainings(self.steerseg, prompts, samples)
        if self.preset.replay is None or self.steerseg.soft_prompts is None:
            raise ConfigError("the study needs a preset with soft prompts and a replay set")
        self.replay = open_replay(self.preset.replay)
        self.own = self.steerseg.soft_prompts
        self._known = known

    def quality(
        self, name: str, video: Video, truth: np.ndarray, wording: str, prompts: SoftPrompts
    ) -> tuple[float, float]:
        """J&F and J in [0, 1] of the best tracklet for a wording that no glossary changes any more."""
        plain = replace(prompts, glossary=Glossary())
        state = json.dumps([name, wording, plain.digest])
        path = self._known / f"{hashlib.sha256(state.encode()).hexdigest()[:24]}.json"
        if path.is_file():
            jf, j = json.loads(path.read_text())
            return jf, j
        result = score(self._masks(video, truth.shape, wording, plain), truth)
        write_json(path, [result.jf, result.j])
        return result.jf, result.j

    def proposed(self, sample: Sample) -> np.ndarray:
        """What the preset proposes for a task: (T, H, W)."""
        return self._masks(sample.load(), sample.masks().shape, sample.expression, self.own)

    def _masks(self, video: Video, shape: Sequence[int], wording: str, prompts: SoftPrompts) -> np.ndarray:
        proposal = self.steerseg.propose(video, wording, soft_prompts=prompts)
        return best_masks(proposal.tracklets, shape)


@cache
def _bench(device: str, known: Path) -> _Bench:
    return _Bench(device, known)


# --- tasks


def _convention(word: str) -> Convention:
    return next(one for one in WORDS if one.word == word)


_SHARES = {Condition.HALVES: 0.5, Condition.ORDINARY: 0.0}


@cache
def _work(word: str, share: float, seed: int, root: Path, most: int, workers: int = 1) -> list[Sample]:
    """The tasks that are corrected in a case of most corrections."""
    return samples_of(Domain(_convention(word), share).work(seed, most), root, workers)


def _corrected(case: Case, options: Options) -> list[Sample]:
    """The tasks of a case, in the order in which they are corrected."""
    data, most = options.data, options.most
    share = _SHARES.get(case.condition, 1.0)
    samples = _work(case.word, share, case.seed, _root(case, data), most)
    if case.condition is not Condition.SHUFFLED:
        return samples[: case.size]
    others = [
        _work(other.word, 1.0, case.seed, data / Condition.WORD / other.word, most)
        for other in OPEN
        if other.word != case.word
    ]
    objects = [others[number % len(others)][number // len(others)] for number in range(case.size)]
    return [
        replace(theirs, id=f"{theirs.id}-{case.word}", expression=own.expression)
        for own, theirs in zip(samples, objects, strict=False)
    ]


def _root(case: Case, data: Path) -> Path:
    kind = Condition.WORD if case.condition is Condition.SHUFFLED else case.condition
    return data / kind / case.word


def _draw(options: Options) -> int:
    """Draw all clips; how many sets they are."""
    sets = sorted({of for case in options.cases for of in case.measured_on})
    for of in sets:
        _tasks(of, options.held_out, options.data, options.processes)
    work = {
        (case.word, _SHARES.get(case.condition, 1.0), case.seed, _root(case, options.data))
        for case in options.cases
    }
    if any(case.condition is Condition.SHUFFLED for case in options.cases):
        seeds = {case.seed for case in options.cases if case.condition is Condition.SHUFFLED}
        work |= {
            (one.word, 1.0, seed, options.data / Condition.WORD / one.word) for one in OPEN for seed in seeds
        }
    for arguments in sorted(work, key=str):
        _work(*arguments, options.most, workers=options.processes)
    return len(sets) + len(work)


@cache
def _tasks(of: str, held_out: int, data: Path, workers: int = 1) -> list[Sample]:
    """A set of tasks that nobody corrects."""
    if of == "old":
        return open_dataset("sprites-ref", "val", data, workers)[:_OLD_TASKS]
    domain = Domain(OPEN[0], 0.0) if of == "ordinary" else Domain(_convention(of))
    return samples_of(domain.held_out(held_out), data / "held-out" / of, workers)


def _example(sample: Sample, number: int, proposed: np.ndarray) -> CorrectionExample:
    """A task as its annotator leaves it: good proposals are accepted, others become the truth."""
    truth = sample.masks()
    overlap = float(np.mean([region_iou(mask, true) for mask, true in zip(proposed, truth, strict=True)]))
    return corrected_example(
        sample, number, truth if overlap < ACCEPT else proposed, overlap, key=f"c{number}"
    )


# --- one refinement


def _refine(work: tuple[Case, Options, float]) -> None:
    """Make a case's refinement, unless time is over; its record and its versions go to the output folder."""
    case, options, end = work
    record = options.output / "cases" / f"{case.key}.json"
    if record.is_file() or time.time() > end:
        return
    bench = _bench(options.device, options.output / "known")
    with tempfile.TemporaryDirectory() as folder:
        write_json(record, _Refinement(bench, case, options, Path(folder)).run())


class _Refinement:
    """One refinement, with what its gate sees."""

    def __init__(self, bench: _Bench, case: Case, options: Options, folder: Path) -> None:
        self._bench, self._case, self._options, self._folder = bench, case, options, folder
        self._clock = _Clock()
        samples = _corrected(case, options)
        with self._clock.measure("proposals"):
            self._examples = [
                _example(sample, number, bench.proposed(sample)) for number, sample in enumerate(samples)
            ]
        self._samples = {example.key: sample for example, sample in zip(self._examples, samples, strict=True)}

    def run(self) -> dict[str, Any]:
        """Learn words, try them, train, and try that."""
        bench = self._bench
        preset = bench.preset
        lessons = WordLessons(self._folder / "words", preset.prompts_folder, bench.lexicon, preset.recipe)
        with self._clock.measure("words"):
            words = lessons.learn(self._examples, self._name, self._attempt)
        base = lessons.version(words.glossary) if words.accepted else None
        champion = replace(bench.own, glossary=words.glossary if words.accepted else Glossary())
        self._keep("words", replace(bench.own, glossary=words.glossary))
        weights = {example.key: example.weight for example in self._examples}
        record = {
            **asdict(self._case),
            "words": {
                "learned": {entry.term: entry.meaning for entry in words.changed},
                "using": {
                    entry.term: [one.key for one in self._examples if entry.occurs_in(one.expression)]
                    for entry in words.changed
                },
                "accepted": words.accepted,
                "trials": [{**asdict(one), "weight": weights[one.key]} for one in words.metrics.examples],
            },
            "seconds": self._clock.seconds,
        }
        return {**record, **self._trained(base, champion)} if self._options.training else record

    def _trained(self, base: SoftPromptsRef | None, champion: SoftPrompts) -> dict[str, Any]:
        """Train on top of what is served, and try that."""
        preset = self._bench.preset
        plan = split_examples(self._examples, preset.recipe, preset.replay)
        if isinstance(plan, InsufficientData) or plan.shortage:
            raise ConfigError(f"{self._case.key}: too few corrections")
        with self._clock.measure("preparing"):
            ready = self._prepare(plan, base)
        trained = {training.name: self._train(training.name, training.keys, ready, base, plan)
                   for training in plan.trainings}  # fmt: skip
        candidate = trained[plan.candidate.name]
        self._keep("trained", candidate)
        with self._clock.measure("trials"):
            held_out = [
                self._tried(plan.corrections[trial.key], trained[trial.training], champion)
                for trial in plan.held_out
            ]
            replayed = [self._replayed(example.index, candidate, champion) for example in plan.regression]
        return {"scheme": plan.scheme, "held_out": held_out, "replayed": replayed}

    def _name(self, example: CorrectionExample) -> NamedObject:
        return name_of(self._bench.steerseg, self._samples[example.key])

    def _attempt(
        self, trials: Sequence[tuple[CorrectionExample, SoftPromptsRef]]
    ) -> dict[str, tuple[float, float]]:
        own = self._bench.own
        return {
            example.key: (
                self._quality(example, replace(own, glossary=Glossary.load(version.folder))),
                self._quality(example, own),
            )
            for example, version in trials
        }

    def _quality(self, example: CorrectionExample, prompts: SoftPrompts) -> float:
        """J&F on what the annotator left."""
        sample = self._samples[example.key]
        truth = np.stack([_decoded(example.truth[frame]) for frame in range(example.num_frames)])
        kind = "accepted" if example.weight < 1 else "true"
        wording = prompts.glossary.rewrite(example.expression)
        return self._bench.quality(f"{kind}:{sample.id}", sample.load(), truth, wording, prompts)[0]

    def _tried(
        self, example: CorrectionExample, candidate: SoftPrompts, champion: SoftPrompts
    ) -> dict[str, Any]:
        return {
            "key": example.key,
            "video": example.group,
            "weight": example.weight,
            "candidate": self._quality(example, candidate),
            "champion": self._quality(example, champion),
        }

    def _replayed(self, index: int, candidate: SoftPrompts, champion: SoftPrompts) -> dict[str, Any]:
        clip = self._bench.replay("held_out", index)
        one, other = (
            self._bench.quality(
                clip.video.digest, clip.video, clip.masks, prompts.glossary.rewrite(clip.expression), prompts
            )[0]
            for prompts in (candidate, champion)
        )
        return {"key": clip.video.digest, "video": clip.video.digest, "weight": 1.0,
                "candidate": one, "champion": other}  # fmt: skip

    def _prepare(self, plan: Plan, base: SoftPromptsRef | None) -> frozenset[str]:
        """Keys of the examples that teach something."""
        wanted: list[Example] = [*plan.corrections.values(), *plan.replayed]
        teaching = set()
        for example in wanted:
            media = None
            if isinstance(example, CorrectionExample):
                sample = self._samples[example.key]
                media = MediaFile(sample.folder, sample.fps)
            request = PrepareRequest(
                example, media, folder=self._folder, features=self._folder / "features", prompts=base
            )
            if self._bench.refiner.prepare(request, _SILENT).teaches:
                teaching.add(example.key)
        return frozenset(teaching)

    def _train(
        self,
        name: str,
        keys: Sequence[str],
        ready: frozenset[str],
        base: SoftPromptsRef | None,
        plan: Plan,
    ) -> SoftPrompts:
        pools = {
            Pool.NEW: tuple(key for key in keys if key in ready),
            Pool.OLD: (),
            Pool.PRESET: tuple(example.key for example in plan.replayed if example.key in ready),
        }
        request = TrainRequest(
            name=name,
            folder=self._folder,
            features=self._folder / "features",
            pools=pools,
            start=base,
            seconds=float("inf"),
        )
        with self._clock.measure("training"):
            self._bench.trainings.train(request, _SILENT)
        return SoftPrompts.load(self._folder / name)

    def _keep(self, kind: str, prompts: SoftPrompts) -> None:
        prompts.save(self._options.output / "versions" / self._case.key / kind)


def _decoded(rle: RLE | None) -> np.ndarray:
    assert rle is not None  # the annotator decided every frame
    return decode_rle(rle)


# --- the truth


def _measure(work: tuple[str, int, Options, float]) -> list[dict[str, Any]]:
    """J&F of all versions on a few tasks of a set, unless time is over."""
    of, begin, options, end = work
    if time.time() > end:
        return []
    bench = _bench(options.device, options.output / "known")
    versions = _versions(options, of)
    return [
        {"tasks": of, "task": sample.id, "kind": sample.kind, **_of_task(bench, of, sample, versions)}
        for sample in _tasks(of, options.held_out, options.data)[begin : begin + _CHUNK]
    ]


def _of_task(
    bench: _Bench, of: str, sample: Sample, versions: Mapping[str, SoftPrompts]
) -> dict[str, dict[str, float]]:
    video, truth = sample.load(), sample.masks()
    wordings = {
        name: (prompts.glossary.rewrite(sample.expression), prompts) for name, prompts in versions.items()
    }
    wordings["as typed"] = (sample.expression, bench.own)
    if of not in ("old", "ordinary"):
        word = _convention(of)
        plain = " ".join(word.means if part == word.word else part for part in sample.expression.split())
        wordings["bound"] = (plain, bench.own)
    return {
        "jf": {
            name: round(bench.quality(sample.id, video, truth, wording, prompts)[0], 4)
            for name, (wording, prompts) in wordings.items()
        }
    }


@cache
def _versions(options: Options, of: str) -> dict[str, SoftPrompts]:
    """The versions that a set of tasks is measured with."""
    return {
        f"{case.key}/{kind}": SoftPrompts.load(folder)
        for case in options.cases
        if of in case.measured_on
        for kind in ("words", "trained")
        if (folder := options.output / "versions" / case.key / kind).is_dir()
    }


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Refine and measure; the records are ``cases.jsonl`` and ``truth.jsonl`` in the output folder."""
    options = _parse(arguments)
    begun = time.time()
    sets = sorted({of for case in options.cases for of in case.measured_on})
    print(f"{_draw(options)} sets of clips in {time.time() - begun:.0f} s", flush=True)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        end = begun + options.seconds * 0.55
        ordered = sorted(options.cases, key=lambda case: -case.size)
        for _ in pool.imap_unordered(_refine, [(case, options, end) for case in ordered], chunksize=1):
            pass
        count = len(list((options.output / "cases").glob("*.json")))
        print(f"{time.time() - begun:.0f} s: {count} of {len(ordered)} refinements", flush=True)
        end = begun + options.seconds
        counts = {of: _OLD_TASKS if of == "old" else options.held_out for of in sets}
        pieces = [(at, of) for of in sets for at in range(0, counts[of], _CHUNK)]
        work = [(of, at, options, end) for at, of in sorted(pieces)]
        truth = [one for part in pool.imap_unordered(_measure, work, chunksize=1) for one in part]
    write_records(options.output / "truth.jsonl", truth)
    made = [json.loads(path.read_text("utf-8")) for path in sorted((options.output / "cases").glob("*.json"))]
    write_records(options.output / "cases.jsonl", made)
    print(f"{time.time() - begun:.0f} s: the truth on {len(truth)} tasks")
    return 0


def study(first_seed: int, seeds: int, sizes: Sequence[int], words: Sequence[str]) -> tuple[Case, ...]:
    """The refinements of the study; one seed of every condition but the first."""
    return tuple(
        Case(condition, word, seed, size)
        for word in words
        for size in sizes
        for condition in Condition
        for seed in range(first_seed, first_seed + (seeds if condition is Condition.WORD else 1))
    )


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.gate_study", description=__doc__)
    parser.add_argument("--words", nargs="+", default=[word.word for word in OPEN], help="of words.py")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 24], help="numbers of corrections")
    parser.add_argument("--seeds", type=int, default=2, help="of the cases in which all tasks use the word")
    parser.add_argument("--first-seed", type=int, default=1, help="of the corrected tasks")
    parser.add_argument("--no-training", action="store_true", help="learn and try words alone")
    parser.add_argument("--held-out", type=int, default=200, help="tasks of each set that are measured")
    add_seconds(parser)
    add_place(parser, data="data/gate", output="artefacts/gate")
    given = parser.parse_args(arguments)
    return Options(
        cases=study(given.first_seed, given.seeds, given.sizes, given.words),
        training=not given.no_training,
        held_out=given.held_out,
        seconds=given.seconds,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
