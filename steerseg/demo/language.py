"""Expressions that are true of exactly their targets, and the attributes of objects.

Every statement about an object is one of three values: yes, no, or unclear. An expression is used only if it
is a clear yes for each target and a clear no for every other object of the scene.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerseg.demo import phrases
from steerseg.demo.catalogue import PLURAL, TRAITS
from steerseg.demo.colours import COLOURS
from steerseg.demo.drafts import DRAFTS, MOTIONS, Draft
from steerseg.demo.scene import Scene
from steerseg.demo.speech import Phrasing, Speech, inflect
from steerseg.demo.sprites import Catalogue, load_catalogue
from steerseg.demo.statements import Statements
from steerseg.demo.verdicts import noun_table

__all__ = [
    "KINDS",
    "MOTIONS",
    "Phrasing",
    "Referral",
    "attributes",
    "normalise",
    "referrals",
    "sample_referral",
    "vocabulary",
]

KINDS: dict[str, float] = {
    "explicit": 0.20,
    "attribute": 0.16,
    "spatial": 0.20,
    "motion": 0.22,
    "comparative": 0.09,
    "implicit": 0.16,
    "plural": 0.03,
}
"""Kind → how often :func:`sample_referral` tries it first."""


_MANNER = (
    phrases.PARTICIPLES,
    phrases.CLAUSES,
    phrases.POSITIONS,
    phrases.FURTHEST,
    phrases.SUPERLATIVES,
    phrases.COMPARATIVES,
)
"""Wordings of how something moves, where it is, or how it compares."""


@dataclass(frozen=True)
class Referral:
    """An expression and what it refers to.

    Attributes:
        expression: Lower-case text without punctuation at its end.
        targets: Indices of the scene's objects, ascending; one unless ``kind`` is "plural".
        kind: The knowledge that finds them; one of :data:`KINDS`.
        attributes: Ground-truth attributes of the first target: its name, colour, size if it tells objects
            apart, position, motion; 2 to 5 of them.
        name: The first target's name.
    """

    expression: str
    targets: tuple[int, ...]
    kind: str
    attributes: tuple[str, ...]
    name: str


def attributes(scene: Scene, i: int, catalogue: Catalogue | None = None) -> tuple[str, ...]:
    """Ground-truth attributes of an object, name first; 2 to 5 short phrases."""
    return _attributes(Statements(scene, catalogue or load_catalogue(scene.styles)), i)


def _attributes(facts: Statements, i: int) -> tuple[str, ...]:
    """Name, colour, size beside others of its kind, position, motion."""
    phrases_of_object = [facts.names[i]]
    colour = facts.colour_of(i)
    if colour:
        phrases_of_object.append(colour)
    same = [j for j in range(facts.count) if j != i and facts.names[j] == facts.names[i] and facts.exists[j]]
    if same and all(facts.larger(i, j) for j in same):
        phrases_of_object.append("big")
    elif same and all(facts.larger(j, i) for j in same):
        phrases_of_object.append("small")
    position = _position_attribute(facts, i)
    if position:
        phrases_of_object.append(position)
    phrases_of_object.append(_motion_attribute(facts, i))
    return tuple(phrases_of_object[:5])


def _position_attribute(facts: Statements, i: int) -> str | None:
    x, y = facts.along("x", i), facts.along("y", i)
    if len(x) == 0 or np.ptp(x) > 0.45 or np.ptp(y) > 0.6:
        return None
    dx, dy = float(x.mean()) - 0.5, float(y.mean()) - 0.5
    if max(abs(dx), abs(dy)) < 0.14:
        return "in the middle"
    # Across the picture there is more room, so left and right are said first.
    if abs(dx) >= 0.14 and abs(dx) >= 0.6 * abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def _motion_attribute(facts: Statements, i: int) -> str:
    seen = facts.observation
    event = seen.presence[i] or seen.phase[i]
    if not event and seen.motion[i] == "still":
        if seen.spinning[i] == 1:
            event = "spinning"
        elif seen.growth[i] in ("growing", "shrinking"):
            event = seen.growth[i]
    return phrases.EVENT_ATTRIBUTES[event] if event else phrases.MOTION_ATTRIBUTES[seen.motion[i]]


def _finish(speech: Speech, draft: Draft, kind: str) -> Referral:
    """Sometimes put the noun phrase into a sentence, and describe the first target."""
    text = draft.text
    if speech.chance(0.3):
        wrapper = inflect(speech.wording(phrases.WRAPPERS), draft.plural)
        if wrapper.endswith(("is {np}", "are {np}")) and text.split()[0] not in (
            "the",
            "a",
            "an",
            "all",
            "both",
        ):
            wrapper = "find {np}"
        text = wrapper.replace("{np}", text)
    first = draft.targets[0]
    facts = speech.statements
    return Referral(text, draft.targets, kind, _attributes(facts, first), facts.names[first])


def referrals(
    scene: Scene,
    rng: np.random.Generator,
    *,
    phrasing: Phrasing = "train",
    kinds: Sequence[str] = tuple(KINDS),
    catalogue: Catalogue | None = None,
    tries: int = 3,
    nouns: Mapping[str, Collection[str]] | None = None,
) -> list[Referral]:
    """At most one referral for each object and kind, in random order; may be empty.

    Args:
        scene: The scene.
        rng: Source of chance for the wording.
        phrasing: Wordings; "heldout" ones never occur in training.
        kinds: Kinds of expression.
        catalogue: The objects; the shipped ones if left out.
        tries: Most drafts of each kind and object.
        nouns: Further nouns → the objects that are called so, and never by their usual names.
    """
    facts = Statements(scene, catalogue or load_catalogue(scene.styles), nouns)
    speech = Speech(facts, rng, phrasing, nouns)
    made: list[Referral] = []
    for kind in kinds:
        texts = set()
        for i in facts.eligible:
            for _ in range(tries):
                draft = DRAFTS[kind](speech, i)
                if draft is not None:
                    if draft.text not in texts:
                        texts.add(draft.text)
                        made.append(_finish(speech, draft, kind))
                    break
    return [made[k] for k in rng.permutation(len(made))]


def sample_referral(
    scene: Scene,
    rng: np.random.Generator,
    *,
    phrasing: Phrasing = "train",
    weights: dict[str, float] = KINDS,
    catalogue: Catalogue | None = None,
) -> Referral | None:
    """One referral, its kind drawn by ``weights``, its target evenly; ``None`` if nothing true was found.

    Cheaper than :func:`referrals`: for training.
    """
    facts = Statements(scene, catalogue or load_catalogue(scene.styles))
    speech = Speech(facts, rng, phrasing)
    if not facts.eligible:
        return None
    kinds = list(weights)
    shares = np.array([weights[k] for k in kinds], dtype=np.float64)
    for _ in range(24):
        kind = kinds[int(np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random()))]
        draft = DRAFTS[kind](speech, speech.pick_index(facts.eligible))
        if draft is not None:
            return _finish(speech, draft, kind)
    return None


def normalise(expression: str) -> str:
    """The form in which the demo model reads an expression: lower case, single spaces, no end punctuation."""
    return re.sub(r"\s+", " ", expression.lower()).strip().rstrip(".?!").strip()


def vocabulary(catalogue: Catalogue | None = None) -> list[str]:
    """Every word that expressions and attributes may use, sorted: for a word-level tokenizer."""
    catalogue = catalogue or load_catalogue()
    texts: list[str] = [*COLOURS, *phrases.EXTRA_WORDS, *phrases.GENERIC_NOUNS]
    table = noun_table(catalogue.names, catalogue.groups)
    texts += [*table, *(phrases.plural(noun, noun in PLURAL) for noun in table)]
    texts += [text for trait in TRAITS.values() for text in trait.phrases]
    texts += _forms({"": phrases.WRAPPERS}, {"": phrases.PLURALS}, *_MANNER, phrases.RELATIONS, phrases.THAN)
    for adjectives in (*phrases.ADJECTIVES.values(), *phrases.SIZE_WORDS.values()):
        texts += adjectives
    for fixed in (phrases.MOTION_ATTRIBUTES, phrases.POSITION_ATTRIBUTES, phrases.EVENT_ATTRIBUTES):
        texts += fixed.values()
    texts += ["the a an that which they are it is big small other others"]
    return sorted({word for text in texts for word in text.split()})


def manner_words() -> list[str]:
    """The words that never say what something is, sorted: how it moves, where it is, how it compares."""
    texts = [*_forms(*_MANNER), *phrases.GENERIC_NOUNS, "something"]
    for adjectives in (*phrases.ADJECTIVES.values(), *phrases.SIZE_WORDS.values()):
        texts += adjectives
    return sorted({word for text in texts for word in text.split()})


def _forms(*tables: Mapping[str, phrases.Wordings]) -> list[str]:
    """All wordings of tables in both numbers, without the nouns that fill them."""
    texts = []
    for wordings in (w for one in tables for w in one.values()):
        for text in (*wordings[0], *wordings[1]):
            for marks in (("s", "es", "is", "does"), ("", "", "are", "do")):
                form = text
                for mark, value in zip(("{s}", "{es}", "{is}", "{does}"), marks, strict=True):
                    form = form.replace(mark, value)
                texts.append(re.sub(r"\{\w+\}", " ", form))
    return texts
