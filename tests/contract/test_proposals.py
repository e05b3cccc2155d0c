"""What the demo's models propose for clips of the sprite world, through the library and its command."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steerseg import SteerSeg, load_video
from steerseg.demo.dataset import clips, load_manifest
from tests.contract.commands import run_command
from tests.contract.golden import Golden, Tolerance

pytestmark = pytest.mark.timeout(600)

_FRAMES = 8
_CLOSE = Tolerance(number=1e-4, iou=0.999)
_EXPRESSIONS = ("the red penguin", "track the one that bounces off the edges", "all that is on the left")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every second frame of the beginning of two clips, as pictures."""
    made = []
    for clip in islice(clips(load_manifest("val")), 2):
        made.append(tmp_path_factory.mktemp("clip"))
        for index, frame in enumerate(clip.frames[: 2 * _FRAMES : 2]):
            Image.fromarray(frame).save(made[-1] / f"{index:05d}.png")
    return made


@pytest.fixture(scope="module")
def steerseg() -> SteerSeg:
    return SteerSeg.from_pretrained("demo", device="cpu")


def _read(folder: Path) -> dict[str, Any]:
    """What is in a proposal's folder, without versions and what follows from the masks or the place of the clip."""
    told: dict[str, Any] = json.loads((folder / "proposal.json").read_text("utf-8"))
    told["versions"] = sorted(told["versions"])
    for name in ("source", "digest"):
        assert told["video"].pop(name)
    for tracklet in told["tracklets"]:
        assert len(tracklet.pop("boxes")) == _FRAMES
    told["files"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return told


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("expression", _EXPRESSIONS)
def test_proposals(
    steerseg: SteerSeg, folders: list[Path], golden: Golden, tmp_path: Path, number: int, expression: str
) -> None:
    proposal = steerseg.propose(load_video(folders[number]), expression)
    proposal.save(tmp_path)
    name = f"proposals/{number}-{_EXPRESSIONS.index(expression)}"
    golden.check(name, _read(tmp_path), _CLOSE)


def test_the_command_without_reasoning(folders: list[Path], golden: Golden, tmp_path: Path) -> None:
    ended = run_command(
        "steerseg",
        *("segment", folders[0], _EXPRESSIONS[0], "-o", tmp_path / "out", "--device", "cpu"),
        *("--keyframes", 4, "--alternatives", 1, "--no-reasoning", "--no-soft-prompts", "--fps", 10),
    )
    assert ended.status == 0, ended.errors
    golden.check("proposals/command", _read(tmp_path / "out"), _CLOSE)
