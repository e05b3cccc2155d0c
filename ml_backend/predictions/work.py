"""One task on its way to a proposal, and the prompts that steer it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from ml_backend.jobs.proposals import PendingProposal
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.models.messages import SoftPromptsRef
from ml_backend.proposals import StoredProposal

PREPARERS = 4  # tasks whose media are fetched at the same time, for batches and for interactive calls each


@dataclass
class Work:
    """One task on its way to a proposal."""

    task: Task
    expression: str = ""
    wish: PendingProposal | None = None
    media: Media | None = None
    outcome: Future[StoredProposal] = field(default_factory=Future)

    @property
    def progress(self) -> str:
        return "fetching the video" if self.wish is None else self.wish.progress


@dataclass(frozen=True)
class Steering:
    """What steers a project's predictions. Read once for each request: a promotion meanwhile is for the next.

    Attributes:
        version: Name of the version, as Label Studio knows it.
        prompts: The champion's soft prompts; ``None`` for the preset's own.
    """

    version: str
    prompts: SoftPromptsRef | None


def pass_on(future: Future[StoredProposal], outcome: Future[StoredProposal]) -> None:
    error = future.exception()
    if error is None:
        outcome.set_result(future.result())
    else:
        outcome.set_exception(error)
