"""The state of a task in one annotator's hands: prompts so far, painted pages, and the last answers.

Label Studio sends one click at a time and forgets it, and the drafts that it sends along are seconds old. So the
backend remembers, by task, annotator and instance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from ml_backend.interactive.request import Prompt
from ml_backend.models.messages import FramePrompt
from steerseg.masks import RLE, mask_area

REMEMBERED_ANSWERS = 12
"""A page's latest answers that are known apart from what the annotator painted."""

EMPTY_MASK = "-"
"""The digest of an empty mask."""


@dataclass(frozen=True)
class InstanceState:
    """One instance of a task. Aliases are its keys in the database.

    Attributes:
        index: Its number, from 0; the labels of the configuration are given in this order.
        label: The label of its regions.
        expression: Its expression; empty where it was only clicked.
        attributes: The attributes that the expression was read as.
        rank: The candidate of the proposal that it is, from 0.
        score: The proposal's score of that candidate; ``None`` without a proposal.
        track: One mask per page that prompts correct, ``None`` where nothing is visible; empty where there is none.
        anchor: The page where that track began, if known.
        prompts: Clicks and boxes, in the order in which they were made.
        painted: By page, the mask that the annotator made, which never changes; ``None`` where it was removed.
        assigned: Those of the painted pages that a typed command decided: this backend writes their regions.
        masks: One mask per page as it was answered last; empty before the first answer.
        scores: The segmenter's certainty of each of them, in [0, 1].
        answered: By page, the digests of the latest answers, so that an older draft is not taken for paint.
        answer_digest: Digest of what the last answer followed from.
    """

    index: Annotated[int, Field(alias="place")]
    label: str
    expression: str = ""
    attributes: tuple[str, ...] = ()
    rank: int = 0
    score: float | None = None
    track: tuple[RLE | None, ...] = field(default=(), repr=False)
    anchor: int | None = None
    prompts: Annotated[tuple[Prompt, ...], Field(alias="marks")] = ()
    painted: Mapping[int, RLE | None] = field(default_factory=dict, repr=False)
    assigned: frozenset[int] = frozenset()
    masks: Annotated[tuple[RLE | None, ...], Field(alias="shown")] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    answered: Annotated[Mapping[int, tuple[str, ...]], Field(alias="known")] = field(
        default_factory=dict, repr=False
    )
    answer_digest: Annotated[str, Field(alias="told")] = ""

    @property
    def painted_masks(self) -> dict[int, RLE]:
        """By page, the masks that the annotator made."""
        return {page: mask for page, mask in self.painted.items() if mask is not None}

    @property
    def hidden_pages(self) -> frozenset[int]:
        """Pages where the annotator removed the instance."""
        return frozenset(page for page, mask in self.painted.items() if mask is None)

    @property
    def visible_pages(self) -> frozenset[int]:
        """Pages where the last answer shows the instance."""
        return frozenset(page for page, mask in enumerate(self.masks) if mask_digest(mask) != EMPTY_MASK)

    @property
    def own_pages(self) -> frozenset[int]:
        """Pages whose regions the annotator drew or removed, and no answer writes."""
        return frozenset(self.painted) - self.assigned

    def with_prompts(self, prompts: Iterable[Prompt]) -> InstanceState:
        """The instance with further prompts; one whose id is there already is passed over."""
        known = {prompt.id for prompt in self.prompts}
        return replace(self, prompts=(*self.prompts, *(p for p in prompts if p.id not in known)))

    def without_prompts(self, prompts: Iterable[Prompt]) -> InstanceState:
        """The instance without some prompts."""
        removed = {prompt.id for prompt in prompts}
        return replace(self, prompts=tuple(p for p in self.prompts if p.id not in removed))

    def with_answered(self, pages: Mapping[int, RLE | None]) -> InstanceState:
        """The instance with further answers by page, which are not the annotator's own masks."""
        answered = dict(self.answered)
        for page, mask in pages.items():
            digest = mask_digest(mask)
            earlier = tuple(other for other in answered.get(page, ()) if other != digest)
            answered[page] = (*earlier, digest)[-REMEMBERED_ANSWERS:]
        return replace(self, answered=answered)

    def with_answer(self, masks: Iterable[RLE | None], scores: Iterable[float], digest: str) -> InstanceState:
        """The instance with its last answer; painted pages are the annotator's, and no answer.

        Args:
            masks: One mask per page.
            scores: The segmenter's certainty of each.
            digest: Digest of what the answer followed from.
        """
        answer = tuple(masks)
        pages = {page: mask for page, mask in enumerate(answer) if page not in self.own_pages}
        return replace(self.with_answered(pages), masks=answer, scores=tuple(scores), answer_digest=digest)

    def with_assigned(self, masks: Mapping[int, RLE | None], pages: int) -> InstanceState:
        """The instance with masks that a typed command gives it; they stay as painted pages do.

        Args:
            masks: By page, the mask; ``None`` where the instance is not visible.
            pages: Pages of the task.
        """
        last = dict(enumerate(self.masks)) | dict(masks)
        scores = dict(enumerate(self.scores)) | dict.fromkeys(masks, 1.0)
        return replace(
            self.with_answered(masks),
            painted=dict(sorted({**self.painted, **masks}.items())),
            assigned=frozenset({*self.assigned, *masks}),
            masks=tuple(last.get(page) for page in range(pages)),
            scores=tuple(scores.get(page, 1.0) for page in range(pages)),
            answer_digest="",
        )

    def frame_prompts(self) -> dict[int, FramePrompt]:
        """The prompts by page, as the segmenter gets them: all clicks, and the last box."""
        prompts: dict[int, FramePrompt] = {}
        for prompt in self.prompts:
            earlier = prompts.get(prompt.frame, FramePrompt())
            if prompt.kind == "box":
                prompts[prompt.frame] = replace(
                    earlier, box=(prompt.x, prompt.y, prompt.width, prompt.height)
                )
            else:
                prompts[prompt.frame] = replace(
                    earlier,
                    points=(*earlier.points, (prompt.x, prompt.y)),
                    labels=(*earlier.labels, prompt.positive),
                )
        return prompts

    def request_digest(self, media_digest: str, version: str) -> str:
        """A digest of all that an answer follows from.

        Args:
            media_digest: Digest of the media.
            version: Version of the project's predictions.
        """
        content = {
            "media": media_digest,
            "version": version,
            "expression": self.expression,
            "rank": self.rank,
            "track": [mask_digest(mask) for mask in self.track],
            "marks": [asdict(prompt) for prompt in self.prompts],
            "painted": {str(page): mask_digest(mask) for page, mask in sorted(self.painted.items())},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class TaskState:
    """One side of a task in the hands of one annotator. Aliases are its keys in the database.

    Attributes:
        active_index: The instance that expressions, clicks and boxes are about now.
        instances: The instances by index.
        chosen_label: The label of the instance that was chosen at the last call; empty where none was.
        message: The message of the last answer; a draft that shows it is younger than that answer.
        unanswered: The expression whose proposal was not ready when its call had to end; empty where there is none.
    """

    active_index: Annotated[int, Field(alias="active")] = 0
    instances: Annotated[Mapping[int, InstanceState], Field(alias="objects")] = field(default_factory=dict)
    chosen_label: Annotated[str, Field(alias="chosen")] = ""
    message: str = ""
    unanswered: str = ""

    def with_instance(self, instance: InstanceState) -> TaskState:
        """The task with an instance put at its index."""
        return replace(self, instances={**self.instances, instance.index: instance})

    def without_instance(self, index: int) -> TaskState:
        """The task without an instance and all its prompts."""
        return replace(self, instances={i: known for i, known in self.instances.items() if i != index})


_STORED = TypeAdapter(TaskState)


def mask_digest(mask: RLE | None) -> str:
    """A few characters that differ between masks; all empty ones share :data:`EMPTY_MASK`."""
    if mask is None or mask_area(mask) == 0:
        return EMPTY_MASK
    return hashlib.sha256(f"{mask['size']} {mask['counts']}".encode()).hexdigest()[:12]


def to_json(task: TaskState) -> dict[str, Any]:
    """Plain data for the database."""
    stored: dict[str, Any] = _STORED.dump_python(task, mode="json", by_alias=True)
    return stored


def from_json(stored: Mapping[str, Any]) -> TaskState:
    """Read what :func:`to_json` gave, after it went through JSON.

    Raises:
        ValueError: It is something else.
    """
    return _STORED.validate_python(stored)
