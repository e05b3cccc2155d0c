"""``python -m benchmarks.refinement.attributes``: which of the attributes that the model names can be trusted.

Each rule keeps some of the attributes of one answer; proposals follow from what it keeps. Measured on tasks with words
that the model has never met, as a team types them, and on expressions of the old domain.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refinement.domain import Domain, samples_of
from benchmarks.refinement.studies import add_place, add_seconds, best_masks, write_study
from benchmarks.refinement.words import OPEN
from steerseg.evaluation import Sample, bootstrap_mean, open_dataset
from steerseg.evaluation.metrics import score
from steerseg.keyframes import VideoFeatures
from steerseg.lvlm.answer import Answer
from steerseg.pipeline import SteerSeg
from steerseg.video import keyframe_indices
from steerseg.words.attributes import confident_attributes, holds_attributes, parse_attributes

_OLD = "old"
_CHUNK = 5


@dataclass(frozen=True)
class Answers:
    """What the model said about one expression.

    Attributes:
        expression: The expression.
        whole: Its answer to all keyframes.
        halves: Its answers to every second keyframe, the even ones and the odd ones.
        nouns: The nouns that it knows.
    """

    expression: str
    whole: Answer
    halves: tuple[Answer, ...]
    nouns: frozenset[str]

    def sure(self, least: float) -> tuple[str, ...]:
        """The attributes from a confidence on."""
        return confident_attributes(parse_attributes(self.whole.text), self.whole.tokens, least)

    @property
    def knows_the_words(self) -> bool:
        """Whether the expression has a noun that the model knows."""
        words = re.findall(r"[\w-]+", self.expression.lower())
        pairs = [" ".join(pair) for pair in itertools.pairwise(words)]
        return bool(self.nouns.intersection([*words, *pairs, *(word.removesuffix("s") for word in words)]))

    def agreed(self, attributes: Sequence[str]) -> tuple[str, ...]:
        """Those that both halves of the keyframes say, too."""
        said = [set(parse_attributes(half.text)) for half in self.halves]
        return tuple(one for one in attributes if all(one in half for half in said))

    def without_names(self, attributes: Sequence[str]) -> tuple[str, ...]:
        """Those that are no noun that the model knows."""
        return tuple(one for one in attributes if one not in self.nouns)


Rule = Callable[[Answers], tuple[str, ...]]

RULES: Mapping[str, Rule] = {
    "every attribute (the method)": lambda said: said.sure(0.0),
    "no attribute": lambda said: (),
    "confidence 0.3": lambda said: said.sure(0.3),
    "confidence 0.5 (the demo's)": lambda said: said.sure(0.5),
    "confidence 0.7": lambda said: said.sure(0.7),
    "confidence 0.9": lambda said: said.sure(0.9),
    "both halves of the keyframes agree": lambda said: said.agreed(said.sure(0.0)),
    "confidence 0.5, and both halves agree": lambda said: said.agreed(said.sure(0.5)),
    "confidence 0.5, no name for an unknown word": lambda said: (
        said.sure(0.5) if said.knows_the_words else said.without_names(said.sure(0.5))
    ),
    "confidence 0.5, nothing for an unknown word": lambda said: (
        said.sure(0.5) if said.knows_the_words else ()
    ),
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    words: tuple[str, ...]
    tasks: int
    old: int
    seconds: float
    device: str
    processes: int
    data: Path
    output: Path


@cache
def _samples(options: Options, of: str, workers: int = 1) -> list[Sample]:
    if of == _OLD:
        return open_dataset("sprites-ref", "val", options.data, workers)[: options.old]
    word = next(one for one in OPEN if one.word == of)
    return samples_of(Domain(word).held_out(options.tasks), options.data / "held-out" / of, workers)


@cache
def _models(device: str) -> SteerSeg:
    torch.set_num_threads(1)
    return SteerSeg.from_pretrained("demo", device=device, remembered_bytes=1 << 30)


def _answers(steerseg: SteerSeg, sample: Sample, features: VideoFeatures) -> Answers:
    config = steerseg.config
    keyframes = keyframe_indices(len(sample.frames), config.keyframes)
    films = [features.context.video]
    for half in (keyframes[::2], keyframes[1::2]):
        halved = replace(config, keyframes=len(half))
        films.append(steerseg.encode_keyframes(sample.load(half), halved, pictures=(0,)).video)
    question = steerseg.texts.reasoning_question(sample.expression)
    whole, *halves = (
        steerseg.lvlm.answer(
            question,
            film.to(steerseg.lvlm.device),
            max_new_tokens=config.max_new_tokens,
            complete=holds_attributes,
        )
        for film in films
    )
    nouns = frozenset(steerseg.preset.load_lexicon().nouns)
    return Answers(sample.expression, whole, tuple(halves), nouns)


def _quality(
    steerseg: SteerSeg, features: VideoFeatures, sample: Sample, attributes: tuple[str, ...]
) -> float:
    """J&F in [0, 1] of the best tracklet under some attributes."""
    config = replace(steerseg.config, alternatives=1)
    maps = steerseg.ground(features, sample.expression, attributes, config, steerseg.steering(config))
    candidates = steerseg.find_candidates(features, maps, config, said=(sample.expression, *attributes))
    tracklets = steerseg.track(features, candidates, steerseg.rank(candidates, maps, config))
    truth = sample.masks()
    return score(best_masks(tracklets, truth.shape), truth).jf


def _measure(work: tuple[str, int, Options, float]) -> list[dict[str, Any]]:
    of, begin, options, end = work
    if time.time() > end:
        return []
    steerseg = _models(options.device)
    records = []
    for sample in _samples(options, of)[begin : begin + _CHUNK]:
        features = steerseg.encode(sample.load(), steerseg.config)
        said = _answers(steerseg, sample, features)
        kept = {name: rule(said) for name, rule in RULES.items()}
        quality = {one: round(_quality(steerseg, features, sample, one), 4) for one in set(kept.values())}
        records.append(
            {
                "tasks": of,
                "task": sample.id,
                "expression": sample.expression,
                "kept": {name: list(one) for name, one in kept.items()},
                "jf": {name: quality[one] for name, one in kept.items()},
            }
        )
    return records


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The rules with the gain of each over every attribute, as a table of Markdown."""
    words = [one for one in records if one["tasks"] != _OLD]
    old = [one for one in records if one["tasks"] == _OLD]
    first = next(iter(RULES))
    lines = [
        f"| attributes that are kept | {len(words)} tasks with unknown words | gain [95 % interval] | "
        f"{len(old)} of the old domain | gain |",
        "|---|---|---|---|---|",
    ]
    for name in RULES:
        cells = []
        for part in (words, old):
            values = np.array([one["jf"][name] for one in part])
            gain = bootstrap_mean(values - [one["jf"][first] for one in part], [one["task"] for one in part])
            cells.append(f"{values.mean():.3f} | {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``attributes.jsonl`` and ``attributes.md`` into the output folder."""
    options = _parse(arguments)
    end = time.time() + options.seconds
    counts = {**dict.fromkeys(options.words, options.tasks), _OLD: options.old}
    for of in counts:
        _samples(options, of, options.processes)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pieces = sorted((at, of) for of, count in counts.items() for at in range(0, count, _CHUNK))
        work = [(of, at, options, end) for at, of in pieces]
        records = [one for part in pool.imap_unordered(_measure, work, chunksize=1) for one in part]
    write_study(options.output, "attributes", records, table(records))
    return 0


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.attributes", description=__doc__)
    parser.add_argument("--words", nargs="+", default=[word.word for word in OPEN], help="of words.py")
    parser.add_argument("--tasks", type=int, default=40, help="of each word")
    parser.add_argument("--old", type=int, default=120, help="of sprites-ref val")
    add_seconds(parser)
    add_place(parser, data="data/gate", output="artefacts/attributes")
    given = parser.parse_args(arguments)
    return Options(
        words=tuple(given.words),
        tasks=given.tasks,
        old=given.old,
        seconds=given.seconds,
        device=given.device,
        processes=given.processes,
        data=given.data,
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main())
