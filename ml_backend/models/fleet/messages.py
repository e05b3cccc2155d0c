"""What the server, the link and the actors of a cluster say to each other: plain data, readable without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.models.messages import ErrorDetails, ModelRequest

# --- media and soft prompts, by digest


@dataclass(frozen=True)
class MediaPart:
    """One file of a video: the file itself, or a frame in a folder of frames.

    Attributes:
        name: Its name in the folder; empty for a video file.
        digest: SHA-256 of its content, as 64 hexadecimal digits.
        size: Its bytes.
    """

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class MediaSource:
    """Where a host gets media that it does not have yet.

    Attributes:
        location: A folder that every host sees, a bucket such as ``s3://videos/cache``, or the address of the server.
        token: What the server asks for; of no use elsewhere.
        cache: Folder on the host where media are kept; ``~`` stands for the home of whoever runs Ray there.
        cache_bytes: Size that it is kept below, where it can be.
        max_bytes: Most bytes of one file.
        timeout: Seconds that one file may take.
    """

    location: str
    token: str = field(repr=False)
    cache: Path
    cache_bytes: int
    max_bytes: int
    timeout: float


@dataclass(frozen=True)
class PromptFiles:
    """Soft prompts by content.

    Attributes:
        digest: What they hash to.
        files: Content of each file by its name.
    """

    digest: str
    files: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class PackedRequest:
    """A request with what a host needs for it.

    Attributes:
        request: The request; its paths are the server's.
        media: The files of its media; ``None`` where it reads none.
        prompts: The soft prompts that it names.
    """

    request: ModelRequest
    media: tuple[MediaPart, ...] | None
    prompts: tuple[PromptFiles, ...]


# --- the cluster


@dataclass(frozen=True)
class ClusterPlan:
    """Which cluster, and which workers on it.

    Attributes:
        address: ``auto``, or ``host:port`` of its head.
        worker_cpus: Cores of a worker on hosts without a GPU; 0 for no workers there.
        version: Version of the package and preset that each host must have; empty for no check.
        preset: The preset that it is of.
        shared: A file that the server has written below its data folder; a host that reads ``shared_word`` there sees
            the folder.
        shared_word: What the file says.
    """

    address: str
    worker_cpus: int
    version: str
    preset: str
    shared: Path
    shared_word: str


@dataclass(frozen=True)
class WorkerPlace:
    """An actor that may be given work.

    Attributes:
        id: Names it; one that comes later has another.
        node: Id of its node.
        host: Name of the host.
        device: ``cuda`` with a GPU of its own, or ``cpu``.
        cpus: Cores that it may use on a CPU.
        sees_data: Whether it sees the server's data folder under the same path.
    """

    id: str
    node: str
    host: str
    device: str
    cpus: int
    sees_data: bool


@dataclass(frozen=True)
class ActorFacts:
    """What an actor says of the host that it is on.

    Attributes:
        version: Version of package and preset there.
        error: Why there is none.
        sees_data: Whether it sees the server's data folder.
    """

    version: str
    error: str
    sees_data: bool


@dataclass(frozen=True)
class NodeStatus:
    """A node of the cluster, which is a host unless several run on one.

    Attributes:
        id: Its id in the cluster.
        host: Name of the host.
        address: Its address in the cluster.
        gpus: GPUs that Ray may give out there.
        cpus: Cores that Ray may give out there.
        workers: Workers that may be given work there.
        wanted: Workers that are to be there.
        problem: Why they are not; empty for nothing known.
    """

    id: str
    host: str
    address: str
    gpus: int
    cpus: int
    workers: int
    wanted: int
    problem: str


# --- from the server to the link


@dataclass(frozen=True)
class StartCall:
    """Have a worker load its models.

    Attributes:
        worker: The worker.
        call: Number of the call; all that comes of it carries the same number.
        setup: A pickled :class:`~ml_backend.models.fleet.actor.ActorSetup`.
    """

    worker: str
    call: int
    setup: bytes = field(repr=False)


@dataclass(frozen=True)
class RunCall:
    """Have a worker answer a request.

    Attributes:
        worker: The worker.
        call: Number of the call.
        command: A pickled :class:`~ml_backend.models.messages.RunCommand` of a packed request.
    """

    worker: str
    call: int
    command: bytes = field(repr=False)


@dataclass(frozen=True)
class CancelCall:
    """Ask for the end of a job of a worker."""

    worker: str
    job: int


@dataclass(frozen=True)
class YieldCall:
    """Ask a job of a worker to make way."""

    worker: str
    job: int


@dataclass(frozen=True)
class StopCall:
    """Have a worker end its model process, whatever that does."""

    worker: str


LinkCommand = StartCall | RunCall | CancelCall | YieldCall | StopCall

# --- from the link to the server


@dataclass(frozen=True)
class ConnectedEvent:
    """The link has joined the cluster."""

    address: str


@dataclass(frozen=True)
class RefusedEvent:
    """The link could not join the cluster, or was thrown out; it ends."""

    reason: str


@dataclass(frozen=True)
class NodesEvent:
    """The nodes of the cluster as they are; comes at least once a second while the head answers."""

    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True)
class JoinedEvent:
    """A worker may be given work."""

    place: WorkerPlace


@dataclass(frozen=True)
class LeftEvent:
    """A worker is gone for good, with its node."""

    worker: str
    reason: str


@dataclass(frozen=True)
class ReportEvent:
    """A worker reports on a call.

    Attributes:
        worker: The worker.
        call: Number of the call.
        report: A pickled :data:`~ml_backend.models.messages.WorkerReport`, or a :class:`LossReport`.
    """

    worker: str
    call: int
    report: bytes = field(repr=False)


@dataclass(frozen=True)
class LostEvent:
    """A worker was lost during a call; no report follows."""

    worker: str
    call: int
    reason: str


LinkEvent = ConnectedEvent | RefusedEvent | NodesEvent | JoinedEvent | LeftEvent | ReportEvent | LostEvent


# --- from an actor, beside the reports of its model process


@dataclass(frozen=True)
class LossReport:
    """The actor lives, but its model process has ended without an answer.

    Attributes:
        reason: How it ended.
        blameless: Whether the request had no part in it.
    """

    reason: str
    blameless: bool


def details_of(error: Exception) -> ErrorDetails:
    """An error of the library as it crosses the border."""
    return ErrorDetails(type(error).__name__, str(error))
