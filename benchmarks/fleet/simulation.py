"""A day of a large team in minutes: the server's own queue, with workers that only take time.

Events happen at times of a clock that jumps from one to the next. The queue is the server's
(:class:`ml_backend.models.queue.JobQueue`), with its priorities and its preference for workers that have seen a video.
Annotators click and wait for the answer; a batch of tasks fills what capacity is left; a refinement fills the rest and
makes way within ``yield_seconds``.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ml_backend.models.affinity import Sighting, VideoAffinity
from ml_backend.models.queue import JobQueue, ModelJob, Priority

_Job = ModelJob[str, None]


@dataclass(frozen=True)
class Team:
    """What is simulated.

    Attributes:
        annotators: People who click, and think between two clicks.
        tasks: Tasks of the batch.
        workers: Workers.
        proposal_seconds: Time of a proposal; drawn evenly from half to one and a half of it.
        click_seconds: Time of a click's answer by a worker that has the video in memory.
        encode_seconds: Time that any other worker needs before it.
        think_seconds: Mean time that an annotator thinks.
        clicks: Clicks on one video before an annotator goes on to the next.
        waiting: Tasks of the batch that wait at a time, at most (``STEERSEG_MAX_QUEUE``).
        refinements: Slices of refinements that go on at a time.
        yield_seconds: Time in which a slice makes way.
        slice_seconds: Time of a slice that need not.
        patience: See :data:`ml_backend.models.queue.PATIENCE`.
        seed: Of everything that is drawn.
    """

    annotators: int = 200
    tasks: int = 1_000_000
    workers: int = 64
    proposal_seconds: float = 2.0
    click_seconds: float = 0.4
    encode_seconds: float = 3.0
    think_seconds: float = 15.0
    clicks: int = 8
    waiting: int = 1000
    refinements: int = 2
    yield_seconds: float = 0.5
    slice_seconds: float = 20.0
    patience: float = 1.0
    seed: int = 1


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        seconds: Simulated time until the batch was done.
        waits: By priority, the seconds that each job waited in the queue.
        answers: Seconds from each click to its answer.
        sightings: Of the clicks, who had seen their video before.
        busy: Part of the workers' time in which they worked.
    """

    seconds: float = 0.0
    waits: dict[Priority, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: list[float] = field(default_factory=list)
    sightings: dict[Sighting, int] = field(default_factory=lambda: defaultdict(int))
    busy: float = 0.0

    def wait(self, priority: Priority, percent: float) -> float:
        """A percentile of the waiting times of a priority."""
        return float(np.percentile(self.waits[priority] or [0.0], percent))


class Simulation:
    """One run; see the module.

    Args:
        team: What is simulated.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._rng = random.Random(team.seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._affinity = VideoAffinity()
        self._queue: JobQueue[str, None] = JobQueue(
            self._affinity, patience=team.patience, clock=lambda: self._now
        )
        self._free = dict.fromkeys(range(team.workers))
        self._slices: dict[int, _Job] = {}  # by worker, the slice that it works on
        self._ending: set[int] = set()  # numbers of slices that make way
        self._clicker: dict[int, tuple[int, int]] = {}  # by job, the annotator, and how many clicks are left
        self._videos: dict[int, str] = {}  # by annotator, the one at hand
        self._submitted = self._done = 0
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Simulate until the batch is done."""
        team = self._team
        for annotator in range(team.annotators):
            self._think(annotator, 0)
        for _ in range(team.refinements):
            self._queue.submit("refine", Priority.REFINEMENT, None)
        self._fill()
        self._assign()
        while self._done < team.tasks:
            self._now, _, event = heapq.heappop(self._events)
            event()
            self._assign()
        self._outcome.seconds = self._now
        self._outcome.busy /= self._now * team.workers
        return self._outcome

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    def _fill(self) -> None:
        """Let as many tasks of the batch wait as may."""
        waiting = self._queue.lengths[Priority.BATCH]
        for number in range(
            self._submitted, min(self._submitted + self._team.waiting - waiting, self._team.tasks)
        ):
            self._queue.submit("propose", Priority.BATCH, None, f"task {number}")
            self._submitted += 1

    def _think(self, annotator: int, left: int) -> None:
        pause = self._rng.expovariate(1 / self._team.think_seconds)
        self._at(pause, lambda: self._click(annotator, left))

    def _click(self, annotator: int, left: int) -> None:
        """An annotator clicks, on the same video as before or on the next one."""
        if not left:
            left = self._team.clicks
            self._videos[annotator] = f"video of {annotator} at {self._now}"  # which nobody has seen
        job = self._queue.submit("click", Priority.INTERACTIVE, None, self._videos[annotator])
        self._clicker[job.number] = (annotator, left - 1)

    def _assign(self) -> None:
        """Have free workers begin what waits, and refinements make way where none is free."""
        for worker in list(self._free):
            job = self._queue.take(worker, 0)
            if job is not None:
                del self._free[worker]
                self._begin(worker, job)
        urgent = self._queue.count_before(Priority.REFINEMENT)
        for worker, job in list(self._slices.items())[: max(0, urgent - len(self._free))]:
            if job.number not in self._ending:
                self._ending.add(job.number)
                self._at(self._team.yield_seconds, partial(self._end_slice, worker, job))

    def _begin(self, worker: int, job: _Job) -> None:
        sighting = self._affinity.note(worker, job.video)
        self._outcome.waits[job.priority].append(self._now - job.queued_at)
        if job.priority is Priority.REFINEMENT:
            self._slices[worker] = job
            self._at(self._team.slice_seconds, lambda: self._end_slice(worker, job))
            return
        seconds = self._team.proposal_seconds * self._rng.uniform(0.5, 1.5)
        if job.priority is Priority.INTERACTIVE:
            self._outcome.sightings[sighting] += 1
            known = sighting is Sighting.SAME_WORKER
            seconds = self._team.click_seconds + (0.0 if known else self._team.encode_seconds)
        self._outcome.busy += seconds
        self._at(seconds, lambda: self._end(worker, job))

    def _end(self, worker: int, job: _Job) -> None:
        self._free[worker] = None
        if job.priority is Priority.BATCH:
            self._done += 1
            self._fill()
            return
        self._outcome.answers.append(self._now - job.queued_at)
        self._think(*self._clicker.pop(job.number))

    def _end_slice(self, worker: int, job: _Job) -> None:
        if self._slices.get(worker) is not job:
            return  # it made way before
        del self._slices[worker]
        self._ending.discard(job.number)
        self._free[worker] = None
        self._queue.submit("refine", Priority.REFINEMENT, None)
