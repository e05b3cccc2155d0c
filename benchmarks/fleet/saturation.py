"""How many jobs a second the server's one dispatcher hands out, where workers take no time."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from ml_backend.database.address import Address
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import ProposalKey
from ml_backend.jobs.proposals import Proposer
from ml_backend.metrics import Metrics
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.messages import ProposeRequest, video_of
from ml_backend.models.queue import Priority
from ml_backend.models.reporter import SilentReporter
from ml_backend.proposals import ProposalFiles
from tests.support.inline_worker import InlineWorker
from tests.support.proposal_targets import propose


@dataclass(frozen=True)
class Rate:
    """How quickly jobs went through.

    Attributes:
        per_second: Jobs a second, on this machine with whatever else it did.
        cpu_ms: Milliseconds of a core that one took; no second core helps, since Python's threads take turns.
    """

    per_second: float
    cpu_ms: float


class _Instant:
    """Answers at once."""

    def __init__(self, answer: Any = None) -> None:
        self._answer = answer

    def __call__(self, request: Any, reporter: Any) -> Any:
        for stage in ("grounding", "tracking"):
            reporter.progress(stage, 1.0)
        return self._answer


def dispatched(workers: int, jobs: int) -> Rate:
    """Jobs from their submission to their results, each about a video of its own.

    Args:
        workers: Workers.
        jobs: Jobs.
    """
    executor: Executor[Any, Any] = Executor(
        [InlineWorker(_Instant) for _ in range(workers)], video_of=lambda request: request, warm=True
    )
    executor.observe(Metrics().jobs)
    with contextlib.closing(executor), _Clock(jobs) as clock:
        for job in [executor.submit(number) for number in range(jobs)]:
            job.result()
    return clock.rate


def proposed(workers: int, proposals: int, folder: Path, address: Address) -> Rate:
    """Proposals that are also noted as jobs, kept as files, and found by their key again.

    Args:
        workers: Workers.
        proposals: Proposals, each about a video of its own.
        folder: Where the files are.
        address: The database.
    """
    database = Database(address)
    ProjectStore(database).save(1, uid="1.1", label_config="<View/>", hostname="", extra_params={})
    metrics = Metrics()
    answer = propose(_request(0), SilentReporter())
    executor: ModelExecutor = Executor(
        [InlineWorker(partial(_Instant, answer)) for _ in range(workers)], video_of=video_of
    )
    executor.observe(metrics.jobs)
    proposer = Proposer(database, ProposalFiles(folder), executor, metrics)
    with contextlib.closing(database), contextlib.closing(executor), _Clock(proposals) as clock:
        pending = [
            proposer.request(
                ProposalKey(f"{number:064x}", "the red car", "v1"),
                _request(number),
                owner=(1, number),
                priority=Priority.BATCH,
            )
            for number in range(proposals)
        ]
        for one in pending:
            one.future.result()
    return clock.rate


def _request(number: int) -> ProposeRequest:
    return ProposeRequest(Path(f"video {number}"), "the red car", None, 1)


class _Clock:
    """Measures what is done inside.

    Args:
        count: How many jobs that are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.rate = Rate(0.0, 0.0)

    def __enter__(self) -> Self:
        self._began = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, cpu = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        self.rate = Rate(self._count / seconds, 1000 * cpu / self._count)
