"""The world of the demo's models as a page for a person, in Markdown: ``python -m steerseg.demo.understood``.

The page is ``docs/what-the-demo-understands.md``; a test holds it equal to what is written here from the
catalogue and the wordings. Wordings that training leaves out, to measure how well others work, are not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from steerseg.demo import catalogue, phrases
from steerseg.demo.colours import COLOURS, TINTS
from steerseg.demo.language import MOTIONS

INTRODUCTION = """\
# What the demo understands

The preset `demo` knows a small world: the pictograms and words listed here, and little else. It was taught English
sentences made of them, so an expression works best if it is built from this page's words; order and small words
matter less. Capitals and a full stop do not matter.

| you want | for example |
|---|---|
| the only one of its kind | `the dog`, `a bike`, `the animal`, `find the musical instrument` |
| one of several by its look | `the red car`, `the small white candle`, `the fish that is blue` |
| … by its place | `the bowl on the left`, `the highest balloon`, `the cat next to the piano` |
| … by its motion | `the bus that stops`, `the balloon moving back and forth`, `the one that overtakes the others` |
| … by comparison | `the biggest plant`, `the faster train`, `the star that is smaller than the moon` |
| something by its use | `what a musician would pick up`, `something to drink that is on the left` |

An expression should be true of one object, nearly all the time that it is seen: "on the left" is said of what
stays there, and "the leftmost" of what is always further left than the others of its kind. Leave out what does
not tell the object apart. *Not* understood: negations ("not red"), numbers and ordinals beyond "first from the left",
parts of objects, and writing on them; of real films only what looks much like these pictograms.

The demo also judges how likely an expression is of anything in the video: its *presence*, from 0 to 1. Where that is
below 0.36 it shows nothing and says so; `#1` shows its best candidate all the same. It never refuses an expression with
a word that it was not taught: the word may be a team's own, which corrections teach it.
"""


def _inflected(text: str) -> str:
    """A wording as it reads in the singular, its gaps as words."""
    gaps = {"{s}": "s", "{es}": "es", "{is}": "is", "{does}": "does"}
    gaps |= {"{n}": "dog", "{m}": "the cat", "{ns}": "dogs", "{np}": "the dog"}
    for mark, value in gaps.items():
        text = text.replace(mark, value)
    return re.sub(r"the the ", "the ", text)


def _code(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _objects() -> Iterator[tuple[str, ...]]:
    grouped: dict[str, list[str]] = {}
    for entry in catalogue.entries():
        synonyms = catalogue.SYNONYMS.get(entry.name, ())
        also = f" ({', '.join(synonyms)})" if synonyms else ""
        grouped.setdefault(entry.group, []).append(f"{entry.name}{also}")
    for group, names in grouped.items():
        yield group, ", ".join(catalogue.GROUP_NOUNS.get(group, ())) or "–", ", ".join(names)


def _sentence(text: str, after: str) -> str:
    return _inflected(f"{after} {text}".strip())


def _places() -> Iterator[str]:
    """The tables of places."""
    yield from _table(
        ("place", "after the object: `the dog …`, `the dog that is …`"),
        ((position, _code(wordings[0])) for position, wordings in phrases.POSITIONS.items()),
    )
    yield from _table(
        ("furthest", "wordings"),
        (
            (way, _code(_sentence(text, "the") for text in wordings[0]))
            for way, wordings in phrases.FURTHEST.items()
        ),
    )
    yield from _table(
        ("beside another", "wordings"),
        (
            (relation, _code(_sentence(text, "the dog") for text in wordings[0]))
            for relation, wordings in phrases.RELATIONS.items()
        ),
    )


def _motions() -> Iterator[tuple[str, ...]]:
    for motion in (*MOTIONS, "overtakes"):
        participles = phrases.PARTICIPLES.get(motion, ((), ()))[0]
        clauses = phrases.CLAUSES.get(motion, ((), ()))[0]
        before = [f"the {word} dog" for word in phrases.ADJECTIVES.get(motion, ())]
        yield (
            motion,
            _code(_inflected(text) for text in participles) or "–",
            _code(_inflected(text) for text in clauses) or "–",
            _code(before) or "–",
        )


def _comparisons() -> Iterator[tuple[str, ...]]:
    for quality in phrases.SUPERLATIVES:
        than = phrases.THAN.get(quality, ((), ()))[0]
        yield (
            quality,
            _code(_sentence(text, "the") for text in phrases.SUPERLATIVES[quality][0]),
            _code(_sentence(text, "the") for text in phrases.COMPARATIVES[quality][0]),
            _code(_sentence(text, "the dog that is") for text in than) or "–",
        )


def _uses() -> Iterator[tuple[str, ...]]:
    for name, trait in catalogue.TRAITS.items():
        meant = [item.strip() for item in trait.yes.split(",")]
        groups = [f"*{item}*" for item in meant if item in catalogue.GROUPS]
        yield (
            _code(phrases.trait_wordings()[name][0]),
            ", ".join([*groups, *(item for item in meant if item not in catalogue.GROUPS)]),
        )


def page() -> str:
    """The whole page as Markdown."""
    sizes = [f"{_code(wordings)} ({size})" for size, wordings in phrases.SIZE_WORDS.items()]
    lines = [
        INTRODUCTION,
        f"## Objects: {len(catalogue.entries())} in {len(catalogue.GROUPS)} groups",
        "",
        "In parentheses: other words for the same object. A word for the group serves where only one object of the "
        f"scene is such a thing; {_code(phrases.GENERIC_NOUNS)} where the rest of the expression says enough.",
        "",
        *_table(("group", "words for the group", "objects"), _objects()),
        "## Colours and sizes",
        "",
        f"Colours: {_code(COLOURS)}. Besides its own colour an object may be tinted: {_code(filter(None, TINTS))}. "
        "`the red dog`, `the dog that is red`, `the red one`.",
        "",
        f"Sizes, beside others of the kind: {'; '.join(sizes)}. They may stand before a colour: `the small red dog`.",
        "",
        "## Places",
        "",
        *_places(),
        "The other object must be the only one of its name.",
        "",
        "## Motions",
        "",
        *_table(
            ("motion", "`the dog …`, `the dog that is …`", "`the dog that …`", "before the word"), _motions()
        ),
        "`which` serves like `that`. Motion is motion in the scene: where the camera pans, what rests is still.",
        "",
        "## Comparisons",
        "",
        *_table(("what", "of all", "of two", "with another object"), _comparisons()),
        "## Uses and properties",
        "",
        "What people would call such a thing is meant, of any group in italics and of the objects named. Colour, place "
        "and motion may follow: `something to drink that is red`, `what a doctor would use on the left`, `something "
        "that can fly that is moving up`.",
        "",
        *_table(("expression", "meant are"), _uses()),
        "## Ways to ask",
        "",
        f"The bare words, or a sentence around them: {_code(_inflected(text) for text in phrases.WRAPPERS[0])}. "
        "Articles may be `the`, `a` or left out.",
        "",
        "Politeness and questions around an object are left out before the models read it: `pls track the dog`, "
        "`where's that car going`, `can u find me the red car plz`. A word that is one slip away from a single known "
        "word is mended: `the umberlla`, `teh dgo`. The status says what was read.",
        "",
        f"Several objects: {_code(_sentence(text, '') for text in phrases.PLURALS[0])}. The words are "
        "understood, and a prediction has an instance for each object that is found. The maps often point to one of "
        "them only; the others have to be clicked then.",
        "",
        "These words take the plural: " + ", ".join(sorted(catalogue.PLURAL)) + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
