"""``steerseg evaluate`` with the real code path and small random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steerseg import cli


def dataset(root: Path, frames: int = 5) -> None:
    """Two short clips of a moving square in Ref-YouTube-VOS layout."""
    videos = {}
    rng = np.random.default_rng(0)
    for video in ("a", "b"):
        images, annotations = root / "train" / "JPEGImages" / video, root / "train" / "Annotations" / video
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for t in range(frames):
            picture = rng.integers(0, 90, (42, 64, 3), dtype=np.uint8)
            mask = np.zeros((42, 64), dtype=np.uint8)
            mask[10:24, 8 + 4 * t : 22 + 4 * t] = 1
            picture[mask == 1] = (230, 40, 40)
            Image.fromarray(picture).save(images / f"{t:05d}.jpg")
            Image.fromarray(mask).save(annotations / f"{t:05d}.png")
        videos[video] = {
            "frames": [f"{t:05d}" for t in range(frames)],
            "expressions": {"0": {"exp": "the red square", "obj_id": "1"}},
        }
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"videos": videos}))


def test_evaluate_writes_results_and_a_table_and_resumes(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["evaluate", "--dataset", str(tmp_path / "data"), "--split", "train", "-o", str(out)]
    arguments += ["--preset", str(preset), "--device", "cpu"]
    assert cli.main([*arguments, "--limit", "1"]) == 0
    first = (out / "results.jsonl").read_text().splitlines()
    assert len(first) == 2
    assert cli.main(arguments) == 0
    lines = (out / "results.jsonl").read_text().splitlines()
    assert lines[:2] == first
    assert len(lines) == 3
    for line in lines[1:]:
        result = json.loads(line)
        assert 0 <= result["j"] <= 1
        assert result["jf"] == pytest.approx((result["j"] + result["f"]) / 2)
    table = (out / "table.md").read_text()
    assert "| all | 2 |" in table
    assert table.strip() in capsys.readouterr().out
    assert cli.main([*arguments, "--no-reasoning"]) == 2
    assert "other settings" in capsys.readouterr().err
