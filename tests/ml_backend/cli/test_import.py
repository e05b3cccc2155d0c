"""``steerseg-backend import`` says what was imported, what was not, and what it passed over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml_backend.cli import import_videos
from ml_backend.cli.main import main
from ml_backend.label_studio.config import FRAMES_EXAMPLE
from ml_backend.label_studio.errors import LabelStudioError
from steerseg.video import write_video


class Tasks:
    """Keeps what is imported; refuses what comes after ``most`` tasks."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.most = 1000

    def create(self, project: int, tasks: list[Any]) -> list[int]:
        if len(self.made) + len(tasks) > self.most:
            raise LabelStudioError("Label Studio answered 500", 500)
        self.made += tasks
        return list(range(len(self.made) - len(tasks) + 1, len(self.made) + 1))


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    made = Tasks()
    client = SimpleNamespace(
        projects=SimpleNamespace(get=lambda project: {"label_config": FRAMES_EXAMPLE}),
        storages=SimpleNamespace(of_project=lambda project: [{"path": "/files/steerseg"}]),
        tasks=made,
    )
    monkeypatch.setattr(import_videos, "label_studio_client", lambda settings: client)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "files").mkdir()
    write_video(folder / "good.MP4", [np.zeros((48, 64, 3), np.uint8)] * 3, 10.0)
    return folder


def run(tmp_path: Path, *arguments: object) -> int:
    return main(["import", "1", *map(str, arguments), "--document-root", str(tmp_path / "files")])


def test_all_is_well(tmp_path: Path, folder: Path, tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").touch()
    assert run(tmp_path, folder) == 0
    told = capsys.readouterr()
    assert told.out == "task 1: good.MP4 (3 pages)\n"
    assert f"passed over: {folder / 'notes.txt'}: its name does not end" in told.err
    assert "1 tasks made, 0 not imported, 1 files passed over" in told.err


def test_what_is_left_out_has_a_line_and_a_status(
    tmp_path: Path, folder: Path, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.mov").write_bytes(b"no video")
    assert run(tmp_path, folder) == 1
    told = capsys.readouterr()
    assert told.out == "task 1: good.MP4 (3 pages)\n"
    assert "not imported: " in told.err
    assert "broken.mov" in told.err
    assert run(tmp_path, folder / "broken.mov") == 2


def test_an_import_that_ends_early_says_what_was_made(
    tmp_path: Path, folder: Path, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"good.MP4,object {number}\n" for number in range(250))
    (folder / "list.csv").write_text("video,expression\n" + rows)
    tasks.most = 200
    assert run(tmp_path, "--csv", folder / "list.csv") == 2
    assert "200 of 250 tasks were made (the last is task 200, of good.MP4)" in capsys.readouterr().err


def test_strides_are_numbers_or_auto(
    tmp_path: Path, folder: Path, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, folder, "--stride", "auto", "--max-pages", 2) == 0
    assert capsys.readouterr().out == "task 1: good.MP4 (2 pages)\n"
    assert run(tmp_path, folder, "--split-pages", 2) == 0
    assert "part 2 of 2, 1 pages" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(tmp_path, folder, "--stride", "some")
