"""Attention sinks as they are measured, on maps that are known and on those of a small random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steerseg import SteerSeg
from steerseg.cli.main import main
from steerseg.errors import ExpressionError
from steerseg.evaluation.sinks import SinkMeter, SinkShares, sinks_table
from steerseg.lvlm import LVLM
from steerseg.presets import open_preset
from steerseg.soft_prompts import SoftPrompts
from steerseg.video import Video, video_from_frames


def test_an_even_map_has_as_much_as_there_are_cells() -> None:
    shares = SinkShares.of(torch.full((3, 6, 10), 0.25))
    assert shares.border == pytest.approx(28 / 60)
    assert shares.border_cells == pytest.approx(28 / 60)
    assert shares.corners == pytest.approx(4 / 60)
    assert shares.corner_cells == pytest.approx(4 / 60)
    assert shares.top_left == pytest.approx(1 / 60)


def test_mass_on_border_and_corners_is_found() -> None:
    maps = torch.zeros(4, 5, 7)
    maps[0, 0, 0] = 3.0  # a sink in the top left corner
    maps[1, 4, 6], maps[1, 2, 2] = 1.0, 3.0
    maps[2, 0, 3] = 2.0  # on the border only
    # The last slice is empty and counts for nothing.
    shares = SinkShares.of(maps)
    assert shares.border == pytest.approx((1 + 0.25 + 1) / 3)
    assert shares.corners == pytest.approx((1 + 0.25) / 3)
    assert shares.top_left == pytest.approx(1 / 3)
    assert shares.border_peaks == pytest.approx(2 / 3)
    assert shares.corner_peaks == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="empty"):
        SinkShares.of(maps[3:])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)])
def test_a_grid_of_a_row_is_all_border(size: tuple[int, int]) -> None:
    shares = SinkShares.of(torch.ones(1, *size))
    assert shares.border == shares.border_cells == 1.0
    assert shares.corners == pytest.approx(shares.corner_cells)


def clip(count: int = 9) -> Video:
    frames = np.random.default_rng(count).integers(0, 256, (count, 54, 96, 3), dtype=np.uint8)
    return video_from_frames(frames, fps=2.0)


def test_the_maps_are_those_of_a_proposal(preset: Path) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    config = steerseg.config
    meter = SinkMeter(steerseg.lvlm, steerseg.preset, steerseg.soft_prompts, config)
    measured = meter.measure(clip(), "the  dog")
    assert list(measured) == ["frame, raw", "video, raw", "fused"]
    features = steerseg.encode(clip(), config)
    maps = steerseg.ground(features, "the dog", (), config, steerseg.soft_prompts)
    expected = SinkShares.of(maps.fused)
    assert measured["fused"].border == pytest.approx(expected.border, abs=1e-4)
    assert measured["fused"].corner_peaks == expected.corner_peaks
    with pytest.raises(ExpressionError, match="empty"):
        meter.measure(clip(), " ")


def test_means_stand_under_several_clips() -> None:
    first, second = (SinkShares.of(torch.rand(2, 4, 5) + 0.1) for _ in range(2))
    table = sinks_table({"a": {"fused": first}, "b": {"fused": second}})
    assert table.count("\n") == 4
    assert f"| **mean** | fused | {(first.border + second.border) / 2:.1%} |" in table
    assert "mean" not in sinks_table({"a": {"fused": first}})


def test_the_command_measures_clips_without_sam2(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index, frame in enumerate(clip(6).frames):
            Image.fromarray(frame).save(tmp_path / name / f"{index}.png")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("SAM 2 was loaded")

    monkeypatch.setattr("steerseg.tracking.Tracker.from_pretrained", refuse)
    clips = [str(tmp_path / name) for name in ("one", "two")]
    assert (
        main(
            ["sinks", *clips, "--preset", str(preset), "--device", "cpu", "--background", "--keyframes", "4"]
        )
        == 0
    )
    out = capsys.readouterr().out
    digest = SoftPrompts.load(preset / "soft_prompts").digest
    assert out.startswith(f"preset small, 4 keyframes, “the main object”, steered by soft prompts {digest}\n")
    for row in (
        "| one | frame, raw |",
        "|  | fused, less background |",
        "| two | frame, raw |",
        "| **mean** |",
    ):
        assert row in out
    assert (
        main(
            [
                "sinks",
                clips[0],
                "-e",
                "the cat",
                "--preset",
                str(preset),
                "--no-soft-prompts",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert "“the cat”, raw attention" in capsys.readouterr().out


def test_a_preset_may_ask_for_the_background(preset: Path) -> None:
    base = open_preset(str(preset))
    changed = base.model_copy(update={"pipeline": {**base.pipeline, "background": True}})
    lvlm = LVLM.from_pretrained(base.lvlm, device=torch.device("cpu"), dtype=torch.float32)
    names = [
        list(SinkMeter(lvlm, one, None, one.config).measure(clip(), "the dog")) for one in (base, changed)
    ]
    assert names[1] == [*names[0], "fused, less background"]
