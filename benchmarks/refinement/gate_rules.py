"""``python -m benchmarks.refinement.gate_rules``: rules of the gate, tried on the records of the gate's study.

A rule sees what a gate saw: J&F of candidate and champion, paired by corrected video. Its decisions are compared with
the truth on tasks that nobody corrected. Nothing is made or measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.refinement.gate_study import Case, Condition
from ml_backend.refinement.gate import Outcome, PairedScore, Scheme, judge
from ml_backend.refinement.words import judge_word
from steerseg.config import RefinementRecipe
from steerseg.presets import open_preset

WORTHWHILE = 0.05
"""A true gain in J&F that should be promoted."""


@dataclass(frozen=True)
class Trial:
    """What a gate saw of one version, and the truth about it.

    Attributes:
        case: The refinement.
        kind: ``"words"``, or ``"trained"`` on top of the words that were accepted.
        scores: On the corrected videos.
        weights: What each of them counts in training.
        replayed: On the replay set.
        gain: True mean gain in J&F over what it would replace, on the tasks of its condition.
        old: True mean gain on the old domain.
        gained: Gain on each of the tasks.
        using: Keys of the scores that use each learned word.
    """

    case: Case
    kind: str
    scores: tuple[PairedScore, ...]
    weights: tuple[float, ...]
    replayed: tuple[PairedScore, ...]
    gain: float
    old: float
    gained: NDArray[np.float64]
    using: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A rule of the gate.

    Attributes:
        name: What it is called.
        recipe: The limits.
        prior: As of :func:`ml_backend.refinement.gate.judge`.
        weighted: Whether a corrected proposal counts twice an accepted one, as gates did once.
        by_word: Whether each word is judged alone, as refinements do now; see
            :func:`ml_backend.refinement.words.judge_word`.
    """

    name: str
    recipe: RefinementRecipe
    prior: float | None = None
    weighted: bool = False
    by_word: bool = False

    def promotes(self, trial: Trial) -> bool:
        """The decision."""
        if self.by_word:
            return any(
                judge_word([one for one in trial.scores if one.key in keys], len(keys), self.recipe).accepted
                for keys in trial.using.values()
            )
        # A score that counts twice is there twice, on the same video.
        twice = [one for one, weight in zip(trial.scores, trial.weights, strict=True) if weight == 1.0]
        scores = [*trial.scores, *(twice if self.weighted else [])]
        judgement = judge(scores, trial.replayed, self.recipe, Scheme.CROSS_VALIDATION, self.prior)
        return judgement.outcome is Outcome.PROMOTED


def rules(recipe: RefinementRecipe) -> list[Rule]:
    """The rules that are compared; the first is what the demo's gate did before the study."""
    made = [Rule("weighted, 60 %", replace(recipe, confidence=0.6), weighted=True)]
    for confidence in (0.6, 0.8, 0.9, 0.95):
        limits = replace(recipe, confidence=confidence)
        made.append(Rule(f"equal weights, {confidence:.0%}", limits))
        made += [
            Rule(f"equal weights, {confidence:.0%}, prior ±{prior}", limits, prior) for prior in (0.05, 0.1)
        ]
    made += [
        Rule(
            f"each word alone, {videos} videos teach it", replace(recipe, taught_videos=videos), by_word=True
        )
        for videos in (4, 6, 8)
    ]
    return made


def trials(folder: Path) -> Iterator[Trial]:
    """All trials of a study with their truth."""
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text("utf-8").splitlines()]
    for line in (folder / "cases.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        case = Case(Condition(record["condition"]), record["word"], record["seed"], record["size"])
        words, trained = f"{case.key}/words", f"{case.key}/trained"
        accepted = record["words"]["accepted"]
        if record["words"]["trials"]:
            trial = _trial(case, "words", record["words"]["trials"], (), truth, words, "as typed")
            using = {term: frozenset(keys) for term, keys in record["words"]["using"].items()}
            yield replace(trial, using=using)
        if "held_out" not in record:  # words alone were learned
            continue
        yield _trial(
            case,
            "trained",
            record["held_out"],
            record["replayed"],
            truth,
            trained,
            words if accepted else "as typed",
        )


def _trial(
    case: Case,
    kind: str,
    scores: Sequence[Mapping[str, Any]],
    replayed: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    version: str,
    before: str,
) -> Trial:
    gained: dict[str, list[float]] = {}
    for one in truth:
        jf = one["jf"]
        if one["tasks"] in case.measured_on and version in jf:
            gained.setdefault(one["tasks"], []).append(jf[version] - jf[before])
    old = gained.pop("old", [math.nan])
    return Trial(
        case,
        kind,
        _scores(scores),
        tuple(one["weight"] for one in scores),
        _scores(replayed),
        float(np.mean([np.mean(part) for part in gained.values()])) if gained else math.nan,
        float(np.mean(old)),
        np.concatenate([np.array(part) for part in gained.values()]) if gained else np.zeros(0),
    )


def _scores(records: Sequence[Mapping[str, Any]]) -> tuple[PairedScore, ...]:
    return tuple(PairedScore(one["key"], one["video"], one["candidate"], one["champion"]) for one in records)


def table(found: Sequence[Trial], compared: Sequence[Rule]) -> str:
    """The rules on some trials, as a table of Markdown."""
    worth = [one for one in found if one.gain >= WORTHWHILE]
    lines = [
        f"| rule | promoted of {len(found)} | of them truly lose | of {len(worth)} that truly gain ≥ {WORTHWHILE} "
        "promoted | mean true gain, kept back counted as 0 | worst on the old domain |",
        "|---|---|---|---|---|---|",
    ]
    for rule in compared:
        chosen = [one for one in found if rule.promotes(one)]
        lost = sum(one.gain < 0 for one in chosen)
        share = f"{sum(one in chosen for one in worth) / len(worth):.0%}" if worth else "none"
        gain = sum(one.gain for one in chosen) / max(1, len(found))
        worst = f"{min((one.old for one in chosen), default=math.nan):+.3f}"
        lines.append(f"| {rule.name} | {len(chosen)} | {lost} | {share} | {gain:+.4f} | {worst} |")
    return "\n".join(lines) + "\n"


def conditions(found: Sequence[Trial]) -> str:
    """What the versions truly do, by condition and number of corrections."""
    lines = [
        "| kind | condition | corrections | refinements | seen by the gate | true gain | old domain |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = sorted({(one.kind, one.case.condition, one.case.size) for one in found})
    for kind, condition, size in groups:
        part = [
            one for one in found if (one.kind, one.case.condition, one.case.size) == (kind, condition, size)
        ]
        seen = np.mean([np.mean([s.candidate - s.champion for s in one.scores]) for one in part])
        gain = np.mean([one.gain for one in part])
        old = np.nanmean([one.old for one in part])
        lines.append(
            f"| {kind} | {condition} | {size} | {len(part)} | {seen:+.3f} | {gain:+.3f} | {old:+.3f} |"
        )
    return "\n".join(lines) + "\n"


def tables(folder: Path) -> str:
    """All tables of a study, as Markdown."""
    found = list(trials(folder))
    compared = rules(open_preset("demo").recipe)
    parts = [conditions(found)]
    for kind in ("words", "trained"):
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            fit = [rule for rule in compared if kind == "words" or not rule.by_word]
            parts.append(f"{kind}:\n\n" + table(of_kind, fit))
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables of a study into its folder, and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement.gate_rules", description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's output folder")
    folder: Path = parser.parse_args(arguments).folder
    text = tables(folder)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
