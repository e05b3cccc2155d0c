"""``steerseg doctor``: the preset that fits, what is missing, and weights in the hub's cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from steerseg.cli.doctor import describe
from steerseg.cli.main import main
from steerseg.presets import find_preset, fitting, load_preset
from steerseg.presets.fitting import NEEDS, advise, weights_of
from steerseg.runtime.machine import GIB, Gpu, Machine, are_weights_here

LAPTOP = Machine((), driver=False, cores=2, memory=16 * GIB, cache=Path("/cache"), disk_free=50 * 10**9)


def card(gib: float, free: float | None = None) -> Machine:
    gpu = Gpu("cuda:0", "A card", int(gib * GIB), int((gib if free is None else free) * GIB))
    return replace(LAPTOP, gpus=(gpu,), driver=True)


@pytest.mark.parametrize(
    ("gib", "preset"),
    [
        (80, "qwen2.5-vl-7b"),
        (23.6, "qwen2.5-vl-7b"),  # sold as 24 GB
        (15.7, "qwen3-vl-4b"),
        (11.7, "qwen3-vl-2b"),
        (7.7, "qwen3-vl-2b"),
        (5.8, "clicks-edgetam"),
    ],
)
def test_the_largest_preset_that_fits_the_card_is_named(gib: float, preset: str) -> None:
    advice = advise(card(gib))
    assert advice.need.preset == preset
    assert advice.command == f"steerseg-backend serve --preset {preset} --device cuda:0"


def test_without_a_gpu_clicks_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = advise(LAPTOP)
    assert (advice.need.preset, advice.device) == ("clicks-edgetam", "cpu")
    assert "there is no GPU" in advice.reason
    assert [weights.name for weights in advice.weights] == ["yonigozlan/EdgeTAM-hf"]
    monkeypatch.setattr(fitting, "has_package", lambda name: False)
    assert any("pip install '.[edgetam]'" in missing for missing in advise(LAPTOP).missing)


def test_what_is_in_the_way_is_named() -> None:
    (missing,) = advise(replace(card(80), disk_free=10**9)).missing
    assert "17.5 GB, and 1.0 GB are free in /cache" in missing
    (note,) = advise(card(80, free=8)).notes
    assert "other processes hold 72.0 GiB of cuda:0" in note
    (note,) = advise(replace(LAPTOP, driver=True)).notes
    assert "this torch sees no GPU" in note


def test_every_preset_that_is_named_ships() -> None:
    for need in NEEDS:
        preset = load_preset(find_preset(need.preset))
        assert len(weights_of(preset)) == (1 if preset.lvlm is None else 2)
    assert [need.gpu_gib for need in NEEDS] == sorted((need.gpu_gib for need in NEEDS), reverse=True)


def test_half_a_download_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("1")
    assert not are_weights_here("a/b")
    parts = {"x": "model-1.safetensors", "y": "model-2.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (snapshot / "model-1.safetensors").touch()
    assert not are_weights_here("a/b")
    (snapshot / "model-2.safetensors").touch()
    assert are_weights_here("a/b")
    assert not are_weights_here("a/b", ("sam2_hiera_tiny.pt",))
    assert are_weights_here(str(tmp_path))


def test_the_command_reports_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("first    steerseg-backend serve --preset ")
    assert status == any(line.startswith("missing") for line in lines)
    assert next(iter(describe(LAPTOP, advise(LAPTOP)))) == "GPU      none that torch sees"
