"""Verdicts on statements about objects: yes, no, or unclear; and the catalogue's nouns and traits as verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steerseg.demo import phrases
from steerseg.demo.catalogue import ARGUABLE, GROUP_NOUNS, KIND_OF, SYNONYMS, TRAITS

Verdicts = NDArray[np.int8]
"""(N,) a verdict for each object."""
YES, NO, UNCLEAR = 1, 0, -1


def both(*verdicts: Verdicts) -> Verdicts:
    """Logical and: no wins over unclear, unclear over yes."""
    stacked = np.stack(verdicts)
    return np.where((stacked == NO).any(0), NO, np.where((stacked == UNCLEAR).any(0), UNCLEAR, YES)).astype(
        np.int8
    )


def as_verdicts(values: Iterable[int]) -> Verdicts:
    """Verdicts from single ones."""
    return np.array(list(values), dtype=np.int8)


def _split(text: str) -> set[str]:
    return {item.strip() for item in text.split(",") if item.strip()}


@lru_cache(maxsize=4)
def noun_table(names: tuple[str, ...], groups: tuple[str, ...]) -> dict[str, Verdicts]:
    """Noun → verdict for every object of the catalogue."""
    table: dict[str, Verdicts] = {}
    for i, name in enumerate(names):
        _set_yes(table, (name, *SYNONYMS.get(name, ())), i, len(names))
    for i, name in enumerate(names):
        for noun in _kinds_of(name):
            if noun in table and table[noun][i] == NO:
                table[noun][i] = UNCLEAR
    for i, group in enumerate(groups):
        _set_yes(table, GROUP_NOUNS.get(group, ()), i, len(names))
    for noun in ARGUABLE.keys() & table.keys():
        for name in _split(ARGUABLE[noun]) & set(names):
            table[noun][names.index(name)] = UNCLEAR
    for noun in phrases.GENERIC_NOUNS:
        table[noun] = np.ones(len(names), dtype=np.int8)
    return table


def _set_yes(table: dict[str, Verdicts], nouns: Iterable[str], i: int, count: int) -> None:
    """Make each noun a clear yes for object i of ``count``."""
    for noun in nouns:
        table.setdefault(noun, np.zeros(count, dtype=np.int8))[i] = YES


def _kinds_of(name: str) -> list[str]:
    """Nouns that an object may be called since it is one of their kind."""
    return [same for noun in KIND_OF.get(name, ()) for same in (noun, *SYNONYMS.get(noun, ()))]


@lru_cache(maxsize=4)
def trait_table(names: tuple[str, ...], groups: tuple[str, ...]) -> dict[str, Verdicts]:
    """Trait → verdict for every object of the catalogue. A name outweighs its group."""
    table = {}
    for trait, what in TRAITS.items():
        yes, maybe = _split(what.yes), _split(what.maybe)

        def verdict(name: str, group: str, yes: set[str] = yes, maybe: set[str] = maybe) -> int:
            for called in (name, group):
                if called in yes:
                    return YES
                if called in maybe:
                    return UNCLEAR
            return NO

        table[trait] = as_verdicts(verdict(name, group) for name, group in zip(names, groups, strict=True))
    return table
