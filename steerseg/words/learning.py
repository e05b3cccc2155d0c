"""Corrections -> glossary: which word of a team the models misunderstand, and what it was seen to mean.

Each correction says: this object is what the expression meant. The model names it (:mod:`steerseg.words.naming`).
A term that several corrections share means whatever covers their objects and little else: a Bayesian account of how
people learn words from a few examples (Xu and Tenenbaum, Word learning as Bayesian inference, 2007; our choice).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from steerseg.words.glossary import Entry, Glossary

# Words that tell nothing about what an object is.
# fmt: off
FUNCTION_WORDS = frozenset({
    *("a", "an", "the", "this", "that", "these", "those", "which", "who", "whose", "what", "where", "when", "here"),
    *("there", "it", "its", "they", "them", "their", "he", "she", "his", "her", "one", "ones", "other", "others"),
    *("another", "each", "every", "all", "both", "some", "any", "and", "or", "but", "not", "no", "of", "in", "on"),
    *("at", "by", "to", "from", "with", "into", "onto", "over", "under", "above", "below", "between", "behind"),
    *("before", "after", "near", "beside", "next", "close", "closest", "nearest", "left", "right", "top", "bottom"),
    *("middle", "center", "centre", "upper", "lower", "side", "corner", "edge", "far", "furthest", "front", "back"),
    *("up", "down", "is", "are", "was", "were", "be", "been", "being", "do", "does", "has", "have", "can", "will"),
    *("i", "me", "my", "we", "us", "our", "you", "your", "please", "find", "track", "segment", "select", "show"),
    *("follow", "mark", "look", "pick", "get", "want", "need", "for", "as", "than", "first", "last", "second"),
    *("third", "only", "same", "more", "most", "less", "least", "very", "then", "just", "still", "also"),
})
# fmt: on
NUMBERS = {word: n for n, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight"), 2)}
"""Words that say how many objects are meant."""

_WORD = re.compile(r"[^\W\d_][\w'-]*")
_SURE_OF_A_NAME = 0.05  # names below it are not counted for people to read


class Lexicon(BaseModel):
    """Nouns that a model knows, and what each covers.

    Attributes:
        nouns: Noun -> the names of objects that it may stand for. A name stands for itself and needs no entry.
        called: Noun, synonyms included -> all names of objects that people may call so, also arguable ones.
        words: All words that the model was taught, in lower case; none where nobody can list them.
        manner: Those that never say what something is, but how it moves, where it is, or how it compares.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nouns: Mapping[str, tuple[str, ...]] = {}
    called: Mapping[str, tuple[str, ...]] = {}
    words: frozenset[str] = frozenset()
    manner: frozenset[str] = frozenset()

    def unknown(self, expression: str) -> tuple[str, ...]:
        """The words of an expression that the model was never taught, in their order, each once.

        Words that tell nothing about an object do not count, nor do numbers. Where no words are listed, none is
        unknown.
        """
        if not self.words:
            return ()
        found = _WORD.findall(expression.lower().replace("’", "'"))
        known = FUNCTION_WORDS | NUMBERS.keys() | self.words
        return tuple(dict.fromkeys(word for word in found if word not in known))

    @property
    def names(self) -> tuple[str, ...]:
        """All names of objects, sorted."""
        return tuple(sorted({name for covered in self.nouns.values() for name in covered}))


@dataclass(frozen=True)
class NamedCorrection:
    """What a correction says about the words of its expression.

    Attributes:
        expression: The annotator's text.
        video: Its video, whose parts count as one.
        names: What the corrected object may be called, with probabilities in [0, 1]; their sum is at most 1.
        kinds: Name -> more general nouns that the model itself said for it, the most specific first.
        overlap: Mean IoU in [0, 1] of what was proposed; ``None`` where nothing was.
    """

    expression: str
    video: str
    names: Mapping[str, float]
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlap: float | None = None


@dataclass(frozen=True)
class WordLearning:
    """The choices of learning words.

    Attributes:
        noise: Share of corrections whose object the model names by chance.
        evidence: Least log-likelihood ratio, in nats, of a meaning against none, and against the term's own where
            the model knows the term.
        covered: Least share of the corrected objects, by probability, that a meaning covers.
        videos: Fewest videos with a term.
        failed: Share of a term's proposals that must have failed: a word that is understood is left alone.
        failure: A proposal that overlaps its correction less has failed.
        vocabulary: Fewest names that chance has the choice of, where fewer are known.
    """

    noise: float = 0.2
    evidence: float = 3.0
    covered: float = 0.2
    videos: int = 2
    failed: float = 0.2
    failure: float = 0.5
    vocabulary: int = 400


def learn_glossary(
    corrections: Sequence[NamedCorrection],
    lexicon: Lexicon,
    known: Glossary,
    choices: WordLearning = WordLearning(),
) -> Glossary:
    """Entries for the words that corrections show to be misunderstood, with the known ones that stay.

    Entries that a person edited stay as they are. Learned ones are learned anew where corrections use their term,
    since more of them may tell better.

    Args:
        corrections: What is learned from.
        lexicon: The model's nouns; what the model itself said about kinds is added.
        known: The glossary so far.
        choices: See :class:`WordLearning`.
    """
    nouns = _with_kinds(lexicon, corrections)
    learned = known
    left = [one for one in corrections if not known.edited.terms_of(one.expression)]
    taken = {entry.term for entry in known.edited.entries}
    while True:
        term = _most_shared(left, taken, choices)
        if term is None:
            return learned
        taken.add(term)
        using = [one for one in left if term in terms_in(one.expression)]
        entry = _entry(term, using, nouns, choices)
        if entry is None:
            learned = learned.without(term)
            continue
        learned = learned.with_entry(entry)
        left = [one for one in left if one not in using]  # explained


def terms_in(expression: str) -> frozenset[str]:
    """Words of an expression, and pairs of neighbours, that may be terms: those with a meaning of their own."""
    words = [match.group().lower().removesuffix("'s") for match in _WORD.finditer(expression)]
    own = {word for word in words if word not in FUNCTION_WORDS}
    pairs = {f"{a} {b}" for a, b in itertools.pairwise(words) if a in own and b in own}
    return frozenset(own | pairs)


def _most_shared(
    corrections: Sequence[NamedCorrection], taken: Iterable[str], choices: WordLearning
) -> str | None:
    """The term that most corrections with a failed proposal share; of equals the longest, so that pairs stay whole."""
    skip = set(taken)
    failed: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    videos: dict[str, set[str]] = {}
    for one in corrections:
        for term in terms_in(one.expression) - skip:
            all_of[term] += 1
            failed[term] += one.overlap is None or one.overlap < choices.failure
            videos.setdefault(term, set()).add(one.video)
    fit = [
        term
        for term, count in failed.items()
        if len(videos[term]) >= choices.videos and count >= max(1.0, choices.failed * all_of[term])
    ]
    return max(fit, key=lambda term: (failed[term], len(term), term), default=None)


def _entry(
    term: str,
    corrections: Sequence[NamedCorrection],
    nouns: Mapping[str, frozenset[str]],
    choices: WordLearning,
) -> Entry | None:
    """The meaning that best covers what the corrected objects are; ``None`` where none is sure enough."""
    names = frozenset(name for covered in nouns.values() for name in covered)
    by_chance = max(len(names), choices.vocabulary)
    scores = {noun: _likelihood(corrections, covered, by_chance, choices) for noun, covered in nouns.items()}
    best = max(scores, key=lambda noun: (scores[noun], -len(nouns[noun]), noun), default=term)
    chance = sum(math.log(sum(one.names.values()) / by_chance + 1e-12) for one in corrections)
    if best == term or scores[best] - max(chance, scores.get(term, chance)) < choices.evidence:
        return None
    if _share(corrections, nouns[best]) < choices.covered:
        return None
    seen: Counter[str] = Counter()
    for one in corrections:
        name, probability = max(one.names.items(), key=lambda item: item[1], default=("", 0.0))
        if probability >= _SURE_OF_A_NAME:
            seen[name] += 1
    return Entry(term=term, meaning=best, corrections=len(corrections), names=tuple(seen.most_common(5)))


def _share(corrections: Sequence[NamedCorrection], covered: frozenset[str]) -> float:
    """Share of the corrected objects, by probability, that some names cover."""
    inside = sum(p for one in corrections for name, p in one.names.items() if name in covered)
    return inside / max(1e-12, sum(sum(one.names.values()) for one in corrections))


def _likelihood(
    corrections: Sequence[NamedCorrection], covered: frozenset[str], count: int, choices: WordLearning
) -> float:
    """Log-likelihood of the corrected objects' names, each drawn evenly from what is covered, or by chance."""
    total = 0.0
    for one in corrections:
        inside = sum(probability for name, probability in one.names.items() if name in covered)
        whole = sum(one.names.values())
        total += math.log((1 - choices.noise) * inside / len(covered) + choices.noise * whole / count + 1e-12)
    return total


def _with_kinds(lexicon: Lexicon, corrections: Sequence[NamedCorrection]) -> dict[str, frozenset[str]]:
    """Noun -> names that it covers, from the lexicon and from what was said about the corrected objects."""
    nouns = {noun: set(covered) for noun, covered in lexicon.nouns.items() if covered}
    for one in corrections:
        for name in one.names:
            nouns.setdefault(name, {name})
        for name, kinds in one.kinds.items():
            for kind in kinds:
                nouns.setdefault(kind, set()).add(name)
    return {noun: frozenset(covered) for noun, covered in nouns.items()}
