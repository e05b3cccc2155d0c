"""A real Label Studio with the backend beside it, both started here; everything goes through their APIs."""

from __future__ import annotations

import contextlib
import csv
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.refinement.workplace import (
    EXPRESSION_KEY,
    LABEL_CONFIG,
    NOTHING_FOUND,
    Tell,
    WorkError,
    wait_for,
)
from ml_backend.cli.backend_client import BackendClient
from ml_backend.cli.connect import connect
from ml_backend.cli.predict import predict_project
from ml_backend.database.database import Database
from ml_backend.demo.__main__ import load_account
from ml_backend.demo.servers import BackendServer, LabelStudioServer, find_label_studio, free_port
from ml_backend.importing.tasks import import_videos
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.models.fingerprint import preset_version
from ml_backend.proposals import ProposalFiles
from ml_backend.settings import load_settings
from steerseg.evaluation import Sample

_REPOSITORY = Path(__file__).parents[2]
_SUBMIT_LIMIT = 120.0  # seconds; an annotation with a mask on every page is large
_PUSH_LIMIT = 600.0
_COMMAND_LIMIT = 300.0


class OnlineWorkplace:
    """See :class:`benchmarks.refinement.workplace.Workplace`.

    Args:
        folder: Folder of both servers' data; a later run goes on with it.
        preset: The preset with the recipe to use.
        device: As of :meth:`steerseg.pipeline.SteerSeg.from_pretrained`.
        tell: Called with what happens.
    """

    def __init__(self, folder: Path, preset: str | Path, device: str, tell: Tell) -> None:
        folder = folder.absolute()
        account = load_account(folder / "account.json")
        self._tell = tell
        self._work = folder
        self._preset = str(preset)
        self._label_studio = LabelStudioServer(
            data_dir=folder / "label-studio",
            files_root=folder / "files",
            port=free_port(),
            user=account.user,
            password=account.password,
            token=account.token,
            command=find_label_studio(_REPOSITORY),
        )
        self._backend = BackendServer(
            data_dir=folder / "backend",
            port=free_port(),
            label_studio=self._label_studio,
            preset=self._preset,
            webhook_secret=account.webhook_secret,
            settings={
                "STEERSEG_DEVICE": device,
                # Only when the annotator asks; and nobody waits for tasks that are predicted anew.
                "STEERSEG_REFINE_AFTER": "0",
                "STEERSEG_REPREDICT": "false",
            },
        )
        self._media = self._label_studio.files_root / "media"
        self._stack = contextlib.ExitStack()
        self._models: dict[int, int] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._tell("starting Label Studio and the backend (the first start makes a database: a minute)")
            for server in (self._backend.process(), self._label_studio.process()):
                stack.callback(server.stop)
                server.start()
            self._client = LabelStudioClient(
                self._label_studio.url, self._label_studio.token, timeout=_SUBMIT_LIMIT
            )
            stack.callback(self._client.close)
            self._asked = BackendClient(self._backend.url, load_settings())
            self._media.mkdir(parents=True, exist_ok=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def base_version(self) -> str:
        return preset_version(self._preset)

    def begin(self, title: str, samples: Sequence[Sample]) -> tuple[int, dict[int, Sample]]:
        left = self._client.projects.find(title)
        if left is not None:
            self._client.request("DELETE", f"/api/projects/{left['id']}/", action=f"delete {title!r}")
        connection = connect(
            self._client,
            self._backend.url,
            title=title,
            label_config=LABEL_CONFIG.read_text(encoding="utf-8"),
            storage_path=str(self._media),
            webhook_secret=self._backend.webhook_secret,
        )
        (model,) = self._client.backends.of_project(connection.project)
        self._models[connection.project] = int(model["id"])
        return connection.project, dict(zip(self._import(connection.project, samples), samples, strict=True))

    def _import(self, project: int, samples: Sequence[Sample]) -> tuple[int, ...]:
        """Make a task of each sample, as a person does with a table of videos and expressions."""
        table = self._work / "tasks.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("video", "expression"))
            writer.writerows((str(sample.folder.absolute()), sample.expression) for sample in samples)
        return import_videos(
            self._client,
            project,
            media_dir=self._media,
            document_root=self._label_studio.files_root,
            csv_file=table,
            fps=samples[0].fps,
            expression_key=EXPRESSION_KEY,
        ).tasks

    def propose(self, project: int) -> None:
        summary = predict_project(self._client, self._asked, project, concurrency=1)
        problems = [
            f"task {task}: {why}" for task, why in summary.failures if not why.startswith(NOTHING_FOUND)
        ]
        if problems:
            raise WorkError(f"tasks were not predicted: {'; '.join(problems)}")

    def predictions(self, project: int, task: int) -> list[dict[str, Any]]:
        return self._client.predictions.of_task(task)

    def submit(self, project: int, task: int, annotation: Mapping[str, Any]) -> None:
        self._client.request(
            "POST",
            f"/api/tasks/{task}/annotations",
            params={"project": project},
            json=dict(annotation),
            action=f"submit an annotation of task {task}",
        )

    def corrections(self, project: int) -> dict[str, Any]:
        return self._asked.corrections(project)

    def start_training(self, project: int) -> None:
        self._client.request(
            "POST", f"/api/ml/{self._models[project]}/train", json={}, action="start training"
        )

    def refinement(self, project: int) -> dict[str, Any]:
        return self._asked.refinement(project)

    def versions(self, project: int) -> dict[str, Any]:
        return self._asked.versions(project)

    def export(self, project: int, name: str, file: Path) -> None:
        done = subprocess.run(
            self._backend.command("versions", str(project), "export", name, str(file.absolute())),
            env=self._backend.environment(),
            capture_output=True,
            text=True,
            timeout=_COMMAND_LIMIT,
        )
        if done.returncode:
            raise WorkError(f"`steerseg-backend versions {project} export {name}`: {done.stderr.strip()}")

    def steered_by(self, project: int, sample: Sample) -> tuple[str, str]:
        (task,) = self._import(project, [sample])
        # Opening a task is what makes Label Studio ask the backend.
        self._client.request("GET", f"/api/tasks/{task}/", params={"project": project}, timeout=_SUBMIT_LIMIT)

        database = Database(self._backend.data_dir / "steerseg.sqlite")
        try:
            proposals = ProposalStore(database)
            known = wait_for(
                lambda: next(iter(proposals.of_task(project, task)), None),
                f"the proposal of task {task}",
                _PUSH_LIMIT,
            )
        finally:
            database.close()
        for prediction in self._client.predictions.of_task(task):
            if prediction["model_version"] != known.key.version:
                raise WorkError(
                    f"Label Studio has a prediction of task {task} by {prediction['model_version']}, the backend "
                    f"made it by {known.key.version}"
                )
        proposal = ProposalFiles(self._backend.data_dir).load(known.path)
        return known.key.version, proposal.versions["soft_prompts"]
