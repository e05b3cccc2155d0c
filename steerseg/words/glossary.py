"""A team's own words and what they mean, in plain words: expressions are rewritten with it before models read them.

The method as published has no such step (our choice). A word that the model takes for something else leads the
chain of thought astray, and no soft prompt outweighs the wrong name that follows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steerseg.config import GlossaryUse
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import json_bytes

if TYPE_CHECKING:
    import inflect

GLOSSARY_FILE = "glossary.json"
MAX_WORDS = 80
"""Most characters of a term, and of a meaning."""

Origin = Literal["learned", "edited"]


class Entry(BaseModel):
    """A term and its meaning.

    Attributes:
        term: The team's word or words, in lower case.
        meaning: The plain words that stand for it.
        origin: Learned from corrections, or edited by a person. Learning never changes an edited entry.
        corrections: How many corrections it was learned from.
        names: What their objects were seen to be, with counts, the most frequent first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    term: str = Field(max_length=MAX_WORDS)
    meaning: str = Field(max_length=MAX_WORDS)
    origin: Origin = "learned"
    corrections: int = Field(default=0, ge=0)
    names: tuple[tuple[str, int], ...] = ()

    @field_validator("term", "meaning")
    @classmethod
    def _tidy(cls, text: str) -> str:
        tidy = " ".join(text.split())
        if not any(letter.isalnum() for letter in tidy):
            raise ValueError("expected a word")
        return tidy

    @field_validator("term")
    @classmethod
    def _fold(cls, term: str) -> str:
        return term.lower()

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if self.term == self.meaning.lower():
            raise ValueError(f"{self.term!r} cannot stand for itself; leave the entry out")
        return self

    def occurs_in(self, expression: str) -> bool:
        """Whether an expression has the term, or its plural."""
        return _pattern(self.term).search(expression) is not None


class Glossary(BaseModel):
    """The entries of a project; see the module.

    Attributes:
        entries: Sorted by term, each term once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[Entry, ...] = ()

    @field_validator("entries")
    @classmethod
    def _unique(cls, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        terms = [entry.term for entry in entries]
        twice = sorted({term for term in terms if terms.count(term) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} has two meanings; keep one entry a term")
        return tuple(sorted(entries, key=lambda entry: entry.term))

    def __bool__(self) -> bool:
        return bool(self.entries)

    @property
    def digest(self) -> str:
        """A hash of terms and meanings: all that proposals depend on. Empty for a glossary without entries."""
        if not self.entries:
            return ""
        pairs = json.dumps([[entry.term, entry.meaning] for entry in self.entries], ensure_ascii=False)
        return hashlib.sha256(pairs.encode()).hexdigest()[:16]

    def terms_of(self, expression: str) -> tuple[str, ...]:
        """The terms that an expression uses."""
        return tuple(entry.term for entry in self.entries if entry.occurs_in(expression))

    def rewrite(self, expression: str, use: GlossaryUse = "replace") -> str:
        """What the models read in place of an expression.

        Terms are whole words in any case; longer ones come first. A plural or an article before a term is fitted to
        its meaning, in English.

        Args:
            expression: The annotator's text.
            use: Meanings take the terms' place, are put in brackets behind the expression, or are left out.

        Example:
            >>> Glossary(entries=(Entry(term="blick", meaning="apple"),)).rewrite("a blick on the left")
            'an apple on the left'
        """
        if use == "off":
            return expression
        if use == "explain":
            said = [entry for entry in self.entries if _pattern(entry.term).search(expression)]
            notes = "; ".join(f"{entry.term}: {entry.meaning}" for entry in said)
            return f"{expression} ({notes})" if notes else expression
        by_term = {entry.term: entry.meaning for entry in self.entries}
        if not by_term:
            return expression
        terms = sorted(by_term, key=len, reverse=True)
        return _any_of(tuple(terms)).sub(lambda match: _fit(match, by_term), expression)

    def with_entry(self, entry: Entry) -> Glossary:
        """The same with one entry more, or another one for its term."""
        others = [known for known in self.entries if known.term != entry.term]
        return Glossary(entries=(*others, entry))

    def without(self, term: str) -> Glossary:
        """The same less the entry of a term."""
        return Glossary(entries=tuple(known for known in self.entries if known.term != term.lower()))

    @property
    def edited(self) -> Glossary:
        """The entries that a person made."""
        return Glossary(entries=tuple(entry for entry in self.entries if entry.origin == "edited"))

    def to_bytes(self) -> bytes:
        """As JSON for a file."""
        return json_bytes(self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Glossary:
        """Read ``glossary.json`` of a folder; without the file, the glossary is empty.

        Raises:
            ConfigError: The file is damaged.
        """
        try:
            return cls.model_validate_json((folder / GLOSSARY_FILE).read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{folder / GLOSSARY_FILE} is no glossary: {error}") from error


@functools.lru_cache(maxsize=1)
def _english() -> inflect.engine:
    import inflect  # here: it takes seconds, and most commands need no plural

    return inflect.engine()


def load_english() -> threading.Thread:
    """Load what plurals need in the background, ahead of the first expression; the thread ends by itself."""
    thread = threading.Thread(target=_english, name="english", daemon=True)
    thread.start()
    return thread


def plural_of(noun: str) -> str:
    """The English plural of a noun, or the noun itself where it is one."""
    return noun if _english().singular_noun(noun) else _english().plural(noun)


@functools.lru_cache(maxsize=4096)
def singular_of(noun: str) -> str:
    """The English singular of a noun, or the noun itself where it is none other's plural."""
    return _english().singular_noun(noun) or noun


@functools.lru_cache(maxsize=512)
def _any_of(terms: tuple[str, ...]) -> re.Pattern[str]:
    """Finds each term or its plural as whole words, with an indefinite article before it."""
    forms = [form for term in terms for form in sorted({term, plural_of(term)}, key=len, reverse=True)]
    words = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in forms)
    return re.compile(rf"(?:\b(?P<article>an?)(?P<gap>\s+))?(?<!\w)(?P<term>{words})(?!\w)", re.IGNORECASE)


def _pattern(term: str) -> re.Pattern[str]:
    return _any_of((term,))


def _fit(match: re.Match[str], meanings: Mapping[str, str]) -> str:
    """A meaning in the form in which its term was written."""
    written = " ".join(match["term"].lower().split())
    singular = (
        written if written in meanings else next((t for t in meanings if plural_of(t) == written), None)
    )
    if (
        singular is None
    ):  # the pattern takes letters for one that lower case keeps apart, such as Turkish ones
        return match[0]
    meaning = meanings[singular]
    if written != singular:
        meaning = plural_of(meaning)
    if match["article"] is None:
        return meaning
    article = _english().a(meaning).split(" ", 1)[0]
    return f"{article.capitalize() if match['article'][0].isupper() else article}{match['gap']}{meaning}"
