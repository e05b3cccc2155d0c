"""The words of a refinement: what corrections show a team's words to mean, tried before it is used.

What the model calls each corrected object is kept on disk; what the words mean follows from it without a model. The
trial leaves one video out at a time: its proposal is made with the words that the other videos teach. Each word is
judged by the videos that use it. Parts of one video are one here: an example's ``group``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from ml_backend.models.examples import CorrectionExample, shows_object
from ml_backend.models.messages import NamedObject, SoftPromptsRef
from ml_backend.refinement.gate import GateMetrics, Outcome, PairedScore, Scheme, judge
from steerseg.config import RefinementRecipe
from steerseg.prompt_files import with_glossary
from steerseg.runtime.artefacts import write_bytes
from steerseg.words.glossary import Entry, Glossary
from steerseg.words.learning import Lexicon, NamedCorrection, learn_glossary

log = logging.getLogger(__name__)

TRIAL = "words-"
"""What the keys of trials of words begin with."""
_NAMES = "names.json"
_FEWEST = 3  # videos that a word can be tried on: two alike are chance
_FILE = TypeAdapter(dict[str, NamedObject])

AskName = Callable[[CorrectionExample], NamedObject | None]
TryWords = Callable[[Sequence[tuple[CorrectionExample, SoftPromptsRef]]], Mapping[str, tuple[float, float]]]
"""Tries versions on examples, each against the champion; J&F of both by example, as far as it could be had."""


@dataclass(frozen=True)
class WordsJudgement:
    """What became of the words of a refinement.

    Attributes:
        glossary: The entries of before and those that are accepted, in use; where none is, all that were learned.
        changed: The entries that are new or have another meaning.
        accepted: Whether any of them is accepted, or none is there any more that corrections no longer teach.
        reason: Why, in text and numbers; empty where nothing changed.
        metrics: What the trials measured.
    """

    glossary: Glossary
    changed: tuple[Entry, ...] = ()
    accepted: bool = False
    reason: str = ""
    metrics: GateMetrics = field(default_factory=GateMetrics)


class WordLessons:
    """Learns and tries the words of one refinement.

    Args:
        folder: Folder of the refinement.
        champion: Folder of the champion's soft prompts; ``None`` where there are none.
        lexicon: The model's nouns.
        recipe: The limits of the trial.
    """

    def __init__(
        self, folder: Path, champion: Path | None, lexicon: Lexicon, recipe: RefinementRecipe
    ) -> None:
        self._folder = folder
        self._champion = champion
        self._lexicon = lexicon
        self._recipe = recipe
        self._known = Glossary() if champion is None else Glossary.load(champion)
        self._versions: dict[str, SoftPromptsRef] = {}  # written, by the glossary's digest

    def learn(self, examples: Sequence[CorrectionExample], ask: AskName, attempt: TryWords) -> WordsJudgement:
        """Have the corrected objects named, learn the words, and try them.

        Args:
            examples: The corrections.
            ask: Asks what an object is; ``None`` where its media cannot be had.
            attempt: Compares versions.
        """
        lessons = self._lessons(examples, ask)
        learned = learn_glossary(list(lessons.values()), self._lexicon, self._known)
        if learned.digest == self._known.digest:
            return WordsJudgement(self._known)
        changed = tuple(entry for entry in learned.entries if not self._knows(entry))
        trials = self._trials(examples, lessons, learned)
        measured = attempt(trials)
        tried = [example for example, _ in trials if example.key in measured]
        scores = [PairedScore(example.key, example.group, *measured[example.key]) for example in tried]
        accepted, said = [], []
        for entry in changed:
            using = {example.key for example in tried if entry.occurs_in(example.expression)}
            taught = len({one.video for one in lessons.values() if entry.occurs_in(one.expression)})
            of_word = [score for score in scores if score.key in using]
            verdict = judge_word(of_word, taught, self._recipe)
            accepted += [entry] if verdict.accepted else []
            said.append(
                f"“{entry.term}” means “{entry.meaning}” (from {entry.corrections} corrections): {verdict.reason}"
            )
        kept = {entry.term for entry in learned.entries}
        gone = [entry.term for entry in self._known.entries if entry.term not in kept]
        said += [f"“{term}” is no longer replaced" for term in gone]
        metrics = judge(scores, (), self._recipe, Scheme.CROSS_VALIDATION).metrics
        if not accepted and not gone:
            return WordsJudgement(learned, changed, reason=". ".join(said), metrics=metrics)
        served = self._known
        for term in gone:
            served = served.without(term)
        for entry in accepted:
            served = served.with_entry(entry)
        return WordsJudgement(served, changed, True, ". ".join(said), metrics)

    def version(self, glossary: Glossary) -> SoftPromptsRef:
        """The champion's soft prompts with a glossary."""
        digest = glossary.digest
        if digest not in self._versions:
            folder = self._folder / f"words-{digest or 'none'}"
            self._versions[digest] = SoftPromptsRef(folder, with_glossary(self._champion, glossary, folder))
        return self._versions[digest]

    def _knows(self, entry: Entry) -> bool:
        return any(
            known.term == entry.term and known.meaning == entry.meaning for known in self._known.entries
        )

    def _lessons(self, examples: Sequence[CorrectionExample], ask: AskName) -> dict[str, NamedCorrection]:
        """What each correction says about words; answers of the model are on disk as soon as they are there."""
        path = self._folder / _NAMES
        named = _FILE.validate_json(path.read_bytes()) if path.is_file() else {}
        for example in examples:
            if example.key in named or not any(shows_object(rle) for rle in example.truth.values()):
                continue
            answer = ask(example)
            if answer is not None:
                named[example.key] = answer
                write_bytes(path, _FILE.dump_json(named))
        return {
            example.key: NamedCorrection(
                expression=example.expression,
                video=example.group,
                names=named[example.key].names,
                kinds=named[example.key].kinds,
                overlap=example.overlap,
            )
            for example in examples
            if example.key in named
        }

    def _trials(
        self,
        examples: Sequence[CorrectionExample],
        lessons: Mapping[str, NamedCorrection],
        learned: Glossary,
    ) -> list[tuple[CorrectionExample, SoftPromptsRef]]:
        """The examples that the words change, each with the words that the other videos teach."""
        trials = []
        of_others: dict[str, Glossary] = {}
        for example in sorted(examples, key=lambda example: (example.video, example.key)):
            wording = learned.rewrite(example.expression)
            if not example.judges or wording == self._known.rewrite(example.expression):
                continue
            if example.group not in of_others:
                others = [lesson for lesson in lessons.values() if lesson.video != example.group]
                of_others[example.group] = learn_glossary(others, self._lexicon, self._known)
            trials.append((example, self.version(of_others[example.group])))
        return trials


@dataclass(frozen=True)
class WordVerdict:
    """Whether a word is used.

    Attributes:
        accepted: Whether it is.
        reason: Why, in text and numbers.
    """

    accepted: bool
    reason: str


def judge_word(scores: Sequence[PairedScore], taught: int, recipe: RefinementRecipe) -> WordVerdict:
    """Decide whether a word is used.

    Few videos say little of what proposals gain, and much of what a word means. So a word that many videos teach is
    used unless its trial shows a loss; one that few teach has to gain with certainty (our choice, measured).

    Args:
        scores: Its trial, on videos that use it.
        taught: Videos that teach it.
        recipe: The limits.
    """
    videos = len({score.video for score in scores})
    judgement = judge(scores, (), recipe, Scheme.CROSS_VALIDATION)
    found = judgement.metrics.held_out
    if taught >= recipe.taught_videos and found is not None:
        seen = f"on {videos} videos by cross-validation: {found} ({recipe.confidence:.0%} interval)"
        if found.gain.high < 0 and found.gain.mean < -recipe.max_regression:
            return WordVerdict(False, f"not used: worse {seen}")
        return WordVerdict(True, f"used, since {taught} videos teach it and its trial shows no loss, {seen}")
    if videos < _FEWEST:
        return WordVerdict(
            False, "too few videos use it to try that; a person may write it on the page Words"
        )
    if judgement.outcome is Outcome.PROMOTED:
        return WordVerdict(True, judgement.reason)
    return WordVerdict(False, f"not used: {judgement.reason}")
