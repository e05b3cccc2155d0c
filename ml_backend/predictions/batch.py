"""A batch of tasks: one outcome for each, folded into one answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ml_backend.database.projects import Project
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.task import Task
from ml_backend.metrics import Metrics
from ml_backend.models.queue import Priority
from ml_backend.predictions.deliveries import Deliveries, Delivery
from ml_backend.predictions.late import Deliverer
from ml_backend.predictions.messages import Guidance, describe_absence
from ml_backend.predictions.model_versions import ModelVersion, ModelVersions
from ml_backend.predictions.results import Prediction, predictions_of
from ml_backend.predictions.work import TaskProposer, TaskRequest, TaskWork, report_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchRequest:
    """A batch to be predicted.

    Attributes:
        project: The project.
        controls: The controls that hold proposals.
        tasks: The tasks, in order.
        deadline: When an answer is due, by the monotonic clock.
        deliver_late: Whether predictions that are ready later are stored in Label Studio.
    """

    project: Project
    controls: Controls
    tasks: tuple[Task, ...]
    deadline: float
    deliver_late: bool


class Ending(StrEnum):
    """How a task of a batch ended, by the names of the metrics."""

    ANSWERED = "answered"
    EMPTY = "empty"
    FAILED = "failed"
    PUSHED = "pushed"  # stored in Label Studio while the request waited
    LATE = "late"  # not ready in time


@dataclass(frozen=True)
class TaskOutcome:
    """How one task of a batch ended.

    Attributes:
        work: The work on the task.
        ending: How it ended.
        predictions: The best one last.
        error: What went wrong, if anything.
        message: The same for a person, or why there is no prediction.
        presence: How likely the expression is of anything in the video, in [0, 1]; ``None`` where nobody judged.
        refused: Whether there is no prediction since that is so unlikely.
    """

    work: TaskWork
    ending: Ending
    predictions: tuple[Prediction, ...] = ()
    error: Exception | None = None
    message: str | None = None
    presence: float | None = None
    refused: bool = False


@dataclass(frozen=True)
class BatchAnswer:
    """The answer to a batch.

    Attributes:
        results: The predictions of each task, in order, the best one last.
        model_version: The version that made them.
        errors: Why a task has no prediction, by its number.
        pending: Numbers of the tasks that are still being worked on.
        presence: How likely the expression is of anything in the video, in [0, 1], by number of the judged tasks.
        not_there: Numbers of the tasks without a prediction since that is so unlikely.
    """

    results: tuple[tuple[Prediction, ...], ...] = field(repr=False)
    model_version: str
    errors: dict[int, str]
    pending: tuple[int, ...]
    presence: dict[int, float] = field(default_factory=dict)
    not_there: tuple[int, ...] = ()

    @classmethod
    def of(cls, outcomes: Sequence[TaskOutcome], version: str) -> BatchAnswer:
        """The answer that these outcomes make together."""
        return cls(
            results=tuple(outcome.predictions for outcome in outcomes),
            model_version=version,
            errors={
                outcome.work.request.task.id: outcome.message
                for outcome in outcomes
                if outcome.message is not None
            },
            pending=tuple(
                outcome.work.request.task.id for outcome in outcomes if outcome.ending is Ending.LATE
            ),
            presence={
                outcome.work.request.task.id: outcome.presence
                for outcome in outcomes
                if outcome.presence is not None
            },
            not_there=tuple(outcome.work.request.task.id for outcome in outcomes if outcome.refused),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: an item of ``results`` is a prediction, or a list of them, or an empty list.

        An empty list makes Label Studio store nothing and ask again later. It passes over all but ``results``.
        """
        items = [[prediction.to_json() for prediction in predictions] for predictions in self.results]
        return {
            "results": [item[0] if len(item) == 1 else item for item in items],
            "model_version": self.model_version,
            "errors": {str(task_id): message for task_id, message in self.errors.items()},
            "pending": list(self.pending),
            "presence": {str(task_id): round(value, 4) for task_id, value in self.presence.items()},
            "not_there": list(self.not_there),
        }


class BatchPredictor:
    """Predicts batches of tasks. Safe to share between threads.

    Args:
        task_proposer: Has the proposals of tasks made.
        deliveries: The open deliveries.
        deliverer: Stores late predictions.
        versions: The versions of predictions.
        metrics: Count predictions by how they ended.
        guidance: The preset's notes on its answers.
    """

    def __init__(
        self,
        *,
        task_proposer: TaskProposer,
        deliveries: Deliveries,
        deliverer: Deliverer,
        versions: ModelVersions,
        metrics: Metrics,
        guidance: Guidance,
    ) -> None:
        self._task_proposer = task_proposer
        self._deliveries = deliveries
        self._deliverer = deliverer
        self._versions = versions
        self._metrics = metrics
        self._guidance = guidance

    def answer(self, request: BatchRequest) -> BatchAnswer:
        """Predict a batch; tasks that are not ready in time are delivered late, where the request wants that.

        Raises:
            QueueFullError: Too many tasks wait for their predictions.
            StoreError: The database cannot be used.
        """
        version = self._versions.current(request.project.id)
        if not request.deliver_late:
            return self._answer(request, version)
        deliveries = [Delivery(request.project.id, task, version.name) for task in request.tasks]
        self._deliveries.admit(deliveries)
        try:
            return self._answer(request, version)
        except BaseException:
            self._deliveries.postpone(delivery.key for delivery in deliveries)
            raise

    def _answer(self, request: BatchRequest, version: ModelVersion) -> BatchAnswer:
        begun = time.monotonic()
        works = [
            self._task_proposer.begin(
                TaskRequest(request.project, task, request.controls, version, Priority.BATCH)
            )
            for task in request.tasks
        ]
        outcomes = [TaskOutcome(work, Ending.LATE) for work in works]
        for index in _ready_in_time(works, request.deadline):
            outcomes[index] = self._conclude(works[index], begun)
        self._settle(outcomes, deliver_late=request.deliver_late)
        return BatchAnswer.of(outcomes, version.name)

    def _conclude(self, work: TaskWork, begun: float) -> TaskOutcome:
        """The outcome of a work that is done."""
        outcome = self._read(work)
        if self._deliverer.take_over(work.request.key, begun):
            return outcome
        return TaskOutcome(
            work, Ending.PUSHED, message=outcome.message if outcome.ending is Ending.FAILED else None
        )

    def _read(self, work: TaskWork) -> TaskOutcome:
        request = work.request
        try:
            proposal = work.outcome.result()
            assert work.media is not None
            predictions = predictions_of(
                proposal, request.task, work.media, request.version.name, self._guidance
            )
        except Exception as error:
            message = report_error(self._metrics, request.project.id, request.task.id, error)
            return TaskOutcome(work, Ending.FAILED, error=error, message=message)
        if predictions:
            return TaskOutcome(work, Ending.ANSWERED, predictions, presence=proposal.presence)
        return TaskOutcome(
            work,
            Ending.EMPTY,
            message=describe_absence(proposal, self._guidance),
            presence=proposal.presence,
            refused=proposal.refused,
        )

    def _settle(self, outcomes: Sequence[TaskOutcome], *, deliver_late: bool) -> None:
        """Count the outcomes, have late predictions delivered, and end the deliveries of all others."""
        late = [outcome for outcome in outcomes if outcome.ending is Ending.LATE]
        if late:
            ready = len(outcomes) - len(late)
            log.info("/predict: %d of %d tasks within the time limit", ready, len(outcomes))
        for outcome in late if deliver_late else ():
            self._metrics.predictions.labels(outcome.ending).inc()
            self._deliverer.deliver(outcome.work)
        for outcome in outcomes:
            if outcome.ending in (Ending.ANSWERED, Ending.EMPTY):
                self._metrics.predictions.labels(outcome.ending).inc()
        # A push may still fail: it ends its delivery itself.
        done = [outcome for outcome in outcomes if outcome.ending not in (Ending.LATE, Ending.PUSHED)]
        self._deliverer.settle(outcome.work.request.key for outcome in done if outcome.error is None)
        for outcome in done:
            if outcome.error is not None:
                self._deliverer.settle([outcome.work.request.key], outcome.error)


def _ready_in_time(works: Sequence[TaskWork], deadline: float) -> Iterator[int]:
    """Indices of works as they are done; ends at the deadline, also where the caller took the time."""
    index_of = {work.outcome: index for index, work in enumerate(works)}
    try:
        for done in as_completed(index_of, timeout=max(0.0, deadline - time.monotonic())):
            yield index_of[done]
            if time.monotonic() > deadline:
                return
    except TimeoutError:
        return
