"""``steerseg-backend refine`` and ``versions``: with a server, without one, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.cli.backend_client import BackendBusyError, BackendUnreachableError
from ml_backend.cli.main import main
from ml_backend.cli.refine import refine
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.models.fingerprint import model_fingerprint
from ml_backend.refinement.version_store import NewVersion, VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Settings
from steerseg.errors import ConfigError
from steerseg.soft_prompts import SoftPrompts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two projects and one candidate in the line of the first."""
    folder = tmp_path / "data"
    database = Database(folder / "steerseg.sqlite")
    for project in (1, 2):
        ProjectStore(database).save(
            project, uid=str(project), label_config="<View/>", hostname="", extra_params={}
        )
    line = PromptLine(VersionStore(database), folder, model_fingerprint("demo"))
    pair = SoftPrompts(torch.full((2, 256), 0.5), torch.full((2, 256), 0.25))
    pair.save(tmp_path / "pair")
    new = NewVersion(
        line.keep(tmp_path / "pair", pair.digest), pair.digest, line.model, "refined", None, data=((3, "r"),)
    )
    line.versions.add(1, new)
    database.close()
    return folder


def run(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["versions", "--data-dir", str(data), *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_versions_are_listed_shown_promoted_and_rolled_back(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(data, capsys, "1")
    assert status == 0
    name = out.splitlines()[2].split()[0]
    assert run(data, capsys, "1", "list")[1] == out
    shown = json.loads(run(data, capsys, "1", "show", name)[1])
    assert (shown["name"], shown["data"], shown["status"]) == (name, [[3, "r"]], "candidate")
    assert run(data, capsys, "1", "promote", name)[1] == f"project 1 uses {name} now\n"
    assert run(data, capsys, "1")[1].splitlines()[2].split()[:2] == [name, "champion"]
    assert run(data, capsys, "1", "rollback")[1] == "project 1 uses preset now\n"
    status, _, error = run(data, capsys, "1", "rollback")
    assert status == 2
    assert "nothing to roll back to" in error


def test_a_version_travels_to_another_project(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = run(data, capsys, "1")[1].splitlines()[2].split()[0]
    archive = tmp_path / "out" / "version.zip"
    assert run(data, capsys, "1", "export", name, str(archive))[0] == 0
    status, out, _ = run(data, capsys, "2", "import", str(archive))
    assert status == 0
    added = out.split()[1].rstrip(";")
    assert run(data, capsys, "2", "promote", added)[0] == 0
    assert run(data, capsys, "1", "show", name)[0] == 0


def test_what_is_not_there_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no prompt version 'r9'" in run(data, capsys, "1", "show", "r9")[2]
    assert "not an exported version" in run(data, capsys, "1", "import", str(tmp_path / "none.zip"))[2]
    assert "there is no database" in run(tmp_path / "elsewhere", capsys, "1")[2]


class Backend:
    """A server whose refinement ends at the third look.

    Args:
        state: How it ends.
    """

    def __init__(self, state: str) -> None:
        self._looks = 0
        self._state = state

    def refine(self, project: int) -> dict[str, Any]:
        return {"requested": 5, **self.refinement(project)}

    def refinement(self, project: int) -> dict[str, Any]:
        self._looks += 1
        run = {"id": 5, "state": "running", "phase": "training", "done": self._looks, "total": 9}
        if self._looks < 3:
            return {"current": run, "history": [], "champion": None}
        ended = {**run, "state": self._state, "reason": "by 0.05", "notes": ["task 7: gone"]}
        return {"current": None, "history": [ended], "champion": "r1-0"}


@pytest.mark.parametrize(("state", "good"), [("promoted", True), ("kept back", True), ("failed", False)])
def test_the_servers_refinement_is_followed_to_its_end(
    state: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.cli.refine._POLL", 0.0)
    said: list[str] = []
    settings = Settings(data_dir=tmp_path)
    backend: Any = Backend(state)
    assert refine(1, backend, settings, wait=True, report=said.append) is good
    assert said == [
        "the server refines",
        "running training, 1 of 9",
        "running training, 2 of 9",
        "note: task 7: gone",
        f"{state}: by 0.05",
        "champion: r1-0",
    ]
    said.clear()
    backend = Backend(state)
    assert refine(1, backend, settings, wait=False, report=said.append)
    assert len(said) == 1


def test_an_answer_that_fails_to_come_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Restarted(Backend):
        """A server that is away for two looks."""

        def refinement(self, project: int) -> dict[str, Any]:
            if self._looks == 1:
                self._looks += 1
                raise BackendUnreachableError("nothing answers")
            if self._looks == 2:
                self._looks += 1
                raise BackendBusyError("it answered 503")
            return super().refinement(project)

    monkeypatch.setattr("ml_backend.cli.refine._POLL", 0.0)
    said: list[str] = []
    backend: Any = Restarted("promoted")
    assert refine(1, backend, Settings(data_dir=tmp_path), wait=True, report=said.append)
    assert "nothing answers; asking again" in said
    assert said[-2:] == ["promoted: by 0.05", "champion: r1-0"]


class NoBackend:
    """No server."""

    def refine(self, project: int) -> dict[str, Any]:
        raise BackendUnreachableError("nothing answers")


def test_without_a_server_the_command_does_its_work(data: Path) -> None:
    said: list[str] = []
    settings = Settings(data_dir=data, warm=False)
    backend: Any = NoBackend()
    assert refine(1, backend, settings, wait=False, report=said.append)
    assert said[0] == "nothing answers; refining in this process instead"
    assert "not enough data: corrections on 0 videos show an object, at least 4 are needed" in said


def test_without_a_server_and_its_data_folder_the_command_says_so(tmp_path: Path) -> None:
    backend: Any = NoBackend()
    with pytest.raises(ConfigError, match="there is no database"):
        refine(1, backend, Settings(data_dir=tmp_path), wait=True, report=lambda line: None)
