"""Trainings over the workers that are idle: each computes gradients for its share of a step, which is applied once.

A step's gradients are sums over its rows, so that it does not matter who computes which. The server hands out shares,
adds up what comes back, and has one worker apply it. Nothing else is known here of models or optimisers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ml_backend.models.messages import (
    ModelAnswer,
    ModelRequest,
    StepRequest,
    TrainingProgress,
    TrainingStep,
    TrainRequest,
)
from ml_backend.models.step_messages import GradientRequest, GradientShare, StepGradients, StepRow
from steerseg.errors import SteerSegError

AskAll = Callable[[Sequence[ModelRequest]], Sequence[ModelAnswer]]
"""Has each request answered by whichever worker is free; raises what any of them raises."""


class RowCosts:
    """What a row costs: as measured, or as its tokens let expect. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[tuple[bool, int], float] = {}

    def note(self, seconds: Mapping[tuple[bool, int], float]) -> None:
        """Learn how long a row of each shape took; half of what is known comes from the last time."""
        with self._lock:
            for shape, took in seconds.items():
                self._seconds[shape] = (self._seconds.get(shape, took) + took) / 2

    def of(self, rows: Sequence[StepRow]) -> list[float]:
        """The cost of each row, in a unit of their own: seconds where all shapes were measured, else tokens."""
        with self._lock:
            if all(row.shape in self._seconds for row in rows):
                return [self._seconds[row.shape] for row in rows]
        return [float(row.tokens) for row in rows]


def balanced(rows: Sequence[StepRow], costs: Sequence[float], shares: int) -> list[list[StepRow]]:
    """Split rows into shares of about the same cost, the dearest row first (Graham's rule).

    Args:
        rows: What is to be split.
        costs: The cost of each.
        shares: Most shares; where there are fewer rows, each is a share.

    Returns:
        The shares, none of them empty; each keeps the order of the rows.
    """
    members: list[list[int]] = [[] for _ in range(min(shares, len(rows)))]
    loads = [0.0] * len(members)
    for index in sorted(range(len(rows)), key=lambda index: -costs[index]):
        least = loads.index(min(loads))
        members[least].append(index)
        loads[least] += costs[index]
    return [[rows[index] for index in sorted(share)] for share in members]


@dataclass
class _GradientSum:
    """What has come back of a step, summed in float64: the order of the shares hardly matters.

    Attributes:
        step: The step, from 0.
        frame: Gradient of the frame prompt; ``None`` before the first.
        video: Gradient of the video prompt; ``None`` before the first.
        loss: The loss before the step.
    """

    step: int
    frame: NDArray[np.float64] | None = field(default=None, repr=False)
    video: NDArray[np.float64] | None = field(default=None, repr=False)
    loss: float = 0.0

    def add(self, share: GradientShare) -> None:
        self.frame = _sum(self.frame, share.frame)
        self.video = _sum(self.video, share.video)
        self.loss += share.loss

    @property
    def whole(self) -> StepGradients:
        return StepGradients(self.step, _single(self.frame), _single(self.video), self.loss)


class SharedTraining:
    """Takes a training further with several workers.

    Args:
        ask: Has requests answered.
        idle: How many workers would begin a request at once.
        costs: What rows were seen to cost.
    """

    def __init__(self, ask: AskAll, idle: Callable[[], int], costs: RowCosts) -> None:
        self._ask = ask
        self._idle = idle
        self._costs = costs

    def train(self, request: TrainRequest) -> TrainingProgress:
        """Answer a slice as one worker would: to its end, to the last step, or until one worker alone is idle.

        Raises:
            SteerSegError: A step failed; whatever was done before it is on disk.
        """
        end = time.monotonic() + request.seconds
        step = self._step(StepRequest(request, None))
        workers = 1
        while step.progress.digest is None:
            gradients, shares = self._gradients(request, step)
            workers = max(workers, shares)
            step = self._step(StepRequest(request, gradients))
            if time.monotonic() >= end or self._idle() < 2:
                break
        return replace(step.progress, workers=workers)

    def _step(self, request: StepRequest) -> TrainingStep:
        (answer,) = self._ask([request])
        if not isinstance(answer, TrainingStep):
            raise SteerSegError(f"a worker answered a step of a training with {type(answer).__name__}")
        return answer

    def _gradients(self, request: TrainRequest, step: TrainingStep) -> tuple[StepGradients, int]:
        """The gradients of a whole step, and how many workers shared it.

        What a worker gives back when it makes way is split anew, among those that are idle then.
        """
        assert step.prompts is not None
        videos = sum(row.image is None for row in step.rows)
        gradients, left, workers = _GradientSum(step.progress.step), step.rows, 1
        while left:
            shares = balanced(left, self._costs.of(left), max(1, self._idle()))
            workers = max(workers, len(shares))
            answers = self._ask(
                [
                    GradientRequest(
                        request.folder,
                        request.features,
                        step.prompts,
                        tuple(share),
                        videos,
                        len(step.rows) - videos,
                    )
                    for share in shares
                ]
            )
            left = ()
            for answer in answers:
                if not isinstance(answer, GradientShare):
                    raise SteerSegError(f"a worker answered for gradients with {type(answer).__name__}")
                gradients.add(answer)
                self._costs.note(answer.seconds)
                left += answer.left
        return gradients.whole, workers


def _sum(total: NDArray[np.float64] | None, share: NDArray[np.float32] | None) -> NDArray[np.float64] | None:
    if share is None:
        return total
    wide = share.astype(np.float64)
    return wide if total is None else total + wide


def _single(matrix: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    return None if matrix is None else matrix.astype(np.float32)
