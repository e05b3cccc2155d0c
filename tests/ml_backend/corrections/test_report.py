"""What ``steerseg-backend corrections`` tells and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.cli.main import main
from ml_backend.models.executor import Executor, ModelExecutor
from steerseg.masks import decode_rle
from tests.support import mask_targets
from tests.support.annotation_samples import PAGES, choice, mask_regions, square
from tests.support.completing import Completing, moving, regions


@pytest.fixture
def completing(tmp_path: Path) -> Iterator[Completing]:
    executor: ModelExecutor = Executor.local([mask_targets.masking])
    made = Completing(tmp_path, executor)
    proposal = made.propose(moving())
    made.submit(regions(proposal), 1, lead_time=8.0)
    made.submit([*regions(proposal)[:11], *mask_regions({11: square(40)}, origin="prediction-changed")], 2)
    made.submit([*regions(proposal), choice("Reject")], 3)
    made.submit(mask_regions({0: square(20)}, proposed=False), 4)
    made.submit([], 5)
    made.submit([], 6, was_cancelled=True)
    made.completer.complete_all()
    yield made
    made.completer.close()
    executor.close()
    made.close()


def test_it_lists_counts_corrections_and_reasons(
    completing: Completing, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(completing.settings.data_dir)
    assert main(["corrections", "1", "--data-dir", folder]) == 0
    out = capsys.readouterr().out
    assert "4 usable (2 corrected, 1 accepted, 1 rejected), 1 set aside, 1 skipped" in out
    assert "1.00    0:08  accepted   the red ball" in out
    assert "v1: 1 of 4 proposals accepted as they were" in out
    assert "annotation 5: the annotation shows nothing on any frame" in out


def test_a_project_without_corrections_says_so(
    completing: Completing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corrections", "99", "--data-dir", str(completing.settings.data_dir)]) == 0
    assert capsys.readouterr().out == "project 99: 0 usable\n"


def test_without_a_database_it_says_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corrections", "1", "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_masks_are_exported_with_where_they_come_from(
    completing: Completing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["corrections", "1", "--data-dir", str(completing.settings.data_dir), "--export", str(out)]
    assert main([*arguments, "--propagation-confidence", "0.5"]) == 0
    written = {file["annotation"]: file for file in (json.loads(p.read_text()) for p in out.iterdir())}
    assert sorted(written) == [1, 2, 4], "a rejected proposal has no masks"
    changed = written[2]["frames"]["11"]
    assert (changed["from"], changed["changed"]) == ("mask", True)
    assert (decode_rle(changed["mask"]) == square(40)).all()
    assert len(written[1]["frames"]) == PAGES
    assert written[1]["proposed_by"] == "v1"
    propagated = [index for index, frame in written[4]["frames"].items() if frame["from"] == "propagated"]
    assert sorted(map(int, propagated)) == [1, 2, 3, 4, 5, 6]
