"""Workers: what one is, the one that is a process on this machine, and what it loads."""

from ml_backend.models.workers.factory import ModelFactory, with_import_advice
from ml_backend.models.workers.local import ProcessWorker
from ml_backend.models.workers.worker import Worker, WorkerLostError, WorkerState, WorkerStatus

__all__ = [
    "ModelFactory",
    "ProcessWorker",
    "Worker",
    "WorkerLostError",
    "WorkerState",
    "WorkerStatus",
    "with_import_advice",
]
