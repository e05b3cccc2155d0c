"""Expression -> the motions that it states, by rules for English (our choice)."""

from __future__ import annotations

import enum
import re

from steerseg.words.learning import FUNCTION_WORDS


class Motion(enum.StrEnum):
    """A motion that can be told from tracks over the keyframes."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    STILL = "still"
    MOVING = "moving"
    CIRCLING = "circling"
    BACK_AND_FORTH = "back and forth"
    BOUNCING = "bouncing"
    STARTS = "starts"
    STOPS = "stops"
    ENTERS = "enters"
    LEAVES = "leaves"
    RETURNS = "returns"
    GROWING = "growing"
    SHRINKING = "shrinking"
    SPINNING = "spinning"
    OVERTAKES = "overtakes"
    FASTER = "faster"
    SLOWER = "slower"


_GO = (
    r"\b(?:head(?:s|ing)|(?:mov|go|travell?|slid|runn?|walk|driv|fl|swimm?|drift|rid|roll|com|hurr|rush|float"
    r"|crawl|jump|hopp?|wander|climb|step)(?:e?s|ies|y|e|ing|ying)?)"
)
_HOW = r"(?: (?:\w+ly|fast|straight))?"
_MUCH = r"(?:(?:much|far|a lot|even|very|really|rather|so) )?"
_FAST = r"(?:fast(?:er|est)?|quick(?:er|est|ly)?|rapid(?:ly)?|swift(?:er|est|ly)?)"
_SLOW = r"slow(?:er|est|ly)?"
_TO = rf"{_HOW}(?: to(?:wards?)?)?(?: the)?"
_PICTURE = r"(?:picture|frame|scene|view|image|screen|video|shot|room|camera|viewer)"
_HERE = rf"(?! of\b(?! the {_PICTURE}\b))(?! (?:behind|next|beside|in front|near|above|below|under)\b)"
_UP_OR_DOWN = (
    r"(?! (?:to|front|close)\b)(?! (?:the|a|an) (?:road|street|path|aisle|hall\w*|track|sidewalk|river)\b)"
)
_BY_ITSELF = r"(?! (?:a|an|the|his|her|its|their|my|some)\b)"  # "bouncing", and not "bouncing a ball"


def _across(origin: str, end: str) -> str:
    """The pattern of a way from one side to the other, or towards a side."""
    return (
        rf"{_GO}{_HOW}(?: from)?(?: the)? {origin}[ -]to[ -](?:the )?{end}\b"
        rf"|{_GO}{_TO} {end}(?:wards?)?\b(?![ -]to[ -](?:the )?{origin}\b){_HERE}"
    )


def _speed(word: str) -> str:
    """The pattern of a speed, as of "the fastest dog", "the dog that runs faster" and "the faster of the two dogs"."""
    return (
        rf"(?:{_GO} {_MUCH}(?:the )?|\b){_MUCH}\b{word}(?:-moving)?\b(?! (?:food|asleep|cooker)\b)"
        r"(?: of (?:the )?(?:two|three|four|all)\b(?: the\b)?)?"
    )


_PATTERNS: dict[Motion, re.Pattern[str]] = {
    motion: re.compile(pattern, re.IGNORECASE)
    # What comes first is taken out of the text before the next is looked for.
    for motion, pattern in (
        (
            Motion.BACK_AND_FORTH,
            rf"(?:{_GO} )?\b(?:back and forth|to and fro|(?:from )?side to side|up and down)\b"
            rf"|\bswing(?:s|ing)\b{_BY_ITSELF}"
            r"|\b(?:keeps? turning|turn(?:s|ing)) back\b",
        ),
        (
            Motion.RETURNS,
            r"(?:\b(?:leav|go|disappear|mov)\w*(?: away| out)? and (?:then )?)?"
            rf"\b(?:com(?:es|ing) back|return(?:s|ing)|reappear(?:s|ing))\b{_BY_ITSELF}",
        ),
        (
            Motion.STARTS,
            r"\b(?:start|begin)(?:s|n?ing)? (?:moving|to move)\b"
            r"|(?:\bfirst )?\b(?:waits?|(?:stands?|stays?) still) and then mov\w+",
        ),
        (
            Motion.STOPS,
            r"(?:\bmoves? and then )?\bstop(?:s|ping)\b(?! signs?\b)(?: moving\b)?"
            r"|\bcom(?:es|ing) to (?:a stop|rest|a halt)\b|\bhalts\b",
        ),
        (
            Motion.STILL,
            r"\b(?:stand|stay|sitt?|keep|remain|hold|lie|ly)(?:s|ing)? still\b(?! \w+ing\b)"
            r"|\b(?:is|are) still(?=$|[,.;]| and\b)|(?:^|(?<=\bthe )|(?<=\ba ))still\b(?! life\b)"
            r"|\b(?:(?:stand|stay|sitt?|keep|remain|hold)(?:s|ing)? )?(?:motionless|stationary|immobile|parked)\b"
            r"|\bat rest\b|\brest(?:s|ing)\b"
            r"|(?:\b(?:(?:is|are|does|do) )?(?:not|never)|\b(?:is|are|does|do)n['’]t) mov(?:e|es|ing)\b(?! \w)"
            r"|\bstay(?:s|ing) (?:in place|where (?:it|he|she) is|put)\b",
        ),
        (
            Motion.CIRCLING,
            rf"(?:{_GO} )?(?:around )?\bin (?:a )?circles?\b|\bcircl(?:es|ing)\b|\bround and round\b",
        ),
        (Motion.BOUNCING, rf"(?:\bmov\w+ around and )?\bbounc(?:es|ing)\b{_BY_ITSELF}"),
        (
            Motion.LEAVES,
            r"(?:\b(?:that|which|who|one|it|he|she|then|and)(?: \w+ly)? leaves|\bleaving)\b(?! behind)"
            rf"(?:(?= the {_PICTURE}\b)|{_BY_ITSELF})"
            r"|\bdisappear(?:s|ing)\b|\bexit(?:s|ing)\b|\b(?:go|mov)\w* (?:away\b(?! from\b)|out of\b)",
        ),
        (Motion.LEFT, _across("right", "left")),
        (Motion.RIGHT, _across("left", "right")),
        (
            Motion.UP,
            rf"{_GO}{_HOW} (?:up(?:wards?)?\b{_UP_OR_DOWN}|to(?:wards)? the top\b)|\b(?:climb|ascend|ris)(?:e?s|ing)\b",
        ),
        (
            Motion.DOWN,
            rf"{_GO}{_HOW} (?:down(?:wards?)?\b{_UP_OR_DOWN}|to(?:wards)? the bottom\b)"
            rf"|\b(?:(?:fall|sink|descend)(?:s|ing)|dropp?(?:s|ing)\b{_BY_ITSELF})\b(?! (?:asleep|behind)\b)",
        ),
        (
            Motion.ENTERS,
            r"\benter(?:s|ing)\b|\bcom(?:es|ing) in(?:to)?\b(?! front\b)(?: view\b)?"
            r"|\bappear(?:s|ing)\b(?! (?:to|old|young)\b)(?! (?!later\b)\w+(?:er|ed)\b)",
        ),
        (
            Motion.GROWING,
            r"\bgrow(?:s|ing)\b(?! (?:in|on|at|under|near)\b)|\b(?:get|becom)\w* (?:bigger|larger)\b"
            rf"|\bcom(?:es|ing) closer\b|\bapproach(?:es|ing)\b(?:(?= the {_PICTURE}\b)|{_BY_ITSELF})",
        ),
        (Motion.SHRINKING, r"\bshrink(?:s|ing)\b|\b(?:get|becom)\w* smaller\b"),
        (
            Motion.SPINNING,
            r"\b(?:spin(?:s|ning)|(?:rotat|revolv)(?:es|ing)|(?:twirl|whirl)(?:s|ing))\b(?: around\b)?"
            rf"{_BY_ITSELF}|\bturn(?:s|ing) around\b(?! \w)",
        ),
        (
            Motion.OVERTAKES,
            r"\bovertak(?:es|ing)\b|\bpass(?:es|ing)(?= (?:by )?(?:(?:all )?the others?|another|others)\b)",
        ),
        (Motion.FASTER, _speed(_FAST)),
        (Motion.SLOWER, _speed(_SLOW)),
    )
}
_MOVING = re.compile(
    r"\bmov(?:es|ing)\b(?: around\b)?(?! (?:the )?(?:fast|slow|quick)\w*)|\bin motion\b|\bon the move\b"
    r"|\bgo(?:es|ing) around\b",
    re.IGNORECASE,
)
_CLAUSE_BEGINS = re.compile(
    r"[\s,]*\b(?:that|which|who)(?:['’]s| is| are| keeps?)?(?: still)?\s*$", re.IGNORECASE
)
_WORD = re.compile(r"\s*([a-z'’-]+)", re.IGNORECASE)
_NOT_NOUNS = (FUNCTION_WORDS - {"one", "ones"}) | {
    *("around", "off", "about", "away", "along", "across", "through", "fast", "slowly"),
}
_A = r"(?:a|an|the|his|her|its|their|another|some)\b"
_BESIDE = re.compile(
    rf"\b(?:behind|beside|near|next to|past|under|over|above|below|beneath|in front of|by|around|against|between"
    rf"|(?:left|right) of) (?!(?:the )?{_PICTURE}\b){_A} \w",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    rf"\b(?:to|of|by|with|behind|beside|near|past|in|on|under|over|above|below|at|from|towards?|around|than|that|which"
    rf"|who|(?<=\w )\w+ing) (?:\w+ )?{_A}[^,]*$",
    re.IGNORECASE,
)
_ANYTHING = "the one"  # what is left of "the fastest"
_DENIED = re.compile(r"\b(?:not|never|no|without)\b|n['’]t\b", re.IGNORECASE)


def stated_motions(expression: str) -> tuple[Motion, ...]:
    """The motions that an expression states; empty where it states none, or denies one.

    Example:
        >>> stated_motions("the dog that runs to the left and then stops")
        (<Motion.STOPS: 'stops'>, <Motion.LEFT: 'left'>)
        >>> stated_motions("the dog on the left"), stated_motions("the dog that does not run to the left")
        ((), ())
    """
    found, rest = _read(expression)
    return () if _DENIED.search(rest) else tuple(motion for motion, _ in found)


def without_motion(expression: str) -> str:
    """An expression without the motions that it states, and without what follows the first of them.

    Where nothing is left that names an object, it is "the one".

    Example:
        >>> without_motion("the red dog that is running to the left"), without_motion("the bouncing dog")
        ('the red dog', 'the dog')
    """
    found, rest = _read(expression)
    if not found:
        return expression
    first = min(start for _, start in found)
    before, after = rest[:first], rest[first:]
    if _stands_before_its_noun(before, after):
        return " ".join(f"{before}{after}".split())
    left = " ".join(_CLAUSE_BEGINS.sub("", before).split())
    return left if any(word.lower() not in _NOT_NOUNS for word in _WORD.findall(left)) else _ANYTHING


def _read(expression: str) -> tuple[list[tuple[Motion, int]], str]:
    """The motions with where each is stated, and the text with blanks in the place of each."""
    text = " ".join(expression.split())
    found: list[tuple[Motion, int]] = []
    for motion, pattern in (*_PATTERNS.items(), (Motion.MOVING, _MOVING)):
        matches = (match for match in pattern.finditer(text) if not _is_of_another(text, match))
        match = next(matches, None)
        if match and not (motion is Motion.MOVING and found):
            found.append((motion, match.start()))
            text = text[: match.start()] + " " * len(match.group()) + text[match.end() :]
    return found, text


def _is_of_another(text: str, match: re.Match[str]) -> bool:
    """Whether a motion is that of another object: of the car in "next to the parked car", or perhaps so.

    Of "the cat beside the dog that runs" nobody can tell which of them runs.
    """
    before = text[: match.start()]
    nouns = _ANOTHER if _stands_before_its_noun(before, text[match.end() :]) else _BESIDE
    return nouns.search(before) is not None


def _stands_before_its_noun(before: str, after: str) -> bool:
    """Whether what stands between these texts is a motion as in "the bouncing dog"."""
    following = _WORD.match(after)
    is_noun = following is not None and following.group(1).lower() not in _NOT_NOUNS
    return is_noun and _CLAUSE_BEGINS.search(before) is None
