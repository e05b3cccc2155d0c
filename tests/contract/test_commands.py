"""The console commands: their options, and with which status they end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.commands import run_command
from tests.contract.golden import Golden

_COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "steerseg": ((), ("segment",), ("evaluate",), ("train",)),
    "steerseg-backend": (
        (),
        *((name,) for name in ("serve", "import", "connect", "predict", "refine", "corrections", "export")),
        ("versions",),
        *(("versions", "1", name) for name in ("list", "show", "promote", "rollback", "export", "import")),
    ),
}
_MISUSES: dict[str, tuple[tuple[str, ...], ...]] = {
    "steerseg": (
        (),
        ("nonsense",),
        ("segment",),
        ("segment", "a.mp4", "the dog"),
        ("segment", "nowhere.mp4", "the dog", "-o", "out"),
        ("segment", "nowhere.mp4", "the dog", "-o", "out", "--preset", "nonsense"),
        ("segment", "a.mp4", "the dog", "-o", "out", "--keyframes", "0"),
        ("segment", "a.mp4", "the dog", "-o", "out", "--granularity", "pixel"),
        ("evaluate", "--dataset", "nowhere", "-o", "results"),
    ),
    "steerseg-backend": (
        (),
        ("nonsense",),
        ("serve", "--port", "0"),
        ("serve", "--preset", "nonsense", "--port", "0"),
        ("export", "1"),
        ("export", "1", "--format", "nonsense"),
        ("export", "1", "--format", "coco"),
        ("export", "1", "--format", "coco", "--videos", "nowhere"),
        ("corrections", "x"),
        ("corrections", "1"),
        ("versions", "1"),
        ("versions", "1", "promote"),
        ("import", "1", "nowhere.mp4"),
        ("import", "1", "nowhere.mp4", "--document-root", "nowhere"),
        ("import", "1", "nowhere.mp4", "--stride", "0"),
        ("connect",),
        ("connect", "--project", "1"),
        ("connect", "--project", "1", "--title", "x"),
        ("predict", "1"),
        ("predict", "1", "--jobs", "0"),
    ),
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, a wide terminal, and no settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    for name in ("URL", "API_KEY"):
        monkeypatch.delenv(f"STEERSEG_LABEL_STUDIO_{name}", raising=False)
    monkeypatch.delenv("STEERSEG_LOCAL_FILES_ROOT", raising=False)
    monkeypatch.delenv("STEERSEG_DATA_DIR", raising=False)


@pytest.mark.parametrize("name", _COMMANDS)
def test_options(golden: Golden, name: str) -> None:
    told: dict[str, Any] = {}
    for command in _COMMANDS[name]:
        ended = run_command(name, *command, "--help")
        assert ended.status == 0, ended.errors
        usage, _, explained = ended.output.partition("\n")
        told[" ".join(command)] = {
            "usage": usage,
            "commands": re.findall(r"^    ([a-z]+) ", explained, re.MULTILINE),
            "variables": sorted(set(re.findall(r"STEERSEG_\w+", explained))),
        }
    golden.check(f"commands/{name}-options", told)


@pytest.mark.parametrize("name", _MISUSES)
def test_statuses(golden: Golden, name: str) -> None:
    told = {" ".join(arguments): run_command(name, *arguments) for arguments in _MISUSES[name]}
    for arguments, ended in told.items():
        assert "Traceback" not in ended.errors, arguments
        assert ended.errors, arguments
    left = sorted(path.as_posix() for path in Path().rglob("*"))
    statuses = {arguments: ended.status for arguments, ended in told.items()}
    golden.check(f"commands/{name}-statuses", {"statuses": statuses, "left behind": left})
