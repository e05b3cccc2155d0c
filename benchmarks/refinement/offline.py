"""The backend alone: its service in this process with a model process beside it, and no server at all.

Tasks, predictions, annotations and events are those that Label Studio would send; everything behind them is the
backend itself. Proposals and vision features are kept between runs, so that only what differs is computed again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.refinement.workplace import EXPRESSION_KEY, LABEL_CONFIG, NOTHING_FOUND, WorkError
from ml_backend.database.projects import ProjectStore
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.fingerprint import model_fingerprint, preset_version
from ml_backend.models.workers import ModelFactory
from ml_backend.proposals import ProposalFiles
from ml_backend.settings import load_settings
from ml_backend.web.assemble import build_service
from steerseg.evaluation import Sample
from steerseg.runtime.artefacts import write_bytes
from steerseg.video import VideoLimits

# That there is no Label Studio to read a project from is no news here.
logging.getLogger("ml_backend.refinement.run").setLevel(logging.ERROR)

_IDS_OF_ONE = 100_000  # numbers of tasks and annotations that a project takes


class OfflineWorkplace:
    """See :class:`benchmarks.refinement.workplace.Workplace`.

    Args:
        folder: The backend's data folder.
        preset: The preset with the recipe to use.
        common: The preset that it differs from in its recipe alone: proposals are made by either alike.
        media: Folder below which the samples lie.
        device: As of :meth:`steerseg.pipeline.SteerSeg.from_pretrained`.
    """

    def __init__(
        self, folder: Path, preset: str | Path, common: str | Path, media: Path, device: str
    ) -> None:
        self._settings = load_settings(
            data_dir=folder.absolute(),
            preset=str(preset),
            device=device,
            local_roots=(media.absolute(),),
            refine_after=0,
            repredict=False,
            log_level="WARNING",
        )
        self._common = str(common)
        self._label_config = LABEL_CONFIG.read_text(encoding="utf-8")
        self._stack = contextlib.ExitStack()
        self._tasks: dict[int, dict[int, dict[str, Any]]] = {}
        self._predicted: dict[int, list[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        settings = self._settings
        limits = VideoLimits()
        executor: ModelExecutor = Executor.local(
            [ModelFactory(settings.preset, settings.device, limits)], warm=True, log_level=settings.log_level
        )
        self._stack.callback(executor.close)
        self._service = build_service(
            settings,
            executor=executor,
            loader=MediaLoader(settings),
            base_version=self.base_version,
            model=model_fingerprint(settings.preset),
        )
        self._stack.callback(self._service.close)
        self._service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def base_version(self) -> str:
        return preset_version(self._common)

    def begin(self, title: str, samples: Sequence[Sample]) -> tuple[int, dict[int, Sample]]:
        project = max((known.id for known in ProjectStore(self._service.database).all()), default=0) + 1
        self._service.setup({"project": str(project), "schema": self._label_config})
        self._tasks[project] = {}
        return project, {self._add(project, sample): sample for sample in samples}

    def _add(self, project: int, sample: Sample) -> int:
        tasks = self._tasks[project]
        number = project * _IDS_OF_ONE + len(tasks)
        pages = [str((sample.folder / f"{frame}.jpg").absolute()) for frame in sample.frames]
        tasks[number] = {"frames": pages, "fps": sample.fps, EXPRESSION_KEY: sample.expression}
        return number

    def propose(self, project: int) -> None:
        for task in self._tasks[project]:
            if task not in self._predicted:
                self._predicted[task] = self._predict(project, task)

    def _predict(self, project: int, task: int) -> list[dict[str, Any]]:
        body = {
            "tasks": [{"id": task, "data": self._tasks[project][task]}],
            "project": str(project),
            "label_config": self._label_config,
            "params": {"context": None, "deliver_late": False},
        }
        while True:
            answer = self._service.predict(body).to_json()
            if not answer["pending"]:
                break
        problems = [text for text in answer["errors"].values() if not text.startswith(NOTHING_FOUND)]
        if problems:
            raise WorkError(f"task {task} was not predicted: {'; '.join(problems)}")
        item = answer["results"][0]
        found = [item] if isinstance(item, dict) else list(item)
        return [{"id": task * 10 + place, **prediction} for place, prediction in enumerate(found)]

    def predictions(self, project: int, task: int) -> list[dict[str, Any]]:
        return self._predicted[task]

    def submit(self, project: int, task: int, annotation: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat()
        self._service.webhook(
            {
                "action": "ANNOTATION_CREATED",
                "annotation": {
                    **annotation,
                    "id": task,
                    "was_cancelled": False,
                    "created_at": now,
                    "updated_at": now,
                    "task": task,
                    "project": project,
                },
                "project": {"id": project, "label_config": self._label_config},
                "task": {"id": task, "data": self._tasks[project][task]},
            }
        )

    def corrections(self, project: int) -> dict[str, Any]:
        return self._service.project_corrections(str(project)).model_dump(mode="json")

    def start_training(self, project: int) -> None:
        self._service.webhook({"action": "START_TRAINING", "project": {"id": project}})

    def refinement(self, project: int) -> dict[str, Any]:
        return self._service.refinement(str(project)).to_json()

    def versions(self, project: int) -> dict[str, Any]:
        return self._service.versions(str(project)).to_json()

    def export(self, project: int, name: str, file: Path) -> None:
        write_bytes(file, self._service.line.export(project, name))

    def steered_by(self, project: int, sample: Sample) -> tuple[str, str]:
        task = self._add(project, sample)
        self._predict(project, task)
        known = ProposalStore(self._service.database).of_task(project, task)[-1]
        stored = ProposalFiles(self._settings.data_dir).load(known.path)
        return known.key.version, stored.versions["soft_prompts"]
