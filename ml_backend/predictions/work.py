"""Tasks on their way to a proposal: media fetched, expression read, the proposal asked for."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ml_backend.database.projects import Project
from ml_backend.database.tables import ProposalKey
from ml_backend.jobs.proposals import PendingProposal, Proposer
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.language.expressions import task_expression
from ml_backend.metrics import Metrics
from ml_backend.models.messages import ProposeRequest
from ml_backend.models.queue import Priority
from ml_backend.predictions.deliveries import DeliveryKey
from ml_backend.predictions.media import PredictionMedia
from ml_backend.predictions.model_versions import ModelVersion
from ml_backend.predictions.tasks import TaskStore
from ml_backend.proposals import StoredProposal
from ml_backend.settings import Settings
from steerseg.errors import Cancelled, NoLanguageModelError, SteerSegError, VideoError
from steerseg.reasoning import check_expression
from steerseg.words.counting import alternatives_for

log = logging.getLogger(__name__)

NOT_READ = "this server has no language model: click the object, or draw a box around it"
"""The answer to a typed expression, where the preset has no language model."""

NOT_PREDICTED = (
    "predictions by text take a language model, and this server has none; open the task, and click the object or draw "
    "a box around it"
)
"""The answer to a batch there."""

_PREPARERS = 4  # tasks whose media are fetched at the same time, for batches and for interactive calls each


@dataclass(frozen=True)
class TaskRequest:
    """A request for the proposal of one task.

    Attributes:
        project: The project.
        task: The task.
        controls: The controls that hold proposals.
        version: The version of the project's predictions.
        priority: How urgent it is.
        typed: The expression that an annotator typed; ``None`` for the task's own.
    """

    project: Project
    task: Task
    controls: Controls
    version: ModelVersion
    priority: Priority
    typed: str | None = None

    @property
    def key(self) -> DeliveryKey:
        """Identifies the prediction that follows from it."""
        return DeliveryKey(self.project.id, self.task.id, self.version.name, self.typed or "")


@dataclass
class TaskWork:
    """The work on a request.

    Attributes:
        request: The request.
        expression: What to track; empty until it was read.
        media: The task's media; ``None`` until they were fetched.
        pending: The proposal on its way; ``None`` until it was asked for.
        outcome: Where the proposal or its error arrives.
    """

    request: TaskRequest
    expression: str = ""
    media: Media | None = None
    pending: PendingProposal | None = None
    outcome: Future[StoredProposal] = field(default_factory=Future)

    @property
    def progress(self) -> str:
        """Its progress, for an annotator who waits."""
        return "fetching the video" if self.pending is None else self.pending.progress


class TaskProposer:
    """Has the proposals of tasks made, in the background. Safe to share between threads.

    Args:
        settings: The default expression, and how many alternatives a proposal has.
        media: What fetches the media of tasks.
        tasks: Where the data of predicted tasks is kept.
        proposer: What has proposals made.
        reads_expressions: Whether there is a language model; without one, every request is refused.
    """

    def __init__(
        self,
        settings: Settings,
        media: PredictionMedia,
        tasks: TaskStore,
        proposer: Proposer,
        *,
        reads_expressions: bool = True,
    ) -> None:
        self._settings = settings
        self._media = media
        self._tasks = tasks
        self._proposer = proposer
        self._reads_expressions = reads_expressions
        self._preparers = {
            priority: ThreadPoolExecutor(_PREPARERS, thread_name_prefix=f"prepare-{priority.name.lower()}")
            for priority in (Priority.BATCH, Priority.INTERACTIVE)
        }

    def begin(self, request: TaskRequest) -> TaskWork:
        """Have a task's media fetched and its proposal made, without waiting for either."""
        work = TaskWork(request)
        if self._reads_expressions:
            self._submit(work, again=False)
        else:
            refusal = NOT_PREDICTED if request.typed is None else NOT_READ
            work.outcome.set_exception(NoLanguageModelError(refusal))
        return work

    def close(self) -> None:
        """Begin no further work."""
        for pool in self._preparers.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: TaskWork, *, again: bool) -> None:
        try:
            # In this thread's context, so that the request's id goes along.
            run = copy_context().run
            self._preparers[work.request.priority].submit(run, self._prepare, work, again=again)
        except RuntimeError:  # the pool is closed
            work.outcome.set_exception(Cancelled("the server is stopping; try again when it is back"))

    def _prepare(self, work: TaskWork, *, again: bool) -> None:
        try:
            pending = self._ask(work)
        except Exception as error:
            work.outcome.set_exception(error)
            return
        work.pending = pending
        assert work.media is not None
        file = None if again or not work.media.path.exists() else work.media.path
        pending.future.add_done_callback(partial(self._end, work, file))

    def _ask(self, work: TaskWork) -> PendingProposal:
        request, task, project = work.request, work.request.task, work.request.project
        work.expression = self._expression(request)
        media = work.media = self._media.load(project, task, request.controls)
        self._tasks.note(project.id, task.id, task.data)
        return self._proposer.request(
            ProposalKey(media.digest, work.expression, request.version.name),
            ProposeRequest(
                media=media.path,
                expression=work.expression,
                fps=media.fps,
                alternatives=alternatives_for(work.expression, self._settings.alternatives),
                soft_prompts=request.version.soft_prompts,
                both_ways=self._settings.check_both_ways and request.typed is None,  # nobody waits for it
            ),
            owner=(project.id, task.id),
            priority=request.priority,
        )

    def _expression(self, request: TaskRequest) -> str:
        if request.typed is not None:
            return check_expression(request.typed)
        return task_expression(request.task.data, request.project.extra_params, self._settings)

    def _end(self, work: TaskWork, file: Path | None, future: Future[StoredProposal]) -> None:
        error = future.exception()
        # Of many large videos, the cache drops those first that have waited longest.
        if isinstance(error, VideoError) and file is not None and not file.exists():
            log.info("task %d: its media are fetched again", work.request.task.id)
            self._submit(work, again=True)
        elif error is None:
            work.outcome.set_result(future.result())
        else:
            work.outcome.set_exception(error)


def report_error(metrics: Metrics, project_id: int, task_id: int, error: Exception) -> str:
    """Log and count an error of one task; return the text for a person."""
    metrics.predictions.labels("failed").inc()
    if isinstance(error, SteerSegError):
        log.warning("project %d, task %d: %s: %s", project_id, task_id, type(error).__name__, error)
        return str(error)
    log.error("project %d, task %d: unexpected error", project_id, task_id, exc_info=error)
    return f"unexpected {type(error).__name__}; the server's log has the details"
