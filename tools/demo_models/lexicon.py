"""The nouns and words that the demo's models know, for the preset: ``python -m tools.demo_models.lexicon``."""

from __future__ import annotations

from pathlib import Path

from steerseg.demo.catalogue import GROUP_NOUNS, KIND_OF
from steerseg.demo.language import manner_words, vocabulary
from steerseg.demo.phrases import GENERIC_NOUNS
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.verdicts import NO, YES, noun_table
from steerseg.presets import BUILT_IN
from steerseg.runtime.artefacts import write_json
from steerseg.words.learning import Lexicon

FILE = BUILT_IN["demo"] / "lexicon.json"


def demo_lexicon() -> Lexicon:
    """Names of objects, the kinds that objects are named by, and the nouns of groups, with what each covers.

    Beside them, all nouns with all that they may stand for, and the words of expressions.
    """
    catalogue = load_catalogue()
    names = tuple(catalogue.names)
    table = noun_table(names, tuple(catalogue.groups))
    kinds = {kind for of_one in KIND_OF.values() for kind in of_one}
    groups = {noun for of_group in GROUP_NOUNS.values() for noun in of_group}
    nouns = sorted((set(names) | kinds | groups) & table.keys())
    covered = {
        noun: tuple(sorted(name for name, verdict in zip(names, table[noun], strict=True) if verdict == YES))
        for noun in nouns
    }
    called = {
        noun: tuple(sorted(name for name, verdict in zip(names, verdicts, strict=True) if verdict != NO))
        for noun, verdicts in sorted(table.items())
        if noun not in GENERIC_NOUNS
    }
    return Lexicon(
        nouns={noun: of_noun for noun, of_noun in covered.items() if of_noun},
        called=called,
        words=frozenset(vocabulary(catalogue)),
        manner=frozenset(manner_words()),
    )


def main(file: Path = FILE) -> None:
    """Write the file."""
    lexicon = demo_lexicon()
    write_json(
        file,
        {**lexicon.model_dump(mode="json"), "words": sorted(lexicon.words), "manner": sorted(lexicon.manner)},
    )
    print(f"{file}: {len(lexicon.nouns)} nouns, {len(lexicon.words)} words")


if __name__ == "__main__":
    main()
