"""Verification: the LVLM sees the ranked candidates, outlined and numbered, and accepts, doubts or rejects each.

The method as published has no such step (our choice); AgentRVOS (arXiv 2603.23489) judges whole tracks so. All
candidates are in one question, so that it is one pass more, and the model compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from steerseg.words.lenient_json import OPENING, Value, read_value

if TYPE_CHECKING:  # tracklets carry opinions, and need no model for that
    from steerseg.config import PipelineConfig
    from steerseg.lvlm.base import LVLM
    from steerseg.lvlm.vision import Timing
    from steerseg.presets import Preset

Stance = Literal["accepted", "doubted", "rejected"]

MAX_REASON = 120
"""Characters of a reason; the rest is cut off."""

_ORDER: dict[Stance, int] = {"accepted": 0, "doubted": 1, "rejected": 2}
_LINE: tuple[int, int, int] = (255, 255, 255)
_RIM: tuple[int, int, int] = (0, 0, 0)
_WORDS: tuple[tuple[Stance, re.Pattern[str]], ...] = (
    ("rejected", re.compile(r"\W*(?:reject|no\b|not\b|wrong|incorrect|false)", re.IGNORECASE)),
    ("doubted", re.compile(r"\W*(?:doubt|unsure|uncertain|unclear|maybe|perhaps|possibly)", re.IGNORECASE)),
    ("accepted", re.compile(r"\W*(?:accept|yes\b|right\b|correct|true)", re.IGNORECASE)),
)
_NUMBER = re.compile(r"\d+")
_VERDICT_KEYS = ("verdict", "judgement", "judgment", "decision", "answer", "stance")
_REASON_KEYS = ("reason", "reasons", "reasoning", "explanation", "why")
_NUMBER_KEYS = ("number", "object", "candidate", "id", "index")
_PLAIN = re.compile(
    r"^\W*(?:object|candidate|number)?\W*(?P<number>\d+)\W+(?P<said>(?:accept|reject|doubt)\w*)\W*(?P<reason>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_PLAIN_NUMBER = re.compile(rf"([\"'](?:{'|'.join(_NUMBER_KEYS)})[\"']\s*:\s*)(\d+)", re.IGNORECASE)
_STRUCTURE = re.compile(f"[{re.escape(OPENING)}]")


@dataclass(frozen=True)
class Opinion:
    """What the LVLM thinks of a candidate.

    Attributes:
        stance: Whether it is what the expression means.
        reason: A few words; may be empty.
    """

    stance: Stance
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.stance}: {self.reason}" if self.reason else self.stance


def verify(
    lvlm: LVLM,
    preset: Preset,
    config: PipelineConfig,
    frames: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    expression: str,
    timing: Timing,
) -> tuple[Opinion | None, ...]:
    """Ask the frozen model about candidates.

    Args:
        lvlm: The model.
        preset: Its question and its budget of visual tokens.
        config: Rule of the grid, and length limit of the answer for each candidate.
        frames: (K, H, W, 3) uint8, the keyframes.
        masks: (K, H, W) bool of each candidate, the best first.
        expression: The expression as questions hold it.
        timing: When the keyframes are.

    Returns:
        One opinion a candidate; ``None`` where the answer says nothing of it.
    """
    from steerseg.lvlm.families.base import GridRule

    height, width = lvlm.family.sizes(
        frames.shape[1],
        frames.shape[2],
        video_tokens=preset.video_tokens,
        frame_tokens=preset.frame_tokens or 4 * preset.video_tokens,
        rule=GridRule(config.grid, config.enlarge),
    ).video
    shown = lvlm.resize(outlined(frames, masks), height, width)
    answer = lvlm.answer(
        preset.texts.verification_question(expression, len(masks)),
        lvlm.encode_vision(shown, "video", timing=timing),
        max_new_tokens=config.max_new_tokens * len(masks),
        complete=lambda text: _holds_opinions(text, len(masks)),
    )
    return parse_opinions(answer.text, len(masks))


def outlined(frames: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Frames on which each candidate has an outline and its number, from 1; colours inside stay as they are.

    Args:
        frames: (K, H, W, 3) uint8; not changed.
        masks: (K, H, W) bool of each candidate.
    """
    result = frames.copy()
    size = min(frames.shape[1:3])
    line, scale = max(1, round(size / 240)), size / 400
    for k, frame in enumerate(result):
        for number, mask in reversed(list(enumerate(masks, start=1))):
            if not mask[k].any():
                continue
            contours, _ = cv2.findContours(mask[k].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            rows, columns = np.nonzero(mask[k])
            at = (int(columns[rows.argmin()]), max(int(rows.min()) - 2 * line, round(24 * scale)))
            for colour, more in ((_RIM, 2 * line), (_LINE, 0)):
                cv2.drawContours(frame, contours, -1, colour, line + more, cv2.LINE_AA)
                cv2.putText(
                    frame,
                    str(number),
                    at,
                    cv2.FONT_HERSHEY_SIMPLEX,
                    scale,
                    colour,
                    2 * line + more,
                    cv2.LINE_AA,
                )
    return result


def order_by_opinion(opinions: Sequence[Opinion | None]) -> list[int]:
    """The order of candidates: accepted ones first, then those that nothing or doubt is said of, then rejected ones.

    Within each, they stay as they were ranked.
    """
    weights = [_ORDER["doubted" if one is None else one.stance] for one in opinions]
    return sorted(range(len(opinions)), key=lambda i: weights[i])


def parse_opinions(answer: str, count: int) -> tuple[Opinion | None, ...]:
    """Read opinions leniently: JSON and what is almost JSON, cut off or not, or a line for each number.

    Args:
        answer: The model's answer.
        count: How many candidates there are.
    """
    answer = _PLAIN_NUMBER.sub(r'\1"\2"', answer)  # numbers are no values of lenient JSON
    read: dict[int, Opinion] = {}
    end = 0
    for match in _STRUCTURE.finditer(answer):
        if match.start() >= end:
            reading = read_value(answer, match.start(), bare=True)
            end = reading.end
            for number, opinion in _opinions(reading.value):
                read.setdefault(number, opinion)
    if not read:
        for line in _PLAIN.finditer(answer):
            said = _opinion(line["said"], line["reason"])
            if said is not None:
                read.setdefault(int(line["number"]), said)
    return tuple(read.get(number) for number in range(1, count + 1))


def _holds_opinions(answer: str, count: int) -> bool:
    """Whether the answer's JSON is complete and says something of every candidate."""
    match = _STRUCTURE.search(answer)
    if match is None or not read_value(answer, match.start(), bare=True).whole:
        return False
    return None not in parse_opinions(answer, count)


def _opinions(value: Value) -> Iterator[tuple[int, Opinion]]:
    """Numbers from 1 with what is said of them, in a value of an answer."""
    direct = _read_entry(value) if isinstance(value, dict) else None
    if direct is not None:
        yield _own_number(value, 1), direct
    if direct is not None or isinstance(value, str):
        return
    entries = list(value.items()) if isinstance(value, dict) else [("", one) for one in value]
    for position, (key, entry) in enumerate(entries, start=1):
        found = _NUMBER.search(key)
        opinion = _read_entry(entry) if found or isinstance(value, list) else None
        if opinion is None:
            yield from _opinions(entry)  # such as the list below one key
        else:
            yield int(found[0]) if found else _own_number(entry, position), opinion


def _own_number(entry: Value, position: int) -> int:
    """The number that an entry of a list gives itself; its position where it gives none."""
    texts = [entry.get(key) for key in _NUMBER_KEYS] if isinstance(entry, dict) else []
    found = next((match for text in texts if isinstance(text, str) and (match := _NUMBER.search(text))), None)
    return int(found[0]) if found else position


def _read_entry(entry: Value) -> Opinion | None:
    if isinstance(entry, str):
        said, _, reason = entry.partition(" ")
        return _opinion(said, reason)
    if isinstance(entry, list):
        texts = [text for text in entry if isinstance(text, str)]
        return _opinion(texts[0], " ".join(texts[1:])) if texts else None
    fields = {key.lower(): text for key, text in entry.items() if isinstance(text, str)}
    said = next((fields[key] for key in _VERDICT_KEYS if key in fields), "")
    return _opinion(said, next((fields[key] for key in _REASON_KEYS if key in fields), ""))


def _opinion(said: str, reason: str) -> Opinion | None:
    stance = next((stance for stance, word in _WORDS if word.match(said)), None)
    tidy = " ".join(reason.strip(" .,:;-–—()").split())
    return None if stance is None else Opinion(stance, tidy[:MAX_REASON])
