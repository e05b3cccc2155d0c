"""Predictions that are ready after their request has ended, and their delivery to Label Studio."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ml_backend.background import BackgroundLoop
from ml_backend.database.errors import StoreError, describe_error
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.jobs.proposals import Proposer
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import (
    LabelStudioError,
    LabelStudioInvalidError,
    LabelStudioNotFoundError,
)
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaRefusedError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.label_studio.task import Task
from ml_backend.metrics import Metrics
from ml_backend.models.queue import Priority
from ml_backend.predictions.deliveries import Deliveries, Delivery, DeliveryKey, WaitingDelivery
from ml_backend.predictions.messages import Guidance, describe_absence
from ml_backend.predictions.model_versions import ModelVersion, ModelVersions
from ml_backend.predictions.results import Prediction, expression_of, predictions_of
from ml_backend.predictions.work import TaskProposer, TaskRequest, TaskWork, report_error
from ml_backend.proposals import StoredProposal
from ml_backend.settings import Settings
from steerseg.errors import Cancelled, SteerSegError

log = logging.getLogger(__name__)

_PUSHERS = 2  # late predictions that are stored in Label Studio at the same time
_INTERVAL = 30.0  # seconds between two looks at the deliveries to a Label Studio that could not be reached
_PAUSE = 5.0  # seconds until the next look after one that failed
_MEDIA_ATTEMPTS = 10  # at media that cannot be had: about six hours; Label Studio itself is tried for good
_REMEMBERED = 600.0  # seconds that a push is remembered: longer than any request waits


class TaskGoneError(SteerSegError):
    """Label Studio no longer has the task of a delivery."""


class PredictionRefusedError(SteerSegError):
    """Label Studio has the task of a delivery, and refuses its prediction."""


class Deliverer:
    """Stores late predictions in Label Studio, each once. Safe to share between threads.

    Args:
        settings: Whether predictions are pushed.
        deliveries: The open deliveries.
        task_proposer: Has the proposals of tasks made.
        proposer: What earlier processes left there is released when its delivery ends.
        versions: The versions of predictions.
        projects: The known projects.
        connections: Connections to Label Studio.
        metrics: Count predictions by how they ended.
        guidance: The preset's notes on its answers.

    Attributes:
        loop: Takes up deliveries after a restart, and after Label Studio was away.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        deliveries: Deliveries,
        task_proposer: TaskProposer,
        proposer: Proposer,
        versions: ModelVersions,
        projects: ProjectStore,
        connections: Connections,
        metrics: Metrics,
        guidance: Guidance,
    ) -> None:
        self._settings = settings
        self._deliveries = deliveries
        self._task_proposer = task_proposer
        self._proposer = proposer
        self._versions = versions
        self._projects = projects
        self._connections = connections
        self._metrics = metrics
        self._guidance = guidance
        self._pushers = ThreadPoolExecutor(_PUSHERS, thread_name_prefix="push")
        self._lock = threading.Lock()
        # Whoever removes a work from here delivers its prediction, so that none is stored twice when the task is
        # asked for again in the meantime.
        self._late: dict[DeliveryKey, TaskWork] = {}
        self._pushed: dict[DeliveryKey, float] = {}  # when, by the monotonic clock
        self._waiting = 0
        self.loop = BackgroundLoop("deliveries", self._take_up_open, pause=_PAUSE)

    @property
    def waiting(self) -> int:
        """How many deliveries had not succeeded at the last look. Does not touch the database."""
        return self._waiting

    def list_waiting(self, project_id: int) -> list[WaitingDelivery]:
        """The deliveries of a project that did not succeed, oldest first.

        Raises:
            StoreError: The database cannot be read.
        """
        return self._deliveries.waiting(project_id)

    def try_again(self, project_id: int, *, refused: bool = False) -> None:
        """Let a project's deliveries wait no longer. Returns at once.

        Args:
            project_id: The project.
            refused: Whether that includes those that Label Studio refused.

        Raises:
            StoreError: The database cannot be used.
        """
        self._deliveries.hasten(project_id, refused=refused)
        self.loop.notify()

    def close(self) -> None:
        """Store nothing more; open deliveries go on with the next start. May be repeated."""
        self.loop.close()
        self._pushers.shutdown(wait=False, cancel_futures=True)

    def deliver(self, work: TaskWork) -> None:
        """Have the prediction of a work stored in Label Studio when it is ready."""
        with self._lock:
            self._late[work.request.key] = work

        def push(_: Future[StoredProposal]) -> None:
            try:
                self._pushers.submit(self._push, work)
            except RuntimeError:  # the pool is closed
                task = work.request.task
                log.info("task %d was not ready before the server stopped; it goes on then", task.id)

        work.outcome.add_done_callback(push)

    def predict_again(self, project: Project, task: Task, version: str) -> Future[StoredProposal] | None:
        """Have a task predicted and the prediction stored, without a request for it.

        Args:
            project: The project.
            task: The task.
            version: Name of the version that is to predict it.

        Returns:
            The proposal on its way; ``None`` where the version is no longer the project's.

        Raises:
            ConfigError: The labelling configuration cannot hold proposals.
            StoreError: The database cannot be read.
        """
        current = self._versions.current(project.id)
        if current.name != version:
            return None
        delivery = Delivery(project.id, task, version)
        self._deliveries.admit([delivery], bounded=False)
        try:
            return self._begin(project, task, current).outcome
        except BaseException as error:
            self._deliveries.postpone([delivery.key], error if isinstance(error, Exception) else None)
            raise

    def promise(self, project_id: int, task: Task, typed: str) -> None:
        """Have a typed expression's prediction stored, for an annotator who did not wait for it. Returns at once.

        Args:
            project_id: The project.
            task: The task.
            typed: The expression.

        Raises:
            StoreError: The database cannot be used.
        """
        self._deliveries.promise(project_id, task, typed)
        self.loop.notify()

    def take_over(self, key: DeliveryKey, since: float) -> bool:
        """Let a request answer with a prediction that would be delivered otherwise.

        Args:
            key: The prediction.
            since: When the request began, by the monotonic clock.

        Returns:
            ``False`` where it was stored in Label Studio while the request waited: once is enough.
        """
        with self._lock:
            if self._late.pop(key, None) is not None:
                return True
            return self._pushed.get(key, float("-inf")) < since

    def settle(self, keys: Iterable[DeliveryKey], error: Exception | None = None) -> None:
        """End deliveries, unless an error that passes kept them from being made.

        Args:
            keys: The deliveries.
            error: What went wrong with them, if anything.

        Raises:
            StoreError: The database cannot be written.
        """
        if isinstance(error, Cancelled) and self.loop.closing:
            self._deliveries.postpone(keys)
        elif isinstance(error, PredictionRefusedError):
            self._deliveries.refuse(keys, error)
        elif error is not None and _passes(error):
            most = _MEDIA_ATTEMPTS if isinstance(error, MediaError) else None
            self._deliveries.postpone(keys, error, most)
        else:
            ended = set(keys)
            self._proposer.release({key[:3] for key in ended})
            self._deliveries.complete(ended)

    # --- pushing

    def _push(self, work: TaskWork) -> None:
        """Store a late prediction, unless a request has taken it over."""
        if not self._claim(work):
            return
        request, failure = work.request, None
        try:
            self._store(work)
        except Exception as error:
            failure = error
            if not self.loop.closing:
                report_error(self._metrics, request.project.id, request.task.id, error)
        try:
            self.settle([request.key], failure)
        except StoreError as error:
            self._deliveries.postpone([request.key])
            log.error("task %d: the end of its delivery could not be noted: %s", request.task.id, error)

    def _claim(self, work: TaskWork) -> bool:
        """Claim the delivery of a work, and note it as pushed for requests that wait for the same prediction."""
        key, now = work.request.key, time.monotonic()
        with self._lock:
            if self._late.get(key) is not work:
                return False
            self._pushed = {known: at for known, at in self._pushed.items() if now - at <= _REMEMBERED}
            self._pushed[key] = now
            del self._late[key]
            return True

    def _store(self, work: TaskWork) -> None:
        """Store a task's predictions; those that an interrupted attempt has stored are there already.

        Raises:
            SteerSegError: There are none, or Label Studio does not take them.
        """
        task, version = work.request.task, work.request.version.name
        proposal = work.outcome.result()
        assert work.media is not None
        predictions = predictions_of(proposal, task, work.media, version, self._guidance)
        client = self._connections.client(work.request.project)
        if not predictions:
            log.info("task %d: %s", task.id, describe_absence(proposal, self._guidance))
            self._metrics.predictions.labels("empty").inc()
            return
        if not self._settings.push_predictions:
            log.info("task %d is ready and waits until it is asked for again", task.id)
            return
        if client is None:
            raise LabelStudioError(_NO_TOKEN)
        try:
            self._send(client, task, version, predictions)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelStudioError(
                f"the answer of {client.url} makes no sense: {describe_error(error)}"
            ) from error

    def _send(
        self, client: LabelStudioClient, task: Task, version: str, predictions: Sequence[Prediction]
    ) -> None:
        # They are stored in one order always, the best one last, so that their number says which are missing.
        expression = expression_of(predictions[-1].result)
        stored = sum(
            prediction.get("model_version") == version
            and expression_of(prediction.get("result") or ()) == expression
            for prediction in client.predictions.of_task(task.id)
        )
        if stored >= len(predictions):
            log.info("task %d has its predictions of “%s” by %s already", task.id, expression, version)
            return
        for prediction in predictions[stored:]:
            try:
                client.predictions.create(
                    task.id,
                    list(prediction.result),
                    score=prediction.score,
                    model_version=prediction.model_version,
                )
            except (LabelStudioInvalidError, LabelStudioNotFoundError) as error:
                _check_task(client, task, error)
                raise
        self._metrics.predictions.labels("pushed").inc()
        log.info("task %d: %d late predictions pushed", task.id, len(predictions) - stored)

    # --- deliveries of earlier processes, and to a Label Studio that was away

    def _take_up_open(self) -> float:
        """Take up the open deliveries that nobody works on; return the seconds until the next look."""
        for delivery in self._deliveries.unclaimed(due=True):
            if self.loop.closing:
                break
            self._take_up(delivery)
        self._waiting = len(self._deliveries.waiting())
        return _INTERVAL

    def _take_up(self, delivery: Delivery) -> None:
        """Go on with a prediction that an earlier attempt, or an earlier process, was asked for.

        Raises:
            StoreError: The database cannot be used.
        """
        project = self._projects.find(delivery.project_id)
        if project is None:
            self._drop(delivery)
            return
        version = self._versions.current(project.id)
        if version.name != delivery.version:
            # A promotion may have come in between: what counts is the version that /setup names now.
            current = replace(delivery, version=version.name)
            self._deliveries.admit([current], bounded=False)
            self._drop(delivery)
            delivery = current
        elif not self._deliveries.claim(delivery):
            return
        try:
            # The token lives in memory only; the next /setup brings it again.
            if self._settings.push_predictions and self._connections.client(project) is None:
                raise LabelStudioError(_NO_TOKEN)
            self._begin(project, delivery.task, version, delivery.typed)
        except SteerSegError as error:
            log.warning("task %d is not taken up: %s", delivery.task.id, error)
            self._deliveries.postpone([delivery.key], error)

    def _begin(self, project: Project, task: Task, version: ModelVersion, typed: str = "") -> TaskWork:
        controls = parse_controls(project.label_config)
        request = TaskRequest(project, task, controls, version, Priority.BATCH, typed or None)
        work = self._task_proposer.begin(request)
        self.deliver(work)
        return work

    def _drop(self, delivery: Delivery) -> None:
        if self._deliveries.claim(delivery):
            self.settle([delivery.key])


_NO_TOKEN = (
    "no token for its Label Studio is known; open the project in Label Studio, or set STEERSEG_LABEL_STUDIO_URL and "
    "STEERSEG_LABEL_STUDIO_API_KEY"
)


def _passes(error: Exception) -> bool:
    """Whether what kept a prediction from being made or stored may be otherwise at the next attempt."""
    if isinstance(error, MediaUnavailableError):
        return error.status not in (404, 410)
    if isinstance(error, MediaError):
        return not isinstance(error, MediaRefusedError | MediaTooLargeError)
    return isinstance(error, LabelStudioError | StoreError)


def _check_task(client: LabelStudioClient, task: Task, error: LabelStudioError) -> None:
    """Look whether a refusal is about this very task.

    Raises:
        TaskGoneError: Label Studio no longer has the task.
        PredictionRefusedError: It has, and takes no such prediction.
        LabelStudioError: It cannot be asked.
    """
    try:
        known = client.tasks.get(task.id)
    except LabelStudioNotFoundError:
        raise TaskGoneError(f"task {task.id} was deleted in Label Studio") from error
    if isinstance(error, LabelStudioInvalidError) and known.get("id") == task.id:
        raise PredictionRefusedError(str(error)) from error
