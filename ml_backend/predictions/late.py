"""Predictions that are ready after their request has ended, and their delivery to Label Studio."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from ml_backend.background import BackgroundLoop
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.jobs.proposals import Proposer
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioUnreachableError
from ml_backend.label_studio.task import Task
from ml_backend.metrics import Metrics
from ml_backend.models.queue import Priority
from ml_backend.predictions.deliveries import Deliveries, Delivery, DeliveryKey
from ml_backend.predictions.messages import Guidance
from ml_backend.predictions.model_versions import ModelVersion, ModelVersions
from ml_backend.predictions.results import predictions_of
from ml_backend.predictions.work import TaskProposer, TaskRequest, TaskWork, report_error
from ml_backend.proposals import StoredProposal
from ml_backend.settings import Settings
from steerseg.errors import Cancelled, ConfigError

log = logging.getLogger(__name__)

_PUSHERS = 2  # late predictions that are stored in Label Studio at the same time
_INTERVAL = 30.0  # seconds between two looks at the deliveries to a Label Studio that could not be reached
_PAUSE = 5.0  # seconds until the next look after one that failed
_REMEMBERED = 600.0  # seconds that a push is remembered: longer than any request waits


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
        self.loop = BackgroundLoop("deliveries", self._take_up_open, pause=_PAUSE)

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
        return self._begin(project, task, current).outcome

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
        passes = isinstance(error, LabelStudioUnreachableError | StoreError)
        if passes or (isinstance(error, Cancelled) and self.loop.closing):
            self._deliveries.postpone(keys)
            return
        ended = set(keys)
        self._proposer.release(ended)
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
            log.info("task %d: nothing in the video matches %r", task.id, work.expression)
            self._metrics.predictions.labels("empty").inc()
            return
        if client is None or not self._settings.push_predictions:
            log.info("task %d is ready and waits until Label Studio asks again", task.id)
            return
        # They are stored in one order always, the best one last, so that their number says which are missing.
        known = client.predictions.of_task(task.id)
        stored = sum(prediction.get("model_version") == version for prediction in known)
        if stored >= len(predictions):
            log.info("task %d has its predictions of %s already", task.id, version)
            return
        for prediction in predictions[stored:]:
            client.predictions.create(
                task.id,
                list(prediction.result),
                score=prediction.score,
                model_version=prediction.model_version,
            )
        self._metrics.predictions.labels("pushed").inc()
        log.info("task %d: %d late predictions pushed", task.id, len(predictions) - stored)

    # --- deliveries of earlier processes, and to a Label Studio that was away

    def _take_up_open(self) -> float:
        """Take up the open deliveries that nobody works on; return the seconds until the next look."""
        for delivery in self._deliveries.unclaimed():
            if self.loop.closing:
                break
            try:
                self._take_up(delivery)
            except (ConfigError, LabelStudioError) as error:
                log.warning("task %d is not taken up: %s", delivery.task.id, error)
        return _INTERVAL

    def _take_up(self, delivery: Delivery) -> None:
        """Go on with a prediction that an earlier process was asked for.

        Raises:
            LabelStudioError: The address or the token of Label Studio cannot be one.
            StoreError: The database cannot be used.
        """
        project = self._projects.find(delivery.project_id)
        if project is None:
            self._drop(delivery)
            return
        if self._connections.client(project) is None and self._settings.push_predictions:
            return  # the token lives in memory only: the next /setup brings it again
        version = self._versions.current(project.id)
        if version.name != delivery.version:
            # A promotion came in between: what counts is the version that /setup names now.
            self._drop(delivery)
            delivery = Delivery(project.id, delivery.task, version.name)
            self._deliveries.admit([delivery], bounded=False)
        elif not self._deliveries.claim(delivery):
            return
        try:
            self._begin(project, delivery.task, version)
        except ConfigError as error:
            log.warning("task %d is given up: %s", delivery.task.id, error)
            self.settle([delivery.key])

    def _begin(self, project: Project, task: Task, version: ModelVersion) -> TaskWork:
        controls = parse_controls(project.label_config)
        work = self._task_proposer.begin(TaskRequest(project, task, controls, version, Priority.BATCH))
        self.deliver(work)
        return work

    def _drop(self, delivery: Delivery) -> None:
        if self._deliveries.claim(delivery):
            self.settle([delivery.key])
