"""The GPU benchmark on a CPU, with tiny models: everything is measured, and both ways give the same maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import data_parallel
from benchmarks.gpu.__main__ import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_everything_is_measured_and_both_ways_agree(tmp_path: Path) -> None:
    assert main(["-o", str(tmp_path), "--device", "cpu", "--size", "tiny", "--quick"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "failed" in line]
    by_name = {line["name"]: line for line in lines}
    for name in ("frame", "video", "fused", "frame, prefix kept against not"):
        assert by_name[f"maps against straightforward: {name}"]["largest_difference"] <= 1e-4
    for name in ("cold: propose", "further: propose", "refinement, a sample", "straightforward: all stages"):
        assert by_name[name]["seconds"] > 0
    assert "| further: ground |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 0


def test_a_failed_measurement_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("benchmarks.gpu.__main__.make_tracker", broken)
    assert main(["-o", str(tmp_path), "--device", "cpu", "--size", "tiny", "--quick"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    failed = [line["name"] for line in lines if "failed" in line]
    assert {"SAM 2", "warm_up", "proposals"} <= set(failed)
    assert any(line["name"] == "refinement, a sample" and "seconds" in line for line in lines)
    assert any(line["name"].startswith(("4-bit", "quantised")) for line in lines)


def test_training_is_measured_and_told_beside_what_was_measured_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        arguments = ["-o", str(tmp_path), "--device", "cpu", "--size", "tiny", "--steps", "2"]
        assert data_parallel.main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "data-parallel.jsonl").read_text().splitlines()]
    assert [line["processes"] for line in lines] == [1, 1]
    assert all(line["expressions_per_second"] > 0 for line in lines)
    assert "times the first" in capsys.readouterr().out
