"""What the models read for an expression: a team's words in plain words, the request left out, slips mended."""

from __future__ import annotations

from dataclasses import dataclass

from steerseg.config import PipelineConfig
from steerseg.words.glossary import Glossary
from steerseg.words.learning import Lexicon
from steerseg.words.wording import mend_spelling, plain_wording


@dataclass(frozen=True)
class Reading:
    """An expression as the models read it.

    Attributes:
        text: What they read.
        new_words: Words that neither the model nor the glossary knows, as they were typed. A word that is mended counts
            as new: it may be a team's own.
    """

    text: str
    new_words: tuple[str, ...] = ()


def read_expression(expression: str, config: PipelineConfig, glossary: Glossary, lexicon: Lexicon) -> Reading:
    """Read an expression.

    Args:
        expression: The annotator's text, white space tidied.
        config: How glossary and wording take part.
        glossary: The project's words.
        lexicon: The model's words.
    """
    text = glossary.rewrite(expression, config.glossary)
    known = expression if config.glossary == "off" else glossary.rewrite(expression)
    if config.wording == "plain":
        text = mend_spelling(plain_wording(text), lexicon.words)
        known = plain_wording(known)
    return Reading(text, lexicon.unknown(known))
