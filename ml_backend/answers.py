"""What the service says of itself and its projects, with the JSON that clients get of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml_backend.background import LoopStatus
from ml_backend.corrections.records import CorrectionCounts, SetAsideCorrection
from ml_backend.database.projects import Project
from ml_backend.database.tables import JobState
from ml_backend.jobs.listing import ListedJob
from ml_backend.models.activity import WINDOW, WorkerActivity
from ml_backend.models.fleet.fleet import FleetStatus
from ml_backend.models.workers import WorkerState, WorkerStatus
from ml_backend.refinement.store import Refinement


@dataclass(frozen=True)
class Health:
    """How the server, its model processes and its background loops stand.

    Attributes:
        model_version: Version of predictions by the preset's own soft prompts.
        workers: The model processes.
        queued: How many requests wait for a model.
        loops: The background loops that were begun.
        set_aside: How many events and annotations could not be taken in.
        cluster: The cluster whose hosts work too; ``None`` for this machine alone.
        database: ``sqlite`` or ``postgresql``.
        database_problem: Why the database cannot be used at present; empty where it can.
    """

    model_version: str
    workers: tuple[WorkerStatus, ...]
    queued: int
    loops: tuple[LoopStatus, ...]
    set_aside: int = 0
    cluster: FleetStatus | None = None
    database: str = "sqlite"
    database_problem: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not go on as it should, for a person."""
        found = (
            self.database_problem,
            *(loop.problem for loop in self.loops),
            "" if self.cluster is None else self.cluster.problem,
        )
        return tuple(problem for problem in found if problem)

    @property
    def ready(self) -> bool:
        """Whether a model process has loaded its models."""
        return any(worker.state in (WorkerState.READY, WorkerState.BUSY) for worker in self.workers)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": "DEGRADED" if self.problems else "UP",
            "model_class": "SteerSeg",
            "model_version": self.model_version,
            "workers": [
                {
                    "state": str(worker.state),
                    "device": worker.device,
                    "restarts": worker.restarts,
                    "error": worker.error,
                    **({"host": worker.host} if worker.host else {}),
                    **({"switched_off": worker.switched_off} if worker.switched_off else {}),
                }
                for worker in self.workers
            ],
            **({} if self.cluster is None else {"cluster": _cluster_json(self.cluster)}),
            "ready": self.ready,
            "queued": self.queued,
            "loops": [loop.to_json() for loop in self.loops],
            "problems": list(self.problems),
            "set_aside": self.set_aside,
            "database": self.database,
        }


@dataclass(frozen=True)
class FleetReport:
    """The workers of this machine and of a cluster.

    Attributes:
        workers: Each with its work.
        waiting: How many jobs of each priority wait.
        cluster: The cluster; ``None`` for this machine alone.
    """

    workers: tuple[WorkerActivity, ...]
    waiting: Mapping[str, int]
    cluster: FleetStatus | None

    @property
    def per_minute(self) -> float:
        """Jobs that all workers have answered a minute, over the last ten minutes."""
        return 60 * sum(worker.done for worker in self.workers) / WINDOW

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cluster": None if self.cluster is None else _cluster_json(self.cluster),
            "waiting": dict(self.waiting),
            "per_minute": round(self.per_minute, 2),
            "workers": [
                {
                    "worker": one.index,
                    "host": one.status.host,
                    "device": one.status.device,
                    "state": str(one.status.state),
                    "error": one.status.error,
                    "restarts": one.status.restarts,
                    "job": None if one.job is None else asdict(one.job),
                    "done": one.done,
                    "busy": round(one.busy, 3),
                }
                for one in self.workers
            ],
        }


def _cluster_json(cluster: FleetStatus) -> dict[str, Any]:
    return {
        "address": cluster.address,
        "state": str(cluster.state),
        "reason": cluster.reason,
        "nodes": [asdict(node) for node in cluster.nodes],
    }


@dataclass(frozen=True)
class Versions:
    """The versions of a project's predictions.

    Attributes:
        names: All of them, newest last.
        current: The one in use.
    """

    names: tuple[str, ...]
    current: str

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"versions": list(self.names), "current": self.current}


@dataclass(frozen=True)
class ProjectSummary:
    """A project on the start page.

    Attributes:
        project: The project.
        corrections: How its corrections stand.
        version: Name of the version of its predictions.
    """

    project: Project
    corrections: CorrectionCounts
    version: str


@dataclass(frozen=True)
class Overview:
    """The start page.

    Attributes:
        version: Version of predictions by the preset's own soft prompts.
        workers: The model processes.
        job_counts: How many jobs are in each state.
        proposals: How many proposals are stored.
        events: How many events Label Studio has sent.
        projects: The known projects.
        set_aside: The newest corrections that cannot be used.
        refinements: The newest refinements of all projects, newest first.
        jobs: What runs, and then the newest jobs.
    """

    version: str
    workers: tuple[WorkerStatus, ...]
    job_counts: Mapping[JobState, int]
    proposals: int
    events: int
    projects: tuple[ProjectSummary, ...]
    set_aside: tuple[SetAsideCorrection, ...]
    refinements: tuple[Refinement, ...]
    jobs: tuple[ListedJob, ...]
