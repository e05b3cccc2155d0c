"""Expressions that come to anybody's mind at a rendered scene, with the objects that each means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steerseg.demo.catalogue import GROUP_NOUNS, PLURAL
from steerseg.demo.phrases import plural
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.statements import Statements
from steerseg.demo.verdicts import YES, Verdicts, both

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Obvious:
    """An expression and the indices of the scene's objects that it means, ascending."""

    text: str
    targets: tuple[int, ...]


def obvious_expressions(scene: Scene) -> list[Obvious]:
    """What a person tries first, where it is clear.

    Every object by its name, by its colour and name, and by its category, such as "the animal"; and all objects of a
    name, of a name and colour, or of a category together: "the two dogs", "all dogs", "the dogs".
    """
    return list(dict.fromkeys(_expressions(Statements(scene, load_catalogue(scene.styles)))))


def _expressions(facts: Statements) -> Iterator[Obvious]:
    for i in facts.eligible:
        name, colour = facts.names[i], facts.colour_of(i)
        is_plural = name in PLURAL
        yield from _meant(facts, name, is_plural, facts.noun(name))
        if colour:
            coloured = both(facts.noun(name), facts.colour(colour))
            yield from _meant(facts, f"{colour} {name}", is_plural, coloured)
        for noun in GROUP_NOUNS.get(facts.groups[i], ())[:1]:
            yield from _meant(facts, noun, False, facts.noun(noun))


def _meant(facts: Statements, noun: str, is_plural: bool, verdicts: Verdicts) -> Iterator[Obvious]:
    """What a noun phrase asks for, in the singular or in the plural, where it is clear which objects it means."""
    targets = tuple(i for i in facts.eligible if verdicts[i] == YES)
    if not facts.only(verdicts, targets):
        return
    if len(targets) == 1:
        yield Obvious(f"the {noun}", targets)
    elif len(targets) in _NUMBERS:
        many = plural(noun, is_plural)
        for text in (f"the {_NUMBERS[len(targets)]} {many}", f"all {many}", f"the {many}"):
            yield Obvious(text, targets)
