"""An interactive call and its answer, as the pages and the video of a task share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ml_backend.interactive.request import InteractiveRequest
from ml_backend.interactive.store import UNKNOWN, TaskStateKey
from ml_backend.label_studio.controls import FramesSide, VideoSide, verdict_word
from ml_backend.label_studio.results import Result, ResultItem
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.predictions.messages import Guidance, describe_refusal
from ml_backend.proposals import StoredProposal
from steerseg.errors import ExpressionError

NOT_VISIBLE = "not visible"
"""The verdict that what the expression asks for is not in the video."""


class ProposalWork(Protocol):
    """A proposal on its way, with the media that it is about."""

    @property
    def media(self) -> Media | None:
        """The task's media, once they are fetched."""

    @property
    def outcome(self) -> Future[StoredProposal]:
        """The future of the proposal."""

    @property
    def progress(self) -> str:
        """How far the work is, for an annotator who waits."""


@dataclass(frozen=True)
class Call:
    """One interactive call.

    Attributes:
        project_id: The project.
        task: The task.
        request: What the annotator asks for; it is not empty.
        context: The results that Label Studio sent with the call.
        video: The video side, where the task has a video beside its pages.
        version: The version of the project's predictions.
        own_expression: The task's own expression, if it has a usable one.
        deadline: When an answer is due, by :func:`time.monotonic`.
        delivers: Whether a proposal that its annotator does not wait for becomes a prediction.
        propose: Begins a proposal for an expression, in the background.
        fetch: Fetches the task's media.
    """

    project_id: int
    task: Task
    request: InteractiveRequest
    context: tuple[Mapping[str, Any], ...] = field(repr=False)
    video: VideoSide | None = field(repr=False)
    version: str
    own_expression: str | None
    deadline: float
    delivers: bool
    propose: Callable[[str], ProposalWork] = field(repr=False)
    fetch: Callable[[], Media] = field(repr=False)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class Answer:
    """The answer to an interactive call.

    Attributes:
        result: Regions; they replace those of the same ids.
        message: The message for the annotator, if there is one.
        score: Score of the best region, in [0, 1].
        late: Whether it was not ready in time, so that the annotator has to ask again.
        unanswered: The expression whose proposal was not ready in time; empty where there is none.
        settles_text: Whether the expressions in force take the place of the texts that were typed.
    """

    result: tuple[Result, ...] = field(default=(), repr=False)
    message: str | None = None
    score: float = 0.0
    late: bool = False
    unanswered: str = ""
    settles_text: bool = False


def refusal(proposal: StoredProposal, guidance: Guidance, side: FramesSide | VideoSide) -> Answer:
    """The answer to an expression that is hardly of anything in the video: no mask, and the verdict to choose."""
    control = side.task.verdict
    choices = () if control is None else control.choices
    verdict = next((choice for choice in choices if verdict_word(choice) == NOT_VISIBLE), "")
    return Answer(message=describe_refusal(proposal, guidance, verdict=verdict))


def late_answer(progress: str) -> Answer:
    """The answer where the work is not done by the deadline."""
    return Answer(message=f"Still working: {progress}. Press Enter again in a while.", late=True)


def late_proposal(call: Call, progress: str, expression: str) -> Answer:
    """The answer where the proposal for an expression is not there by the deadline."""
    answer = late_answer(progress)
    after = " If you submit before, it comes as a prediction." if call.delivers else ""
    return replace(answer, message=f"{answer.message}{after}", unanswered=expression)


def state_key(project_id: int, task: Task, side: FramesSide | VideoSide) -> TaskStateKey:
    """Identifies the state of one side of a task in the hands of whoever has its draft."""
    draft = task.draft
    annotator = UNKNOWN if draft is None or draft.annotator is None else draft.annotator
    return TaskStateKey(project_id, task.id, annotator, side.name)


def expression_of_candidate(pick: int, *expressions: str | None) -> str:
    """The expression whose candidate an annotator chose by its number: the first that is there.

    Args:
        pick: The number of the candidate, from 1.
        expressions: The expressions that it may belong to, the likeliest first.

    Raises:
        ExpressionError: There is none.
    """
    expression = next((text for text in expressions if text), None)
    if expression is None:
        raise ExpressionError(
            f"#{pick} chooses a candidate, but there is no expression yet; type what to track"
        )
    return expression


def clipped_score(score: float) -> float:
    """A score as Label Studio takes it, in [0, 1]."""
    return round(min(max(score, 0.0), 1.0), 4)


def texts_beside(results: Sequence[Mapping[str, Any]], control: str | None, region_id: str) -> list[str]:
    """The newest texts beside a box track; later results come before earlier ones."""
    items = [ResultItem(result) for result in results]
    texts = [item.texts for item in items if item.is_from(control) and item.id == region_id]
    return texts[-1] if texts else []
