"""Counters and histograms for Prometheus, in a registry of their own per server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ml_backend.background import BackgroundLoop
from ml_backend.database.tables import RefinementState
from ml_backend.models.affinity import Sighting
from ml_backend.models.job_observer import JobEnd
from ml_backend.models.messages import JOB_KINDS
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.models.workers import WorkerState, WorkerStatus

_REQUEST_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 3, 10, 30, 60, 90, 120)
_WAITING_SECONDS = (0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 180, 600, 1800, 7200)
_STAGE_SECONDS = (0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 180, 600)


class Metrics:
    """What the backend counts. Safe to share between threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "steerseg_http_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "steerseg_http_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self.predictions = Counter(
            "steerseg_predictions",
            "Tasks by how their prediction ended: answered, pushed, empty, failed, late.",
            ["outcome"],
            registry=self.registry,
        )
        self.proposals = Counter(
            "steerseg_proposals",
            "Proposals by where they came from: computed, cached, joined, failed, cancelled.",
            ["source"],
            registry=self.registry,
        )
        self.webhooks = Counter(
            "steerseg_webhook_events", "Webhook events committed.", ["action"], registry=self.registry
        )
        self.jobs = JobMetrics(self.registry)
        self._set_aside = Gauge(
            "steerseg_set_aside",
            "Events and annotations that could not be taken in, until they are taken again.",
            registry=self.registry,
        )
        self._deliveries = Gauge(
            "steerseg_deliveries_waiting",
            "Predictions that Label Studio did not take yet, or refused.",
            registry=self.registry,
        )

    def watch(
        self,
        *,
        queue_lengths: Callable[[], Mapping[Priority, int]],
        workers: Callable[[], Mapping[int, WorkerStatus]],
        refinements: Callable[[], Mapping[RefinementState, int]],
        loops: Sequence[BackgroundLoop],
        set_aside: Callable[[], int],
        deliveries: Callable[[], int],
    ) -> None:
        """Read these numbers, and the failed turns of the loops, whenever the metrics are asked for."""
        self._set_aside.set_function(set_aside)
        self._deliveries.set_function(deliveries)
        self.registry.register(_WorkCollector(queue_lengths, workers, refinements))
        self.registry.register(_LoopErrors(loops))

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class JobMetrics:
    """What the jobs of the workers come to; see :class:`~ml_backend.models.job_observer.JobObserver`.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting_seconds = Histogram(
            "steerseg_job_waiting_seconds",
            "Time that a job waits in the queue before a worker begins it.",
            ["priority"],
            buckets=_WAITING_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "steerseg_stage_seconds",
            "Time that a job spends in each stage.",
            ["kind", "stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._videos = Counter(
            "steerseg_job_videos",
            "Jobs by who had seen their video before: same_worker, other_worker, or nobody (new).",
            ["seen"],
            registry=registry,
        )
        self._ended = Counter(
            "steerseg_worker_jobs",
            "Jobs by worker and by how they left it: done, failed, cancelled, yielded, or lost with the worker.",
            ["worker", "kind", "end"],
            registry=registry,
        )
        self._busy_seconds = Counter(
            "steerseg_worker_busy_seconds", "Time that a worker has worked.", ["worker"], registry=registry
        )

    def began(self, job: ModelJob[Any, Any], worker: int, waited: float, sighting: Sighting) -> None:
        """Count what a job has waited for, and whether its video is known."""
        self._waiting_seconds.labels(job.priority.name.lower()).observe(waited)
        if sighting is not Sighting.NONE:
            self._videos.labels(sighting).inc()

    def spent(self, job: ModelJob[Any, Any], stage: str, seconds: float) -> None:
        """Count a stage."""
        self._stage_seconds.labels(_kind(job), stage).observe(seconds)

    def ended(self, job: ModelJob[Any, Any], worker: int, end: JobEnd, seconds: float) -> None:
        """Count a job and its time."""
        self._ended.labels(str(worker), _kind(job), end).inc()
        self._busy_seconds.labels(str(worker)).inc(seconds)


def _kind(job: ModelJob[Any, Any]) -> str:
    return JOB_KINDS.get(type(job.request), "other")


class _WorkCollector(Collector):
    """The queue, the workers and the refinements as they are when the metrics are asked for.

    Args:
        queue_lengths: How many jobs of each priority wait.
        workers: How the workers stand, by index.
        refinements: How many refinements are in each state.
    """

    def __init__(
        self,
        queue_lengths: Callable[[], Mapping[Priority, int]],
        workers: Callable[[], Mapping[int, WorkerStatus]],
        refinements: Callable[[], Mapping[RefinementState, int]],
    ) -> None:
        self._queue_lengths = queue_lengths
        self._workers = workers
        self._refinements = refinements

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The numbers as they are now."""
        waiting = GaugeMetricFamily(
            "steerseg_queue_length", "Requests that wait for a worker.", labels=["priority"]
        )
        for priority, number in self._queue_lengths().items():
            waiting.add_metric([priority.name.lower()], number)
        yield waiting
        state = GaugeMetricFamily(
            "steerseg_worker_state",
            "1 for the state that a worker is in: stopped, loading, ready, busy or failed.",
            labels=["worker", "device", "state"],
        )
        restarts = GaugeMetricFamily(
            "steerseg_worker_restarts", "How often a worker was replaced after it died.", labels=["worker"]
        )
        for index, worker in self._workers().items():
            for one in WorkerState:
                state.add_metric([str(index), worker.device, one], worker.state is one)
            restarts.add_metric([str(index)], worker.restarts)
        yield state
        yield restarts
        refinements = GaugeMetricFamily(
            "steerseg_refinements", "Refinements in each state.", labels=["state"]
        )
        for refinement, number in self._refinements().items():
            refinements.add_metric([refinement], number)
        yield refinements


class _LoopErrors(Collector):
    """Counts the failed turns of background loops by name.

    Args:
        loops: The loops.
    """

    def __init__(self, loops: Sequence[BackgroundLoop]) -> None:
        self._loops = loops

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts as they are now."""
        family = CounterMetricFamily(
            "steerseg_background_errors", "Turns of background loops that failed.", labels=["loop"]
        )
        for loop in self._loops:
            family.add_metric([loop.name], loop.status.errors)
        yield family
