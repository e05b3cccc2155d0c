"""What an annotator told of the objects of a task so far, and what was answered: the memory of interactive calls.

Label Studio sends one click at a time and forgets it; the drafts that it sends along are seconds old. So the
backend remembers, by task, annotator and object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ml_backend.interactive.request import Mark
from ml_backend.models.messages import FramePrompt
from steerseg.masks import RLE, mask_area

KNOWN_ANSWERS = 12
"""So many of the latest answers to one page are told from what an annotator painted."""

NOTHING = "-"
"""The fingerprint of an empty mask."""


@dataclass(frozen=True)
class InstanceState:
    """One object of a task.

    Attributes:
        place: Its number, from 0; the labels of the configuration are given in this order.
        label: The label of its regions.
        expression: What was typed for it; empty where it was only clicked.
        attributes: How the words were taken.
        rank: Which candidate of the proposal it is, from 0.
        score: The proposal's score of that candidate; ``None`` without a proposal.
        track: One mask per page that marks and paint correct, ``None`` where nothing is visible; empty where
            there is none.
        anchor: The page where that track began, if known.
        marks: Clicks and boxes, in the order in which they were made.
        painted: By page, the mask that the annotator made, which never changes; ``None`` where it was removed.
        shown: One mask per page as it was answered last; empty before the first answer.
        scores: Of each of them, how sure SAM 2 is that it shows the object.
        known: By page, the fingerprints of the latest answers, so that a draft of before is not taken for paint.
        told: Fingerprint of what the last answer followed from.
    """

    place: int
    label: str
    expression: str = ""
    attributes: tuple[str, ...] = ()
    rank: int = 0
    score: float | None = None
    track: tuple[RLE | None, ...] = field(default=(), repr=False)
    anchor: int | None = None
    marks: tuple[Mark, ...] = ()
    painted: Mapping[int, RLE | None] = field(default_factory=dict, repr=False)
    shown: tuple[RLE | None, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    known: Mapping[int, tuple[str, ...]] = field(default_factory=dict, repr=False)
    told: str = ""

    @property
    def fixed_masks(self) -> dict[int, RLE]:
        """The painted masks."""
        return {page: rle for page, rle in self.painted.items() if rle is not None}

    @property
    def hidden_pages(self) -> frozenset[int]:
        """Pages where the annotator removed the object."""
        return frozenset(page for page, rle in self.painted.items() if rle is None)

    @property
    def needs_steering(self) -> bool:
        """Whether anything beside words says where it is."""
        return bool(self.marks or self.fixed_masks)

    def with_marks(self, marks: Iterable[Mark]) -> InstanceState:
        """The object with further marks; one that is there already, by its id, is passed over."""
        there = {mark.id for mark in self.marks}
        return replace(self, marks=(*self.marks, *(mark for mark in marks if mark.id not in there)))

    def without_marks(self, marks: Iterable[Mark]) -> InstanceState:
        """The object without some marks."""
        gone = {mark.id for mark in marks}
        return replace(self, marks=tuple(mark for mark in self.marks if mark.id not in gone))

    def with_known(self, pages: Mapping[int, RLE | None]) -> InstanceState:
        """The object with further answers by page that are not the annotator's own."""
        known = dict(self.known)
        for page, rle in pages.items():
            mark = fingerprint(rle)
            earlier = tuple(other for other in known.get(page, ()) if other != mark)
            known[page] = (*earlier, mark)[-KNOWN_ANSWERS:]
        return replace(self, known=known)

    def with_answer(self, shown: Iterable[RLE | None], scores: Iterable[float], told: str) -> InstanceState:
        """The object with what was answered last; painted pages are the annotator's, and no answer."""
        masks = tuple(shown)
        ours = {page: rle for page, rle in enumerate(masks) if page not in self.painted}
        return replace(self.with_known(ours), shown=masks, scores=tuple(scores), told=told)

    @property
    def visible_pages(self) -> frozenset[int]:
        """Pages where the last answer shows it."""
        return frozenset(page for page, rle in enumerate(self.shown) if fingerprint(rle) != NOTHING)

    def frame_marks(self) -> dict[int, FramePrompt]:
        """The marks by page, as SAM 2 is given them: all clicks, and the last box."""
        found: dict[int, FramePrompt] = {}
        for mark in self.marks:
            there = found.get(mark.frame, FramePrompt())
            if mark.kind == "box":
                found[mark.frame] = replace(there, box=(mark.x, mark.y, mark.width, mark.height))
            else:
                found[mark.frame] = replace(
                    there,
                    points=(*there.points, (mark.x, mark.y)),
                    labels=(*there.labels, mark.positive),
                )
        return found

    def steering_digest(self, media_digest: str, version: str) -> str:
        """A fingerprint of all that an answer follows from."""
        said = {
            "media": media_digest,
            "version": version,
            "expression": self.expression,
            "rank": self.rank,
            "track": [fingerprint(rle) for rle in self.track],
            "marks": [asdict(mark) for mark in self.marks],
            "painted": {str(page): fingerprint(rle) for page, rle in sorted(self.painted.items())},
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class TaskState:
    """One side of a task in the hands of one annotator.

    Attributes:
        active: The object that words, clicks and boxes are about now.
        objects: The objects by place.
        chosen: The label of the object that the annotator had chosen at the last call; empty where none.
        message: What the annotator was told last; a draft with it is younger than that answer.
    """

    active: int = 0
    objects: Mapping[int, InstanceState] = field(default_factory=dict)
    chosen: str = ""
    message: str = ""

    def with_object(self, steered: InstanceState) -> TaskState:
        """The task with an object put in its place."""
        return replace(self, objects={**self.objects, steered.place: steered})

    def without_object(self, place: int) -> TaskState:
        """The task without an object and all that was said of it."""
        return replace(self, objects={p: found for p, found in self.objects.items() if p != place})


def fingerprint(rle: RLE | None) -> str:
    """A few characters that tell one mask from another; all empty ones have the same."""
    if rle is None or mask_area(rle) == 0:
        return NOTHING
    return hashlib.sha256(f"{rle['size']} {rle['counts']}".encode()).hexdigest()[:12]


def to_json(task: TaskState) -> dict[str, Any]:
    """Plain data for the database."""
    return asdict(task)


def from_json(stored: Mapping[str, Any]) -> TaskState:
    """What :func:`to_json` gave, after it went through JSON.

    Raises:
        KeyError: It is something else.
        TypeError: Likewise.
        ValueError: Likewise.
    """
    return TaskState(
        active=int(stored["active"]),
        objects={int(place): _object(found) for place, found in stored["objects"].items()},
        chosen=stored["chosen"],
        message=stored["message"],
    )


def _object(stored: Mapping[str, Any]) -> InstanceState:
    return InstanceState(
        **{
            **stored,
            "attributes": tuple(stored["attributes"]),
            "track": tuple(stored["track"]),
            "marks": tuple(Mark(**mark) for mark in stored["marks"]),
            "painted": {int(page): rle for page, rle in stored["painted"].items()},
            "shown": tuple(stored["shown"]),
            "scores": tuple(stored["scores"]),
            "known": {int(page): tuple(marks) for page, marks in stored["known"].items()},
        }
    )
