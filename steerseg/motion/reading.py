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
    r"\b(?:mov|go|head|travell?|slid|runn?|walk|driv|fl|swimm?|drift|rid|roll|com|hurr|rush|float|crawl|jump|hopp?"
    r"|wander|climb|step)(?:e?s|ies|y|e|ing|ying)?"
)
_HOW = r"(?: (?:\w+ly|fast|straight))?"
_MUCH = r"(?:(?:much|far|a lot|even|very|really|rather|so) )?"
_FAST = r"(?:fast(?:er|est)?|quick(?:er|est|ly)?|rapid(?:ly)?|swift(?:er|est|ly)?)"
_SLOW = r"slow(?:er|est|ly)?"
_TO = rf"{_HOW}(?: to(?:wards?)?)?(?: the)?"


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
            rf"(?:{_GO} )?\b(?:back and forth|to and fro|(?:from )?side to side|up and down)\b|\bswing(?:s|ing)\b"
            r"|\b(?:keeps? turning|turn(?:s|ing)) back\b",
        ),
        (
            Motion.RETURNS,
            r"(?:\b(?:leav|go|disappear|mov)\w*(?: away| out)? and (?:then )?)?"
            r"\b(?:com(?:es|ing) back|return(?:s|ing)|reappear(?:s|ing))\b",
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
            r"\b(?:(?:stand|stay|sitt?|keep|remain|hold)(?:s|ing)? )?(?:still(?! \w+ing)|motionless|stationary"
            r"|immobile|parked)\b|\bat rest\b|\brest(?:s|ing)\b"
            r"|(?:\b(?:(?:is|are|does|do) )?(?:not|never)|\b(?:is|are|does|do)n['’]t) mov(?:e|es|ing)\b(?! \w)"
            r"|\bstay(?:s|ing) (?:in place|where (?:it|he|she) is|put)\b",
        ),
        (
            Motion.CIRCLING,
            rf"(?:{_GO} )?(?:around )?\bin (?:a )?circles?\b|\bcircl(?:es|ing)\b|\bround and round\b",
        ),
        (Motion.BOUNCING, r"(?:\bmov\w+ around and )?\bbounc(?:es|ing)\b"),
        (
            Motion.LEAVES,
            r"\bleav(?:es|ing)\b(?! behind)|\bdisappear(?:s|ing)\b|\bexit(?:s|ing)\b"
            r"|\b(?:go|mov)\w* (?:away\b|out of\b)",
        ),
        (Motion.LEFT, rf"{_GO}{_HOW} from (?:the )?right to (?:the )?left\b|{_GO}{_TO} left(?:wards?)?\b"),
        (Motion.RIGHT, rf"{_GO}{_HOW} from (?:the )?left to (?:the )?right\b|{_GO}{_TO} right(?:wards?)?\b"),
        (
            Motion.UP,
            rf"{_GO}{_HOW} (?:up(?:wards?)?\b(?! to\b)|to(?:wards)? the top\b)|\b(?:climb|ascend|ris)(?:e?s|ing)\b",
        ),
        (
            Motion.DOWN,
            rf"{_GO}{_HOW} (?:down(?:wards?)?\b|to(?:wards)? the bottom\b)"
            r"|\b(?:fall|sink|descend|dropp?)(?:s|ing)\b(?! (?:asleep|behind)\b)",
        ),
        (
            Motion.ENTERS,
            r"\benter(?:s|ing)\b|\bcom(?:es|ing) in(?:to)?\b(?! front\b)(?: view\b)?|\bappear(?:s|ing)\b",
        ),
        (
            Motion.GROWING,
            r"\bgrow(?:s|ing)\b(?! (?:in|on|at|under|near)\b)|\b(?:get|becom)\w* (?:bigger|larger)\b"
            r"|\bcom(?:es|ing) closer\b|\bapproach(?:es|ing)\b",
        ),
        (Motion.SHRINKING, r"\bshrink(?:s|ing)\b|\b(?:get|becom)\w* smaller\b"),
        (
            Motion.SPINNING,
            r"\b(?:spin(?:s|ning)|(?:rotat|revolv)(?:es|ing)|(?:twirl|whirl)(?:s|ing))\b(?: around\b)?"
            r"|\bturn(?:s|ing) around\b(?! \w)",
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
_CLAUSE_BEGINS = re.compile(r"[\s,]*\b(?:that|which|who)(?:['’]s| is| are| keeps?)?\s*$", re.IGNORECASE)
_WORD = re.compile(r"\s*([a-z'’-]+)", re.IGNORECASE)
_NOT_NOUNS = (FUNCTION_WORDS - {"one", "ones"}) | {
    *("around", "off", "about", "away", "along", "across", "through", "fast", "slowly"),
}
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
    following = _WORD.match(after)
    if following and following.group(1).lower() not in _NOT_NOUNS and not _CLAUSE_BEGINS.search(before):
        return " ".join(f"{before}{after}".split())  # the motion stands before its noun
    left = " ".join(_CLAUSE_BEGINS.sub("", before).split())
    return left if any(word.lower() not in _NOT_NOUNS for word in _WORD.findall(left)) else _ANYTHING


def _read(expression: str) -> tuple[list[tuple[Motion, int]], str]:
    """The motions with where each is stated, and the text with blanks in the place of each."""
    text = " ".join(expression.split())
    found: list[tuple[Motion, int]] = []
    for motion, pattern in (*_PATTERNS.items(), (Motion.MOVING, _MOVING)):
        match = pattern.search(text)
        if match and not (motion is Motion.MOVING and found):
            found.append((motion, match.start()))
            text = text[: match.start()] + " " * len(match.group()) + text[match.end() :]
    return found, text
