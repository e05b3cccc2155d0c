"""Words of expressions: nouns, phrases and clauses, drawn at random among the training or held-out wordings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from steerseg.demo import phrases
from steerseg.demo.catalogue import GROUP_NOUNS, PLURAL, SYNONYMS
from steerseg.demo.statements import Statements
from steerseg.demo.verdicts import YES

Phrasing = Literal["train", "heldout"]


class Speech:
    """Words for the objects of a scene.

    Args:
        statements: Verdicts on the objects.
        rng: Source of chance.
        phrasing: Wordings of training, or held-out ones where there are any.
        nouns: Further nouns → the objects that are called so, and never by their usual names.
    """

    def __init__(
        self,
        statements: Statements,
        rng: np.random.Generator,
        phrasing: Phrasing,
        nouns: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.statements = statements
        self.rng = rng
        self._heldout = phrasing == "heldout"
        self._called = {name: noun for noun, called in (nouns or {}).items() for name in called}

    # --- chance -----------------------------------------------------------------------------------------

    def pick(self, items: Sequence[str]) -> str:
        """One of the items, drawn evenly."""
        return items[int(self.rng.integers(len(items)))]

    def pick_index(self, indices: Sequence[int]) -> int:
        """One of some objects, drawn evenly."""
        return indices[int(self.rng.integers(len(indices)))]

    def chance(self, share: float) -> bool:
        """True with probability ``share``."""
        return bool(self.rng.random() < share)

    def wording(self, wordings: phrases.Wordings) -> str:
        """One of the training wordings, or of the held-out ones if those are used and there are any."""
        return self.pick(wordings[1] if self._heldout and wordings[1] else wordings[0])

    # --- nouns ------------------------------------------------------------------------------------------

    def usual_noun(self, i: int) -> str:
        """The object's name, or the noun that it was given in place of it."""
        name = self.statements.names[i]
        return self._called.get(name, name)

    def own_nouns(self, i: int) -> list[str]:
        """The object's name (often), its synonyms, and what group it is of; only clear ones.

        A noun that the object was given comes in place of all of them.
        """
        name, group = self.statements.names[i], self.statements.groups[i]
        if name in self._called:
            return [self._called[name]]
        nouns = [name, name, *SYNONYMS.get(name, ()), *GROUP_NOUNS.get(group, ())]
        return [noun for noun in nouns if self.statements.noun(noun)[i] == YES]

    def some_noun(self, i: int, generic: float) -> str:
        """A noun for object i; with probability ``generic`` just "one" or "object"."""
        if self.chance(generic):
            return self.pick(("one", "one", *phrases.GENERIC_NOUNS))
        return self.pick(self.own_nouns(i))

    def definite(self, i: int) -> str | None:
        """A noun phrase such as "the dog" that names object i alone, to relate others to it."""
        noun = self.usual_noun(i)
        return f"the {noun}" if self.statements.only(self.statements.noun(noun), (i,)) else None

    def is_plural(self, noun: str, i: int) -> bool:
        """Whether a noun for object i takes a plural verb."""
        name = self.statements.names[i]
        return name in PLURAL and noun in (name, *SYNONYMS.get(name, ()))

    # --- phrases ----------------------------------------------------------------------------------------

    def phrase(self, noun: str, plural: bool, before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
        """A noun phrase with an article: the, often; none or a, sometimes."""
        core = inflect(" ".join([*before, noun, *after]), plural)
        draw = self.rng.random()
        if noun in phrases.GENERIC_NOUNS or draw < 0.74:
            return f"the {core}"
        if draw < 0.90 or plural or noun in phrases.UNCOUNTED:
            return core
        return ("an " if core[0] in "aeiou" else "a ") + core

    def motion(self, motion: str, plural: bool) -> str:
        """A motion as "moving left", "that moves left" or "which is moving left"."""
        draw = self.rng.random()
        if motion in phrases.PARTICIPLES and (draw < 0.55 or motion not in phrases.CLAUSES):
            text = self.wording(phrases.PARTICIPLES[motion])
            if draw < 0.28:
                text = ("that {is} " if draw < 0.2 else "which {is} ") + text
        else:
            text = ("that " if self.chance(0.75) else "which ") + self.wording(phrases.CLAUSES[motion])
        return inflect(text, plural)


def inflect(text: str, plural: bool) -> str:
    """Fill the gaps for the number of the noun: ``{s}``, ``{es}``, ``{is}``, ``{does}``."""
    forms = {
        "{s}": "" if plural else "s",
        "{es}": "" if plural else "es",
        "{is}": "are" if plural else "is",
        "{does}": "do" if plural else "does",
    }
    for gap, form in forms.items():
        text = text.replace(gap, form)
    return text.replace(" it is", " they are") if plural else text
