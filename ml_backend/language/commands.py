"""Typed commands that change instances over a range of frames, and the grammar that reads them.

::

    command := "delete" instance [range]
             | instance "=" instance [range]
             | "merge" instance "into" instance [range]
             | "swap" instance "and" instance [range]
             | "split" instance "at" frame ["into" instance]
    range   := "from" frame ["to" frame] | "to" frame | "on" frame ["to" frame]
    frame   := ["frame" | "page"] number

The word "go" alone, or a space, asks the other frames to follow what was painted, since Label Studio sends no empty
text.

Instances have the names that the labelling configuration gives them. Frames are counted from 1, as Label Studio does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerseg.errors import ExpressionError


class Action(enum.StrEnum):
    """What a command does."""

    DELETE = "delete"
    REPLACE = "="
    MERGE = "merge"
    SWAP = "swap"
    SPLIT = "split"


@dataclass(frozen=True)
class FrameRange:
    """Frames of a video, both ends within it.

    Attributes:
        first: Index of the first frame, from 0.
        last: Index of the last one; ``None`` for the video's last.
    """

    first: int = 0
    last: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it means all frames."""
        return self.first == 0 and self.last is None

    def indices(self, count: int) -> range:
        """The indices of its frames in a video.

        Args:
            count: Frames of the video.

        Raises:
            ExpressionError: The video ends before it.
        """
        highest = max(self.first, 0 if self.last is None else self.last)
        if highest >= count:
            raise ExpressionError(f"there is no frame {highest + 1}; the last one is frame {count}")
        return range(self.first, count if self.last is None else self.last + 1)


@dataclass(frozen=True)
class Command:
    """A change to instances.

    Attributes:
        action: What it does.
        target: Index of the instance that is changed.
        source: Index of the instance that gives its masks, or takes them in a split; ``None`` where no other is named.
        frames: Where.
    """

    action: Action
    target: int
    source: int | None = None
    frames: FrameRange = FrameRange()


_RANGE = re.compile(
    r"(?:(?P<how>from|to|until|till|on|at)\s+)(?:frames?\s+|pages?\s+)?(?P<first>\d{1,6})"
    r"(?:\s*(?:to|until|till|-|–|\.\.)\s*(?:frames?\s+|pages?\s+)?(?P<last>\d{1,6}))?",
    re.IGNORECASE,
)
_NAME = r"(?P<{}>[^=]+?)"
_TAIL = r"(?:\s+(?P<range>(?:from|to|until|till|on|at)\s+(?:frames?\s+|pages?\s+)?\d.*?))?"
_FORMS: tuple[tuple[Action, re.Pattern[str]], ...] = tuple(
    (action, re.compile(form, re.IGNORECASE))
    for action, form in (
        (Action.DELETE, rf"(?:delete|remove)\s+{_NAME.format('target')}{_TAIL}"),
        (Action.REPLACE, rf"{_NAME.format('target')}\s*=\s*{_NAME.format('source')}{_TAIL}"),
        (Action.MERGE, rf"merge\s+{_NAME.format('source')}\s+into\s+{_NAME.format('target')}{_TAIL}"),
        (Action.SWAP, rf"swap\s+{_NAME.format('target')}\s+(?:and|with)\s+{_NAME.format('source')}{_TAIL}"),
        (
            Action.SPLIT,
            rf"split\s+{_NAME.format('target')}\s+(?P<range>(?:from|at)\s+(?:frame\s+|page\s+)?\d+)"
            rf"(?:\s+into\s+{_NAME.format('source')})?",
        ),
    )
)


GO = frozenset({"go", "propagate", ""})
"""Texts that ask the other frames to follow what was painted; a text of spaces is as near as Label Studio comes to
Enter in the empty field."""


def is_go(text: str) -> bool:
    """Whether a typed text asks the other frames to follow what was painted."""
    return text.strip().casefold() in GO


def read_command(text: str, names: Sequence[str]) -> Command | None:
    """Read a typed text as a command; ``None`` where it is none, but an expression.

    A text is a command where it has the form of one and names an instance, or something that looks like one
    (*object 7*): "remove" and "=" may stand in an expression as well.

    Args:
        text: The text as typed.
        names: The names of the instances, in their order.

    Raises:
        ExpressionError: It is a command that cannot be followed; the message is for the annotator.
    """
    text = " ".join(text.split())
    for action, form in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        named = [match.groupdict().get(part) for part in ("target", "source")]
        if not any(name is not None and _resembles(name, names) for name in named):
            continue
        target, source = (None if name is None else _index(name, names) for name in named)
        assert target is not None
        if target == source:
            raise ExpressionError(f"“{text}” names one object twice; name two")
        written = match.groupdict().get("range")
        return Command(action, target, source, FrameRange() if written is None else _range(written, action))
    return None


def is_command(text: str, names: Sequence[str]) -> bool:
    """Whether a typed text is a command or *go*, also a command that cannot be followed."""
    try:
        return is_go(text) or read_command(text, names) is not None
    except ExpressionError:
        return True


def numbered_titles(count: int) -> tuple[str, ...]:
    """The names of instances where labels name none: *object 1*, *object 2*, ..."""
    return tuple(f"object {number}" for number in range(1, count + 1))


def instance_title(index: int, names: Sequence[str]) -> str:
    """An instance as texts for annotators call it: by its name, and by *object* and its number where that is all."""
    name = names[index] if index < len(names) else str(index + 1)
    return f"object {name}" if name.isdecimal() else name


def _resembles(name: str, names: Sequence[str]) -> bool:
    known = {
        title.casefold()
        for index in range(len(names))
        for title in (names[index], instance_title(index, names))
    }
    if name.casefold() in known:
        return True
    stems = {re.sub(r"\d+$", "", title) for title in known if re.search(r"\d$", title)} - {""}
    return any(re.fullmatch(rf"{re.escape(stem)}\d+", name.casefold()) is not None for stem in stems)


def _index(name: str, names: Sequence[str]) -> int:
    for index in range(len(names)):
        if name.casefold() in (names[index].casefold(), instance_title(index, names).casefold()):
            return index
    titles = ", ".join(instance_title(index, names) for index in range(len(names)))
    raise ExpressionError(f"there is no “{name}”; the objects are {titles}")


def _range(written: str, action: Action) -> FrameRange:
    match = _RANGE.fullmatch(written)
    if match is None:
        raise ExpressionError(
            f"“{written}” names no frames; write “from frame 20”, “to frame 20” or “on frames 5 to 9”"
        )
    how, first = match.group("how").casefold(), int(match.group("first"))
    last = int(match.group("last")) if match.group("last") else None
    if first < 1 or (last is not None and last < first):
        raise ExpressionError(f"“{written}” names no frames; they are counted from 1, the lower number first")
    if how in ("to", "until", "till"):
        return FrameRange(0, first - 1)
    if last is None and how in ("on", "at") and action is not Action.SPLIT:
        last = first
    return FrameRange(first - 1, None if last is None else last - 1)
