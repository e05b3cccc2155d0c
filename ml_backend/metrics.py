"""Counters and histograms for Prometheus, in a registry of their own per server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ml_backend.background import BackgroundLoop

_REQUEST_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 3, 10, 30, 60, 90, 120)
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
        self.stage_seconds = Histogram(
            "steerseg_stage_seconds",
            "Time that a proposal spends in each stage.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._queue = Gauge(
            "steerseg_queue_length", "Requests that wait for a model.", registry=self.registry
        )
        self._restarts = Gauge(
            "steerseg_worker_restarts", "Model processes replaced after they died.", registry=self.registry
        )

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
        queue_length: Callable[[], int],
        restarts: Callable[[], int],
        loops: Sequence[BackgroundLoop],
        set_aside: Callable[[], int],
        deliveries: Callable[[], int],
    ) -> None:
        """Read these numbers, and the failed turns of the loops, whenever the metrics are asked for."""
        self._set_aside.set_function(set_aside)
        self._deliveries.set_function(deliveries)
        self._queue.set_function(queue_length)
        self._restarts.set_function(restarts)
        self.registry.register(_LoopErrors(loops))

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


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


class StageClock:
    """Times the stages of one proposal by the moments when its progress changes its name."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stage: str | None = None
        self._since = 0.0

    def enter(self, stage: str | None) -> None:
        """Note that ``stage`` goes on; ``None`` at the end."""
        if stage == self._stage:
            return
        now = time.monotonic()
        if self._stage is not None:
            self._metrics.stage_seconds.labels(self._stage).observe(now - self._since)
        self._stage, self._since = stage, now
