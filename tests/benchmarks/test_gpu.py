"""The GPU benchmark on a CPU, with tiny models: everything is measured, and both ways give the same maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import benchmarks.clicks.__main__ as clicks
from benchmarks.gpu import data_parallel, objects, peers, small_cards
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.layouts import LAYOUTS, build_layout
from steerseg.lvlm.past import recurrent_layers
from steerseg.presets import find_preset, load_preset

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
    assert "not measured" not in (tmp_path / "measures.md").read_text()


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


def records(folder: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "qwen2.5-vl-7b"])
def test_layouts_are_those_of_the_presets(name: str) -> None:
    """Parameters in billions as their makers tell them, and layers as the preset counts them."""
    model, _ = build_layout(name, torch.device("meta"), torch.bfloat16)
    told = {"qwen2.5-vl-3b": 3.75, "qwen3-vl-4b": 4.44, "qwen3-vl-2b": 2.13, "internvl3-2b": 2.09}
    told["smolvlm2-2.2b"] = 2.25
    told["qwen3.5-4b"] = 4.54  # counted from its configuration, without the layer that guesses further tokens
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == told[name]
    layers = load_preset(find_preset(name)).layers
    assert layers is not None
    text = model.config.text_config
    attending = sorted(set(range(text.num_hidden_layers)) - recurrent_layers(text))
    assert list(layers) == [layer for layer in attending if 2 * layer >= text.num_hidden_layers]


def test_our_masks_are_those_of_the_sam2_package(tmp_path: Path) -> None:
    options = ["-o", str(tmp_path), "--device", "cpu", "--size", "tiny", "--only", "sam2", "--counts", "1"]
    assert peers.main(options) == 0
    beside = records(tmp_path)["sam2: 1 objects, ours beside its own"]
    assert beside["mean_iou"] > 0.99
    assert beside["ratio"] > 0


def test_many_objects_are_measured(tmp_path: Path) -> None:
    assert objects.main(["-o", str(tmp_path), "--device", "cpu", "--size", "tiny", "--counts", "3"]) == 0
    known = records(tmp_path)
    for way in ("on the device", "with encoded masks"):
        assert known[f"3 objects, {way}, rate"]["frames_a_second"] > 0


def test_a_small_card_is_measured_and_what_failed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "qwen3-vl-2b-8GB-16-expandable"
    options = ["--here", "--cards", "8", "--presets", "qwen3-vl-2b", "--device", "cpu", "--size", "tiny"]
    assert small_cards.main(["-o", str(folder), *options]) == 0
    table = small_cards.summarise(tmp_path)
    assert "| 8 GB | `qwen3-vl-2b` | bfloat16 |" in table
    lines = (folder / "results.jsonl").read_text().splitlines()
    failed = json.dumps({"name": "cold", "failed": "OutOfMemoryError: none left"})
    kept = [failed if '"cold: propose"' in line else line for line in lines]
    (folder / "results.jsonl").write_text("\n".join(kept) + "\n")
    assert "does not fit" in small_cards.summarise(tmp_path)


def test_clicks_are_measured(tmp_path: Path) -> None:
    options = ["-o", str(tmp_path / "clicks.jsonl"), "--size", "tiny", "--frames", "4"]
    assert clicks.main([*options, "--presets", "clicks-edgetam", "--precisions", "float32", "native"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "clicks.jsonl").read_text().splitlines()]
    assert [line["precision"] for line in lines] == ["float32", "native"]
    assert all(line["frame"] > 0 for line in lines)
