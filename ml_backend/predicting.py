"""Asking for predictions of all tasks of a project from the command line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import requests
from tqdm import tqdm

from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.settings import Settings
from steerseg.errors import SteerSegError

_MARGIN = 30.0  # seconds on top of the backend's own time limit


class BackendError(SteerSegError):
    """The backend cannot be reached or refuses."""


class BackendUnreachableError(BackendError):
    """Nothing answers at the backend's address."""


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


class BackendClient:
    """A running backend, asked as Label Studio asks it.

    Args:
        url: Its address.
        settings: Credentials and time limits.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url.rstrip("/")
        self._timeout = settings.predict_timeout + _MARGIN
        self._session = requests.Session()
        self._session.trust_env = False
        if settings.basic_auth_username is not None and settings.basic_auth_password is not None:
            password = settings.basic_auth_password.get_secret_value()
            self._session.auth = (settings.basic_auth_username, password)

    def version(self, project: int) -> str:
        """The version that the project's predictions have now.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return str(self.versions(project)["current"])

    def versions(self, project: int) -> dict[str, Any]:
        """A project's versions, newest last, and the one in use.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/versions?project={project}")

    def refine(self, project: int) -> dict[str, Any]:
        """Ask for a refinement of a project; the answer says how its refinements stand.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("POST", f"/projects/{project}/refine")

    def refinement(self, project: int) -> dict[str, Any]:
        """How a project's refinements stand.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/projects/{project}/refinement")

    def corrections(self, project: int) -> dict[str, Any]:
        """How a project's corrections stand, and what is set aside for which reason.

        Raises:
            BackendError: The backend cannot be reached, or does not know the project.
        """
        return self._ask("GET", f"/projects/{project}/corrections")

    def predict(self, project: int, label_config: str, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Wait for the predictions of one task, however long they take.

        Raises:
            BackendError: There is none; the message says why.
        """
        body = {
            "tasks": [{"id": task["id"], "data": task["data"]}],
            "project": str(project),
            "label_config": label_config,
            # Whoever asks here stores the answer; the backend must not do it as well.
            "params": {"context": None, "deliver_late": False},
        }
        while True:
            answer = self._ask("POST", "/predict", json=body)
            if not answer["pending"]:
                break
        if answer["errors"]:
            raise BackendError("; ".join(answer["errors"].values()))
        item = answer["results"][0]
        return [item] if isinstance(item, dict) else list(item)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._session.request(method, self._url + path, timeout=self._timeout, **options)
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
            raise BackendError(
                f"{self._url} is no address of a backend; expected one such as http://localhost:9090"
            ) from error
        except requests.RequestException as error:
            raise BackendUnreachableError(
                f"the backend at {self._url} does not answer ({type(error).__name__}); start it with "
                "`steerseg-backend serve`, or name it with --backend-url"
            ) from None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BackendError(f"{self._url} answered {response.status_code} without JSON; is it one?")
        if response.status_code == 401:
            raise BackendError(
                f"the backend at {self._url} asks for another user name and password; set "
                "STEERSEG_BASIC_AUTH_USERNAME and STEERSEG_BASIC_AUTH_PASSWORD as it has them"
            )
        if not response.ok:
            parts = (str(answer.get("error", f"status {response.status_code}")), str(answer.get("hint", "")))
            raise BackendError(". ".join(part for part in parts if part))
        return answer


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
    label_config = str(client.project(project)["label_config"])
    wanted, skipped = [], 0
    for task in client.tasks(project):
        if _has_prediction(client, task, version):
            skipped += 1
        else:
            wanted.append(task)

    def predict(task: dict[str, Any]) -> None:
        for prediction in backend.predict(project, label_config, task):
            client.create_prediction(
                int(task["id"]),
                prediction["result"],
                score=prediction["score"],
                model_version=prediction["model_version"],
            )

    failures: list[tuple[int, str]] = []
    with ThreadPoolExecutor(concurrency) as pool, tqdm(total=len(wanted), unit="task") as bar:
        futures = {pool.submit(predict, task): int(task["id"]) for task in wanted}
        try:
            for future in as_completed(futures):
                bar.update()
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
    return any(found.get("model_version") == version for found in client.predictions(int(task["id"])))
