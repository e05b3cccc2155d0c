"""Expressions that come to anybody's mind at a rendered scene, with the objects that each means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steerseg.demo.catalogue import PLURAL
from steerseg.demo.phrases import plural
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.statements import Statements
from steerseg.demo.verdicts import both

_NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Obvious:
    """An expression and the indices of the scene's objects that it means, ascending."""

    text: str
    targets: tuple[int, ...]


def obvious_expressions(scene: Scene) -> list[Obvious]:
    """Every object by its name and by its colour, where that is clear, and all of a name together."""
    return list(dict.fromkeys(_expressions(Statements(scene, load_catalogue(scene.styles)))))


def _expressions(facts: Statements) -> Iterator[Obvious]:
    for i in facts.eligible:
        name, colour = facts.names[i], facts.colour_of(i)
        named = facts.noun(name)
        if facts.only(named, (i,)):
            yield Obvious(f"the {name}", (i,))
        if colour and facts.only(both(named, facts.colour(colour)), (i,)):
            yield Obvious(f"the {colour} {name}", (i,))
        alike = tuple(j for j in facts.eligible if facts.names[j] == name)
        if len(alike) in _NUMBERS and facts.only(named, alike):
            many = plural(name, name in PLURAL)
            yield Obvious(f"the {_NUMBERS[len(alike)]} {many}", alike)
            yield Obvious(f"all {many}", alike)
