"""``steerseg-backend predict``: ask for predictions of all tasks of a project."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from ml_backend.cli.backend_client import BackendClient, NotThereError
from ml_backend.cli.options import add_setting, backend_address, label_studio_client, positive, read_settings
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.task import task_value
from ml_backend.models.geometry import spread
from steerseg.cli.progress import ProgressBar
from steerseg.errors import SteerSegError

_NAMED = 20  # tasks that are named


@dataclass(frozen=True)
class Plan:
    """What predicting a project would ask for.

    Attributes:
        version: The version that would predict.
        label_config: The project's labelling configuration.
        wanted: Tasks without a prediction of this version.
        skipped: How many tasks have one.
        annotated: How many of the wanted tasks are annotated already.
    """

    version: str
    label_config: str
    wanted: tuple[dict[str, Any], ...]
    skipped: int
    annotated: int

    def describe(self, expression_key: str) -> str:
        """The plan for a person.

        Args:
            expression_key: Key of a task's data that holds its expression.
        """
        wordless = [int(task["id"]) for task in self.wanted if not task_value(task["data"], expression_key)]
        lines = [
            f"{len(self.wanted)} tasks would be predicted by {self.version}, {self.skipped} have a prediction of it "
            "already; nothing was asked for"
        ]
        if self.annotated:
            lines.append(f"  {self.annotated} of them are annotated already")
        if wordless:
            numbers = ", ".join(map(str, wordless[:_NAMED])) + (", …" if len(wordless) > _NAMED else "")
            lines.append(
                f"  {len(wordless)} of them have no {expression_key!r} in their data, and need a default expression: "
                f"{numbers}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Summary:
    """What became of a project's tasks.

    Attributes:
        predicted: Tasks that got predictions.
        skipped: Tasks that had a prediction of this version already.
        failures: Task number and reason of the others.
        version: The version that was asked for.
        below: Task number and score of those whose best score was below the least.
        presence: How likely what is asked for is in the video, in [0, 1], by number of the judged tasks.
        not_there: Numbers of the tasks without a prediction since that is so unlikely.
    """

    predicted: int
    skipped: int
    failures: tuple[tuple[int, str], ...]
    version: str
    below: tuple[tuple[int, float], ...] = ()
    presence: Mapping[int, float] = field(default_factory=dict)
    not_there: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.predicted} tasks predicted by {self.version}, {self.skipped} had a prediction of it "
            f"already, {len(self.failures)} are without one"
        ]
        lines += [f"  task {task}: {reason}" for task, reason in self.failures]
        lines += _describe_presence(self.presence, self.not_there)
        if self.below:
            lines.append(
                f"{len(self.below)} predictions were not stored, since their score is below the least:"
            )
            lines += [f"  task {task}: score {score:.2f}" for task, score in self.below]
        return "\n".join(lines)


@dataclass(frozen=True)
class Asked:
    """What the backend answered about tasks.

    Attributes:
        scores: The best score by task.
        presence: How likely what is asked for is in the video, in [0, 1], by number of the judged tasks.
        not_there: Numbers of the tasks without a prediction since that is so unlikely.
        failures: Task number and reason of the others without a prediction.
    """

    scores: Mapping[int, float]
    presence: Mapping[int, float]
    not_there: tuple[int, ...]
    failures: tuple[tuple[int, str], ...]


def _describe_presence(presence: Mapping[int, float], not_there: Sequence[int]) -> list[str]:
    """Lines about what was judged: the tasks without a prediction, and how sure the others are."""
    lines = []
    if not_there:
        lines.append(
            f"{len(not_there)} tasks ask for what is hardly in their video, so nothing was stored; their pages show "
            "what comes closest:"
        )
        lines += [f"  task {task}: presence {presence[task]:.2f}" for task in not_there]
    shown = sorted((value, task) for task, value in presence.items() if task not in not_there)
    if shown:
        (least, task), (most, _) = shown[0], shown[-1]
        lines.append(f"presence of what was found: {least:.2f} (task {task}) to {most:.2f}")
    return lines


def plan_project(client: LabelStudioClient, backend: BackendClient, project: int) -> Plan:
    """Find out which tasks have no prediction of the present version.

    Args:
        client: Connection to Label Studio.
        backend: Connection to the running backend.
        project: The project's number.

    Raises:
        SteerSegError: Label Studio or the backend cannot be used.
    """
    version = backend.version(project)
    label_config = str(client.projects.get(project)["label_config"])
    wanted, skipped = [], 0
    for task in client.tasks.of_project(project):
        if _has_prediction(client, task, version):
            skipped += 1
        else:
            wanted.append(task)
    annotated = sum(bool(task.get("total_annotations")) for task in wanted)
    return Plan(version, label_config, tuple(wanted), skipped, annotated)


def predict_project(
    client: LabelStudioClient,
    backend: BackendClient,
    project: int,
    *,
    concurrency: int = 2,
    least_score: float = 0.0,
) -> Summary:
    """Ask for a prediction of every task that has none of the present version, and store them.

    Args:
        client: Connection to Label Studio.
        backend: Connection to the running backend.
        project: The project's number.
        concurrency: Tasks that are asked for at the same time.
        least_score: In [0, 1]; a task whose best score is below gets nothing stored.

    Raises:
        SteerSegError: Label Studio or the backend cannot be used at all. What goes wrong with single tasks
            stands in the summary.
    """
    plan = plan_project(client, backend, project)
    asked = ask_for(backend, project, plan, plan.wanted, concurrency, client, least_score)
    below = {task: score for task, score in asked.scores.items() if score < least_score}
    return Summary(
        predicted=len(asked.scores) - len(below),
        skipped=plan.skipped,
        failures=asked.failures,
        version=plan.version,
        below=tuple(sorted(below.items())),
        presence=asked.presence,
        not_there=asked.not_there,
    )


def ask_for(
    backend: BackendClient,
    project: int,
    plan: Plan,
    tasks: Sequence[dict[str, Any]],
    concurrency: int,
    client: LabelStudioClient | None = None,
    least_score: float = 0.0,
) -> Asked:
    """Ask for predictions of tasks.

    Args:
        backend: Connection to the running backend.
        project: The project's number.
        plan: The version and the labelling configuration.
        tasks: The tasks.
        concurrency: Tasks that are asked for at the same time.
        client: Where the predictions are stored; ``None`` stores none.
        least_score: Least score of a task's best prediction, for its predictions to be stored.
    """
    scores: dict[int, float] = {}
    presence: dict[int, float] = {}

    def predict(task: dict[str, Any]) -> None:
        found = backend.predict(project, plan.label_config, task)
        if client is not None and found.score >= least_score:
            for prediction in found.predictions:
                client.predictions.create(
                    int(task["id"]),
                    prediction["result"],
                    score=prediction["score"],
                    model_version=prediction["model_version"],
                )
        scores[int(task["id"])] = found.score
        if found.presence is not None:
            presence[int(task["id"])] = found.presence

    failures: list[tuple[int, str]] = []
    not_there: list[int] = []
    stage = f"predicting {len(tasks)} tasks"
    with ThreadPoolExecutor(concurrency) as pool, ProgressBar() as progress:
        futures = {pool.submit(predict, task): int(task["id"]) for task in tasks}
        progress(stage, 0.0)
        try:
            for done, future in enumerate(as_completed(futures), 1):
                progress(stage, done / len(tasks))
                try:
                    future.result()
                except NotThereError as error:
                    not_there.append(futures[future])
                    presence[futures[future]] = error.presence
                except SteerSegError as error:
                    failures.append((futures[future], str(error)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Asked(scores, presence, tuple(sorted(not_there)), tuple(sorted(failures)))


def preview_project(
    backend: BackendClient, project: int, plan: Plan, count: int, concurrency: int, url: str
) -> tuple[str, bool]:
    """Have some tasks predicted, spread over the project, and store nothing in Label Studio.

    Args:
        backend: Connection to the running backend.
        project: The project's number.
        plan: What would be asked for.
        count: Most tasks.
        concurrency: Tasks that are asked for at the same time.
        url: Address of the backend, for its page.

    Returns:
        What became of them for a person, and whether all have a prediction.
    """
    chosen = [plan.wanted[index] for index in spread(range(len(plan.wanted)), count)]
    asked = ask_for(backend, project, plan, chosen, concurrency)
    lines = [
        f"{len(asked.scores)} of {len(plan.wanted)} tasks predicted by {plan.version} for a look, "
        f"{len(asked.failures)} are without a prediction; nothing was stored in Label Studio"
    ]
    for task, score in sorted(asked.scores.items()):
        judged = f", presence {asked.presence[task]:.2f}" if task in asked.presence else ""
        lines.append(f"  task {task}: score {score:.2f}{judged}")
    lines += [f"  task {task}: {reason}" for task, reason in asked.failures]
    lines += _describe_presence(asked.presence, asked.not_there)
    query = "&".join(f"task={int(task['id'])}" for task in chosen)
    lines.append(f"Look at them on {url}/pages/projects/{project}/preview" + (f"?{query}" if query else ""))
    return "\n".join(lines), not asked.failures


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
    parser.add_argument(
        "--least-score",
        type=_share,
        default=0.0,
        metavar="SCORE",
        help="store predictions only of tasks whose best score is at least this, from 0 to 1; others are named",
    )
    first = parser.add_mutually_exclusive_group()
    first.add_argument("--dry-run", action="store_true", help="count the tasks, and ask for nothing")
    first.add_argument(
        "--preview",
        type=positive,
        metavar="N",
        help="predict N tasks, spread over the project, for a look at them on a page; store nothing in Label Studio",
    )
    for name in ("host", "port", "label_studio_url"):
        add_setting(parser, name)


def _share(text: str) -> float:
    """A number from 0 to 1, as a type of arguments."""
    number = float(text)
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return number


def run(options: argparse.Namespace) -> int:
    """Predict the project's tasks and print what became of them; 1 where tasks are left without a prediction.

    Raises:
        SteerSegError: Label Studio or the backend cannot be used at all.
    """
    settings = read_settings(options)
    client, url = label_studio_client(settings), backend_address(options, settings)
    backend = BackendClient(url, settings)
    if options.dry_run:
        print(plan_project(client, backend, options.project).describe(settings.expression_key))
        return 0
    if options.preview is not None:
        plan = plan_project(client, backend, options.project)
        shown = settings.public_url or url.rstrip("/")
        text, complete = preview_project(backend, options.project, plan, options.preview, options.jobs, shown)
        print(text)
        return 0 if complete else 1
    summary = predict_project(
        client, backend, options.project, concurrency=options.jobs, least_score=options.least_score
    )
    print(summary)
    return 1 if summary.failures else 0
