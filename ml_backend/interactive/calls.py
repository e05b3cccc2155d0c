"""Interactive calls, from Label Studio's request to the regions and the status text that it gets."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ml_backend.corrections.ingestion import Ingestor
from ml_backend.database.projects import Project
from ml_backend.interactive.answer import Answer, Call, state_key
from ml_backend.interactive.frame_answer import FrameCalls
from ml_backend.interactive.lifecycle import Promise
from ml_backend.interactive.request import InteractiveRequest, read_context, side_of
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages
from ml_backend.interactive.video_answer import VideoCalls, video_beside
from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.label_studio.results import status_result
from ml_backend.label_studio.task import Task
from ml_backend.language.expressions import task_expression
from ml_backend.metrics import Metrics
from ml_backend.models.queue import Priority
from ml_backend.predictions.media import PredictionMedia
from ml_backend.predictions.model_versions import ModelVersions
from ml_backend.predictions.results import Prediction
from ml_backend.predictions.work import TaskProposer, TaskRequest, TaskWork, report_error
from ml_backend.settings import Settings
from steerseg.errors import ExpressionError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InteractiveAnswer:
    """The answer to an interactive call, in Label Studio's format.

    Attributes:
        prediction: Its regions and its status text.
    """

    prediction: Prediction

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"results": [self.prediction.to_json()], "model_version": self.prediction.model_version}


@dataclass(frozen=True)
class CallRequest:
    """An interactive call.

    Attributes:
        project: The project.
        controls: The controls that hold proposals.
        task: The task.
        context: The results that the annotator's tool sent.
        deadline: When an answer is due, by the monotonic clock.
    """

    project: Project
    controls: Controls
    task: Task
    context: tuple[Mapping[str, Any], ...]
    deadline: float


class InteractiveCalls:
    """Answers interactive calls. Safe to share between threads.

    Args:
        settings: The key of a task's own expression, and the default.
        frame_calls: Answers calls about the pages of a task.
        video_calls: Answers calls about the video of a task.
        task_proposer: Begins the proposals of tasks.
        media: Fetches the media of tasks.
        versions: The versions of predictions.
        ingestor: Dispatches submissions before and after a call is answered.
        states: The states of tasks, which note the expressions that were not answered in time.
        pages: Takes answers whose task was submitted meanwhile.
        promise: Takes the expressions that were not answered in time and whose task was submitted meanwhile.
        metrics: Counts calls by how they end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        frame_calls: FrameCalls,
        video_calls: VideoCalls,
        task_proposer: TaskProposer,
        media: PredictionMedia,
        versions: ModelVersions,
        ingestor: Ingestor,
        states: TaskStateStore,
        pages: SubmittedPages,
        promise: Promise,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._frame_calls = frame_calls
        self._video_calls = video_calls
        self._task_proposer = task_proposer
        self._media = media
        self._versions = versions
        self._ingestor = ingestor
        self._states = states
        self._pages = pages
        self._promise = promise
        self._metrics = metrics

    def answer(self, request: CallRequest) -> InteractiveAnswer:
        """Answer a call; an error is shown to the annotator in the status text.

        Raises:
            StoreError: The database cannot be used.
        """
        self._ingestor.dispatch()  # the state of a submitted task begins anew
        started = time.monotonic()
        version = self._versions.current(request.project.id)
        side = side_of(request.context, (request.controls.frames, request.controls.video))
        content = None if side is None else read_context(request.context, side)
        if side is None or content is None or content.is_empty:
            return InteractiveAnswer(Prediction((), 0.0, version.name))
        task_request = TaskRequest(
            request.project, request.task, request.controls, version, Priority.INTERACTIVE
        )
        answer = self._answer(self._call(request, content, task_request), side)
        if answer.result:
            answer = self._unless_submitted(answer, request, side, started)
        if content.is_text:
            self._keep_promise(answer.unanswered, request, side, started)
        result = list(answer.result)
        if answer.message is not None:
            status = status_result(side, answer.message, interactive=True)
            result += [] if status is None else [status]
        return InteractiveAnswer(Prediction(tuple(result), answer.score, version.name))

    def _keep_promise(
        self, unanswered: str, request: CallRequest, side: FramesSide | VideoSide, started: float
    ) -> None:
        """Note the expression of a text that was not answered in time, for a submission that does not wait for it."""
        project, task = request.project.id, request.task
        key = state_key(project, task, side)
        self._states.note_unanswered(key, unanswered)
        if not unanswered:
            return
        self._ingestor.dispatch()
        if self._submitted_since(started, request) is not None:  # perhaps before it was noted
            self._states.note_unanswered(key, "")
            self._promise(project, task, unanswered)

    def _submitted_since(self, started: float, request: CallRequest) -> int | None:
        """The annotation in which the annotator of a call submitted its task since the call began."""
        draft = request.task.draft
        annotator = None if draft is None else draft.annotator
        return self._pages.submitted_since(started, request.project.id, request.task.id, annotator)

    def _unless_submitted(
        self, answer: Answer, request: CallRequest, side: FramesSide | VideoSide, started: float
    ) -> Answer:
        """The answer; where the task was submitted meanwhile, it goes into the annotation, and the message says so.

        Label Studio would put it onto the page that is open now, which may show another task.
        """
        self._ingestor.dispatch()
        project, task = request.project.id, request.task
        number = self._submitted_since(started, request)
        if number is None:
            return answer
        status = None if answer.message is None else status_result(side, answer.message)
        begin = f"Task {task.id} was submitted while the backend worked on it."
        try:
            self._pages.add_answer(
                number, project, task.id, (*answer.result, *(() if status is None else (status,)))
            )
        except LabelStudioError as error:
            log.warning("annotation %d lacks an answer that came after its submission: %s", number, error)
            return Answer(
                message=f"{begin} The answer is not in its annotation ({error}). Open it, ask again, and update it."
            )
        return Answer(
            message=f"{begin} The answer was put into its annotation; open the task again to see it."
        )

    def _answer(self, call: Call, side: FramesSide | VideoSide) -> Answer:
        try:
            if isinstance(side, FramesSide):
                answer = self._frame_calls.answer(call, side)
            else:
                answer = self._video_calls.answer(call, side)
        except Exception as error:
            return Answer(message=report_error(self._metrics, call.project_id, call.task.id, error))
        ending = "late" if answer.late else "answered" if answer.result else "empty"
        self._metrics.predictions.labels(ending).inc()
        return answer

    def _call(self, request: CallRequest, content: InteractiveRequest, task_request: TaskRequest) -> Call:
        project, task, controls = request.project, request.task, request.controls
        return Call(
            project_id=project.id,
            task=task,
            request=content,
            context=request.context,
            video=video_beside(controls, task),
            version=task_request.version.name,
            own_expression=self._own_expression(task, project),
            deadline=request.deadline,
            delivers=self._settings.push_predictions,
            propose=partial(self._propose, task_request),
            fetch=partial(self._media.load, project, task, controls),
        )

    def _propose(self, task_request: TaskRequest, text: str) -> TaskWork:
        return self._task_proposer.begin(replace(task_request, typed=text))

    def _own_expression(self, task: Task, project: Project) -> str | None:
        """The expression of the task itself; ``None`` where it has none that is usable."""
        try:
            return task_expression(task.data, project.extra_params, self._settings)
        except ExpressionError:
            return None
