"""Datasets and correction files that the commands write of the conversation's annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.backend import Backend
from tests.contract.commands import Ended, run_command
from tests.contract.conversation import FRAMES, VIDEO, Answers
from tests.contract.files import fingerprints
from tests.contract.golden import Golden

pytestmark = pytest.mark.timeout(300)

_FORMATS = ("coco", "youtube-vos", "davis", "mots", "yolo-seg")
_OTHERS = {
    "video-coco": (VIDEO, "coco", "--no-images"),
    "video-youtube-vos": (VIDEO, "youtube-vos", "--no-images"),
    "video-with-images": (VIDEO, "coco"),
    "expressions": (FRAMES, "coco", "--no-images", "--categories", "expression"),
    "confident": (FRAMES, "mots", "--no-images", "--propagation-confidence", "0.99"),
    "any": (FRAMES, "davis", "--no-images", "--propagation-confidence", "0"),
}


def _export(backend: Backend, output: Path, project: int, format_: str, *options: str) -> Ended:
    return run_command(
        "steerseg-backend",
        *("export", project, "--format", format_, "--output", output, *options),
        *("--data-dir", backend.data_dir, "--local-files-root", backend.data_dir.parent / "media"),
        "--allow-incomplete",  # there is no Label Studio to be read first
    )


@pytest.mark.parametrize("format_", _FORMATS)
def test_formats(talked: tuple[Backend, Answers], golden: Golden, tmp_path: Path, format_: str) -> None:
    ended = _export(talked[0], tmp_path / "out", FRAMES, format_)
    assert ended.status == 0, ended.errors
    golden.check(f"exports/{format_}", fingerprints(tmp_path / "out"))
    assert _export(talked[0], tmp_path / "out", FRAMES, format_).status == 2, "what is there is left alone"


@pytest.mark.parametrize("name", _OTHERS)
def test_options(talked: tuple[Backend, Answers], golden: Golden, tmp_path: Path, name: str) -> None:
    project, format_, *options = _OTHERS[name]
    ended = _export(talked[0], tmp_path / "out", int(project), str(format_), *map(str, options))
    golden.check(f"exports/{name}", {"status": ended.status, "files": fingerprints(tmp_path / "out")})


@pytest.mark.parametrize("project", [VIDEO, FRAMES])
def test_corrections(talked: tuple[Backend, Answers], golden: Golden, tmp_path: Path, project: int) -> None:
    ended = run_command(
        "steerseg-backend",
        *("corrections", project, "--data-dir", talked[0].data_dir),
        *("--export", tmp_path / "out"),
    )
    assert ended.status == 0, ended.errors
    golden.check(f"exports/corrections-{project}", fingerprints(tmp_path / "out"))
