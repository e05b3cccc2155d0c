"""``steerseg-backend predict``: ask for predictions of all tasks of a project."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from ml_backend.cli.backend_client import BackendClient
from ml_backend.cli.options import add_setting, backend_address, label_studio_client, positive, read_settings
from ml_backend.label_studio.client import LabelStudioClient
from steerseg.cli.progress import ProgressBar
from steerseg.errors import SteerSegError


@dataclass(frozen=True)
class Summary:
    """What became of a project's tasks.

    Attributes:
        predicted: Tasks that got predictions.
        skipped: Tasks that had a prediction of this version already.
        failures: Task number and reason of the others.
        version: The version that was asked for.
    """

    predicted: int
    skipped: int
    failures: tuple[tuple[int, str], ...]
    version: str

    def __str__(self) -> str:
        lines = [
            f"{self.predicted} tasks predicted by {self.version}, {self.skipped} had a prediction of it "
            f"already, {len(self.failures)} are without one"
        ]
        lines += [f"  task {task}: {reason}" for task, reason in self.failures]
        return "\n".join(lines)


def predict_project(
    client: LabelStudioClient, backend: BackendClient, project: int, *, concurrency: int = 2
) -> Summary:
    """Ask for a prediction of every task that has none of the present version, and store them.

    Args:
        client: Connection to Label Studio.
        backend: Connection to the running backend.
        project: The project's number.
        concurrency: Tasks that are asked for at the same time.

    Raises:
        SteerSegError: Label Studio or the backend cannot be used at all. What goes wrong with single tasks
            stands in the summary.
    """
    version = backend.version(project)
    label_config = str(client.projects.get(project)["label_config"])
    wanted, skipped = [], 0
    for task in client.tasks.of_project(project):
        if _has_prediction(client, task, version):
            skipped += 1
        else:
            wanted.append(task)

    def predict(task: dict[str, Any]) -> None:
        for prediction in backend.predict(project, label_config, task):
            client.predictions.create(
                int(task["id"]),
                prediction["result"],
                score=prediction["score"],
                model_version=prediction["model_version"],
            )

    failures: list[tuple[int, str]] = []
    stage = f"predicting {len(wanted)} tasks"
    with ThreadPoolExecutor(concurrency) as pool, ProgressBar() as progress:
        futures = {pool.submit(predict, task): int(task["id"]) for task in wanted}
        progress(stage, 0.0)
        try:
            for done, future in enumerate(as_completed(futures), 1):
                progress(stage, done / len(wanted))
                try:
                    future.result()
                except SteerSegError as error:
                    failures.append((futures[future], str(error)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Summary(
        predicted=len(wanted) - len(failures),
        skipped=skipped,
        failures=tuple(sorted(failures)),
        version=version,
    )


def _has_prediction(client: LabelStudioClient, task: dict[str, Any], version: str) -> bool:
    if task.get("total_predictions") == 0:
        return False
    return any(found.get("model_version") == version for found in client.predictions.of_task(int(task["id"])))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    parser.add_argument(
        "--jobs", type=positive, default=2, help="tasks asked for at the same time (default: %(default)s)"
    )
    for name in ("host", "port", "label_studio_url"):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Predict the project's tasks and print what became of them; 1 where tasks are left without a prediction.

    Raises:
        SteerSegError: Label Studio or the backend cannot be used at all.
    """
    settings = read_settings(options)
    summary = predict_project(
        label_studio_client(settings),
        BackendClient(backend_address(options, settings), settings),
        options.project,
        concurrency=options.jobs,
    )
    print(summary)
    return 1 if summary.failures else 0
