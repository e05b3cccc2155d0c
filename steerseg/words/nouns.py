"""Noun phrases of an expression and of its attributes, as a detector of concepts takes them (our choice).

Such a detector finds everything that "red car" names, and takes no clauses, places or motions: which of them is meant
is decided later. The rules are for English, which it is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from steerseg.words.learning import FUNCTION_WORDS, NUMBERS

# fmt: off
_BEFORE_NOUNS = frozenset({
    *("a", "an", "the", "this", "that", "these", "those", "its", "his", "her", "their", "my", "our", "your"),
    *("another", "each", "every", "all", "both", "some", "any", "other", "which", "first", "last", "second", "third"),
    *("only", "same", "most", "more", "very", "left", "right", "top", "bottom", "upper", "lower", "middle", "center"),
    *("centre", "front", "back", "far", "closest", "nearest", "furthest", *NUMBERS),
})
_ENDS = (FUNCTION_WORDS - _BEFORE_NOUNS) | {
    *("something", "anything", "someone", "everything", "everyone", "could", "would", "should", "may", "might"),
    *("must", "did", "had", "without", "during", "while", "until", "through", "across", "along", "around", "against"),
    *("away", "towards", "toward", "off", "out", "inside", "outside", "if", "because", "so", "whom", "why", "how"),
}
_LOOKS = frozenset({
    *("red", "green", "blue", "yellow", "purple", "pink", "brown", "black", "white", "grey", "gray", "silver"),
    *("golden", "beige", "dark", "light", "bright", "colourful", "colorful", "large", "larger", "largest", "big"),
    *("bigger", "biggest", "small", "smaller", "smallest", "little", "tall", "short", "long", "round", "young", "old"),
    *("fast", "faster", "fastest", "slow", "slower", "slowest", "slowly", "quickly", "still", "stationary", "static"),
    *("alone", "visible", "striped", "spotted", "upright", "forward", "forwards", "backward", "backwards", "leftward"),
    *("rightward", "upward", "upwards", "downward", "downwards", "sideways"),
})
_NOUNS_LIKE_VERBS = frozenset({
    *("building", "ceiling", "string", "spring", "painting", "clothing", "railing", "earring", "duckling"),
    *("seedling", "dumpling", "pudding", "awning", "moped", "biped", "quadruped"),
})
# fmt: on
_WORD = re.compile(r"[a-z][a-z'-]*", re.IGNORECASE)
_BREAK = re.compile(r"[,.;:!?()\n]")
_VERB_FORM = re.compile(r"[a-z]{3,}(?:ing|ed)")


def head_phrase(text: str) -> str:
    """The noun with the words before it that say what it is; empty where the text does not begin with such words.

    Example:
        >>> head_phrase("the second red car that turns left")
        'red car'
        >>> head_phrase("moving to the left")
        ''
    """
    words: list[str] = []
    for word in _WORD.findall(_BREAK.split(text.strip(), maxsplit=1)[0]):
        lower = word.lower()
        if not words and lower in _BEFORE_NOUNS:
            continue
        if lower in _ENDS | _BEFORE_NOUNS or (words and lower not in _LOOKS and _is_verb_form(lower)):
            break
        words.append(word)
    says_what = [word for word in words if word.lower() not in _LOOKS and not _is_verb_form(word.lower())]
    whose = bool(words) and words[-1].lower().endswith("'s")  # what is theirs comes after a word of place
    return " ".join(words) if says_what and not whose else ""


def noun_phrases(texts: Iterable[str]) -> tuple[str, ...]:
    """The head phrases of an expression and its attributes, in their order, each once whatever its case.

    Attributes that say only how or where the object is, such as "red" or "on the left", have none.

    Example:
        >>> noun_phrases(("the dog that stays behind", "a brown dog", "standing still", "on the left"))
        ('dog', 'brown dog')
    """
    phrases: dict[str, str] = {}
    for text in texts:
        phrase = head_phrase(text)
        if phrase:
            phrases.setdefault(phrase.lower(), phrase)
    return tuple(phrases.values())


def _is_verb_form(word: str) -> bool:
    return word not in _NOUNS_LIKE_VERBS and _VERB_FORM.fullmatch(word) is not None
