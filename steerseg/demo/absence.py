"""Expressions of what a scene does not show, or that mean nothing to the demo: for measuring presence.

Like all expressions, they are checked: every statement of them is a clear no for every object of the scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from steerseg.demo.colours import COLOURS
from steerseg.demo.language import Referral, sample_referral
from steerseg.demo.phrases import GENERIC_NOUNS, plural, trait_wordings
from steerseg.demo.scene import Scene
from steerseg.demo.speech import Speech
from steerseg.demo.sprites import Catalogue
from steerseg.demo.statements import Statements
from steerseg.demo.verdicts import NO, YES, both, noun_table

Half = Literal["develop", "measure"]

ABSENT_KINDS = ("absent object", "absent colour", "absent use", "negation", "other language", "gibberish")
"""Kinds of expressions without a target."""

NEGATIONS = (
    "the {noun} that is not {colour}",
    "the {noun} that isn't {colour}",
    "a {noun} which is not {colour}",
    "the {colour} thing that is not a {noun}",
    "anything {colour} except the {noun}",
    "the {noun} without {colour}",
)

OTHER_LANGUAGES = {
    "develop": (
        *("der hund", "das rote auto", "die katze auf der linken seite"),
        *("das größte tier", "verfolge den ball"),
        *("le chien", "la voiture rouge", "le chat à gauche"),
        *("l'objet qui bouge", "trouve le plus grand"),
        *("el perro", "el coche rojo", "el animal de la izquierda"),
        *("la cosa que se mueve", "sigue la pelota"),
        *("il cane", "la macchina rossa", "o cachorro"),
        *("a flor amarela", "de rode auto", "den röda bilen"),
        *("红色的汽车", "左边的狗", "赤い車", "左の犬"),
        *("красная машина", "собака слева", "السيارة الحمراء", "빨간 자동차"),
    ),
    "measure": (
        *("die blume", "der gelbe vogel", "das ding, das nach oben geht"),
        *("der kleinste fisch", "zeig mir den hut"),
        *("la fleur", "l'oiseau jaune", "le plus petit poisson"),
        *("le chapeau à droite", "suis la bicyclette"),
        *("la flor", "el pájaro amarillo", "el pez más pequeño"),
        *("el sombrero de la derecha", "busca el libro"),
        *("il pesce azzurro", "la bicicletta", "o pássaro azul"),
        *("a casa verde", "het kleinste dier", "den gula fågeln"),
        *("黄色的花", "右边的鸟", "青い魚", "一番大きい動物"),
        *("жёлтая птица", "самая маленькая рыба", "الطائر الأصفر", "노란 새"),
    ),
}  # fmt: skip

GIBBERISH = {
    "develop": (
        *("asdf", "qwertz uiop", "xxxxxx", "test", "foo bar baz"),
        *("hello", "???", "12345", "dfgh jkl dfgh", "blorp"),
        *("the flurb", "the quaxly snorp", "lorem ipsum dolor"),
        *("what time do we eat", "ok thanks", "i am so tired"),
        *("please call me back tomorrow", "aaaaaaa", "hjkl;"),
        *("wugs that zorp", "meeting moved to monday"),
    ),
    "measure": (
        *("jklö", "poiuy trewq", "zzz", "testing testing", "spam eggs"),
        *("good morning", "...", "98765 43", "nmbv cxy nmbv"),
        *("grumf", "the wibblet", "the mimsy borogove"),
        *("consectetur adipiscing elit", "how was your weekend", "no idea"),
        *("send me the invoice", "oooooooo", "asd;lkj"),
        *("the toves that gimble", "lunch is at noon"),
    ),
}  # fmt: skip


class Absences:
    """Expressions that are true of nothing in a scene.

    Args:
        scene: The scene.
        other: Another scene, whose expressions may be true of nothing here.
        rng: Source of chance.
        catalogue: The objects.
        half: The half of the fixed texts to draw from.
    """

    def __init__(
        self, scene: Scene, other: Scene, rng: np.random.Generator, catalogue: Catalogue, half: Half
    ) -> None:
        self._facts = Statements(scene, catalogue)
        self._speech = Speech(self._facts, rng, "train")
        self._other = other
        self._rng = rng
        self._catalogue = catalogue
        self._half = half
        self._draw: dict[str, Callable[[], str | None]] = {
            "absent object": self._object,
            "absent colour": self._colour,
            "absent use": self._use,
            "negation": self._negation,
            "other language": lambda: self._speech.pick(OTHER_LANGUAGES[self._half]),
            "gibberish": lambda: self._speech.pick(GIBBERISH[self._half]),
        }

    def draw(self, kind: str, tries: int = 12) -> Referral | None:
        """An expression of a kind of :data:`ABSENT_KINDS`; ``None`` where none was found."""
        for _ in range(tries):
            text = self._draw[kind]()
            if text is not None:
                return Referral(text, (), kind, (), "")
        return None

    def _object(self) -> str | None:
        """An expression of the other scene, none of whose nouns is anything here."""
        referral = sample_referral(
            self._other,
            self._rng,
            weights={"explicit": 0.4, "attribute": 0.3, "spatial": 0.15, "motion": 0.15},
            catalogue=self._catalogue,
        )
        if referral is None:
            return None
        nouns = nouns_in(referral.expression, self._catalogue)
        strange = all((self._facts.noun(noun) == NO).all() for noun in nouns)
        return referral.expression if nouns and strange else None

    def _colour(self) -> str | None:
        """An object that is here, in a colour that no such object has."""
        noun = self._some_noun()
        if noun is None:
            return None
        colour = self._speech.pick(COLOURS)
        if (both(self._facts.noun(noun), self._facts.colour(colour)) != NO).any():
            return None
        return f"the {colour} {noun}" if self._speech.chance(0.7) else f"the {noun} that is {colour}"

    def _use(self) -> str | None:
        """A use that nothing here has."""
        trait = self._speech.pick(tuple(trait_wordings()))
        if (self._facts.trait(trait) != NO).any():
            return None
        return self._speech.wording(trait_wordings()[trait])

    def _negation(self) -> str | None:
        """The only thing of a kind and colour, denied."""
        noun = self._some_noun()
        if noun is None:
            return None
        such = self._facts.noun(noun)
        colour = self._facts.colour_of(int(np.flatnonzero(such == YES)[0]))
        if not colour or (such != self._facts.colour(colour)).any() or set(such.tolist()) != {YES, NO}:
            return None
        return self._speech.pick(NEGATIONS).format(noun=noun, colour=colour)

    def _some_noun(self) -> str | None:
        if not self._facts.eligible:
            return None
        i = self._speech.pick_index(self._facts.eligible)
        nouns = self._speech.own_nouns(i)
        return None if not nouns or self._speech.is_plural(nouns[0], i) else self._speech.pick(nouns)


def nouns_in(text: str, catalogue: Catalogue) -> Sequence[str]:
    """The nouns of a text, in singular or plural; generic ones such as "thing" are none."""
    nouns = noun_table(catalogue.names, catalogue.groups).keys() - set(GENERIC_NOUNS)
    found = []
    for noun in sorted(nouns, key=lambda noun: (-len(noun), noun)):
        pattern = rf"(?<!\w)(?:{re.escape(noun)}|{re.escape(plural(noun, False))})(?!\w)"
        if re.search(pattern, text):
            found.append(noun)
            text = re.sub(pattern, "·", text)
    return found
