"""How many jobs a second the server's one dispatcher hands out, where workers take no time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import ProposalKey
from ml_backend.jobs.proposals import Proposer
from ml_backend.metrics import Metrics
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.messages import ProposeRequest, video_of
from ml_backend.models.queue import Priority
from ml_backend.proposals import ProposalFiles
from tests.support.inline_worker import InlineWorker
from tests.support.proposal_targets import proposing


class _Instant:
    """Answers at once."""

    def __call__(self, request: Any, reporter: Any) -> None:
        reporter.progress("working", 1.0)


def dispatched_per_second(workers: int, jobs: int) -> float:
    """Jobs a second from their submission to their results.

    Args:
        workers: Workers.
        jobs: Jobs, each about a video of its own.
    """
    executor: Executor[Any, Any] = Executor(
        [InlineWorker(_Instant) for _ in range(workers)], video_of=lambda request: request, warm=True
    )
    executor.observe(Metrics().jobs)
    with contextlib.closing(executor):
        began = time.monotonic()
        for job in [executor.submit(number) for number in range(jobs)]:
            job.result()
        return jobs / (time.monotonic() - began)


def proposed_per_second(workers: int, proposals: int, folder: Path) -> float:
    """Proposals a second that are also noted as jobs, kept as files, and found by their key again.

    Args:
        workers: Workers.
        proposals: Proposals, each about a video of its own.
        folder: Where the database and the files are.
    """
    database = Database(folder / "steerseg.sqlite")
    ProjectStore(database).save(1, uid="1.1", label_config="<View/>", hostname="", extra_params={})
    metrics = Metrics()
    executor: ModelExecutor = Executor([InlineWorker(proposing) for _ in range(workers)], video_of=video_of)
    executor.observe(metrics.jobs)
    proposer = Proposer(database, ProposalFiles(folder), executor, metrics)
    with contextlib.closing(database), contextlib.closing(executor):
        began = time.monotonic()
        pending = [
            proposer.request(
                ProposalKey(f"{number:064x}", "the red car", "v1"),
                ProposeRequest(Path(f"video {number}"), "the red car", None, 1),
                owner=(1, number),
                priority=Priority.BATCH,
            )
            for number in range(proposals)
        ]
        for one in pending:
            one.future.result()
        return proposals / (time.monotonic() - began)
