"""The plan of a refinement on disk: gzipped JSON that the next process reads after a kill."""

from __future__ import annotations

import gzip
import json
from typing import Any, Literal

from pydantic import BaseModel

from ml_backend.database.errors import StoreError
from ml_backend.models.examples import CorrectionExample, Pool, ReplayExample, TaskRef
from ml_backend.refinement.gate import Scheme
from ml_backend.refinement.plan import Plan, Training, Trial
from steerseg.masks import RLE


class StoredTask(BaseModel):
    """A :class:`~ml_backend.models.examples.TaskRef`; its label configuration is an index into the file's list."""

    task_id: int
    data: dict[str, Any]
    config: int


class StoredExample(BaseModel):
    """A :class:`~ml_backend.models.examples.CorrectionExample`; before groups were known, each video was its own."""

    key: str
    correction: int
    revision: str
    video: str
    group: str | None = None
    expression: str
    pool: Pool
    weight: float
    truth: dict[int, RLE | None]
    shares: dict[int, float]
    decided: list[int]
    rejected: tuple[dict[int, RLE | None], ...]
    num_frames: int
    height: int
    width: int
    task: StoredTask
    overlap: float | None = None


class PlanFile(BaseModel):
    """A :class:`~ml_backend.refinement.plan.Plan`.

    Attributes:
        format: Format of the file.
        label_configs: The label configurations: they are long, and mostly one and the same.
    """

    format: Literal[1]
    scheme: Scheme
    label_configs: list[str]
    corrections: list[StoredExample]
    replayed: tuple[ReplayExample, ...]
    trainings: tuple[Training, ...]
    held_out: tuple[Trial, ...]
    regression: tuple[ReplayExample, ...]
    shortage: str = ""


def pack_plan(plan: Plan) -> bytes:
    """A plan as the content of a file."""
    configs: dict[str, int] = {}
    corrections = [
        _store(example, configs.setdefault(example.task.label_config, len(configs)))
        for example in plan.corrections.values()
    ]
    file = PlanFile(
        format=1,
        scheme=plan.scheme,
        label_configs=list(configs),
        corrections=corrections,
        replayed=plan.replayed,
        trainings=plan.trainings,
        held_out=plan.held_out,
        regression=plan.regression,
        shortage=plan.shortage,
    )
    return gzip.compress(json.dumps(file.model_dump(mode="json"), separators=(",", ":")).encode(), 6, mtime=0)


def unpack_plan(content: bytes) -> Plan:
    """Read what :func:`pack_plan` wrote.

    Raises:
        StoreError: It is damaged, or of another release.
    """
    try:
        file = PlanFile.model_validate_json(gzip.decompress(content))
        examples = [_restore(stored, file.label_configs[stored.task.config]) for stored in file.corrections]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise StoreError(
            f"the plan of a refinement cannot be read: {type(error).__name__}: {error}"
        ) from error
    return Plan(
        scheme=file.scheme,
        corrections={example.key: example for example in examples},
        replayed=file.replayed,
        trainings=file.trainings,
        held_out=file.held_out,
        regression=file.regression,
        shortage=file.shortage,
    )


def _store(example: CorrectionExample, config: int) -> StoredExample:
    task = StoredTask(task_id=example.task.task_id, data=dict(example.task.data), config=config)
    return StoredExample(**{**vars(example), "decided": sorted(example.decided), "task": task})


def _restore(stored: StoredExample, label_config: str) -> CorrectionExample:
    task = TaskRef(stored.task.task_id, stored.task.data, label_config)
    group = stored.video if stored.group is None else stored.group
    decided = frozenset(stored.decided)
    return CorrectionExample(**{**dict(stored), "group": group, "decided": decided, "task": task})
