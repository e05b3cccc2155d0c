"""The command line, up to the models; with the models it is tested end to end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steerseg.cli.main import build_parser, main
from steerseg.cli.options import method_config
from steerseg.cli.progress import ProgressBar
from steerseg.cli.segment import summary
from steerseg.config import PipelineConfig
from steerseg.output.proposal import load_proposal
from steerseg.presence.signals import Presence
from steerseg.presets import Preset
from steerseg.proposal import Proposal
from steerseg.video import load_video

MakeProposal = Callable[..., Proposal]


def run(*arguments: str) -> int:
    return main(arguments)


def parsed(*more: str) -> argparse.Namespace:
    return build_parser().parse_args(["segment", "a.mp4", "the dog", "-o", "out", *more])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"steerseg {version('steerseg')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segment"],
        ["segment", "a.mp4", "the dog"],
        ["segment", "a.mp4", "the dog", "-o", "out", "--keyframes", "0"],
        ["segment", "a.mp4", "the dog", "-o", "out", "--stride", "-1"],
        ["segment", "a.mp4", "the dog", "-o", "out", "--granularity", "pixel"],
        ["segment", "a.mp4", "the dog", "-o", "out", "--fps", "nan"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_what_is_not_given_stays_as_the_preset_says() -> None:
    base = PipelineConfig(keyframes=8, alternatives=5, heads="mean")
    assert method_config(parsed(), base) == base


def test_every_switch_of_the_method() -> None:
    options = parsed(
        *("--no-reasoning", "--no-soft-prompts", "--background", "--granularity", "video", "--heads", "mean"),
        *("--keyframes", "4", "--alternatives", "1"),
    )
    assert method_config(options, PipelineConfig()) == replace(
        PipelineConfig(),
        reasoning=False,
        soft_prompts=False,
        background=True,
        granularity="video",
        heads="mean",
        keyframes=4,
        alternatives=1,
    )


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("steerseg: error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_errors_are_one_line_and_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    missing = str(tmp_path / "missing.mp4")
    assert "does not exist" in error_of(capsys, "segment", missing, "the dog", "-o", out)
    assert "expression is empty" in error_of(capsys, "segment", missing, "  ", "-o", out)
    assert "10000 characters" in error_of(capsys, "segment", missing, "x" * 10_000, "-o", out)
    (tmp_path / "file").touch()
    assert "cannot be made a folder" in error_of(
        capsys, "segment", missing, "the dog", "-o", str(tmp_path / "file" / "out")
    )
    assert "private or local" in error_of(capsys, "segment", "http://127.0.0.1/a.mp4", "the dog", "-o", out)


@pytest.mark.parametrize("command", ["segment", "evaluate", "train"])
def test_what_fails_leaves_no_empty_folder(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")
    arguments = [missing, "the dog"] if command == "segment" else ["--dataset", missing]
    made, kept = tmp_path / "new" / "out", tmp_path / "kept"
    kept.mkdir()
    for folder in (made, kept):
        error_of(capsys, command, *arguments, "-o", str(folder))
    assert not made.parent.exists()
    assert kept.is_dir(), "it was there before"


def test_unknown_preset_is_an_error_after_the_video_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_proposal: MakeProposal
) -> None:
    proposal = make_proposal()
    proposal.save(tmp_path / "first")  # its overlay serves as a video
    line = error_of(
        capsys,
        *("segment", str(tmp_path / "first" / "overlay.mp4"), "the square", "-o", str(tmp_path / "out")),
        *("--preset", "no-such-preset"),
    )
    assert "no-such-preset" in line


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("steerseg.cli.segment.run_segment", interrupt)
    assert run("segment", "a.mp4", "the dog", "-o", "out") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_summary_of_a_find(make_proposal: MakeProposal) -> None:
    assert summary(make_proposal(), Path("out")).splitlines() == [
        'found "the upper square" on 10 of 12 frames (score 0.81)',
        "  attributes    square, upper, moving right",
        "  alternatives  #2 on 12 of 12 frames (score -0.25)",
        "  files         out/proposal.json",
        "                out/overlay.mp4",
        "                out/masks/ (12 pictures)",
        "                out/maps.png",
    ]


def test_summary_of_nothing(make_proposal: MakeProposal) -> None:
    lines = summary(make_proposal(found=False, attributes=()), Path("out")).splitlines()
    assert lines == [
        'nothing found for "the upper square"; maps.png shows where the model looked',
        "  files         out/proposal.json",
        "                out/maps.png",
    ]


def test_summary_of_an_unsure_find(make_proposal: MakeProposal) -> None:
    preset = Preset(name="tiny", lvlm="lvlm", sam2="sam2", unsure_below=0.9, hint="The models know squares.")
    lines = summary(make_proposal(), Path("out"), preset).splitlines()
    assert lines[1:3] == [
        "  unsure        clear matches score 0.90 or more",
        "  hint          The models know squares.",
    ]
    assert (
        len(
            summary(
                make_proposal(), Path("out"), preset.model_copy(update={"unsure_below": 0.5})
            ).splitlines()
        )
        == 7
    )
    nothing = summary(make_proposal(found=False, attributes=()), Path("out"), preset).splitlines()
    assert nothing[1] == lines[2]


def test_segment_from_frames_to_files(
    tmp_path: Path, preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way over small random models of the real architectures."""
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (9, 45, 70, 3), dtype=np.uint8)
    for index, frame in enumerate(noise):
        Image.fromarray(frame).save(frames / f"{index}.png")
    arguments = ("segment", str(frames), "  the  red car ", "-o", str(out), "--preset", str(preset))

    assert run(*arguments, "--device", "cpu", "--fps", "10") == 0
    printed = capsys.readouterr().out
    assert printed.startswith('found "the red car" on ')
    assert str(out / "proposal.json") in printed
    proposal = load_proposal(out)
    assert proposal.expression == "the red car"
    assert 1 <= len(proposal.tracklets) <= 2
    assert len(list((out / "masks").iterdir())) == len(load_video(out / "overlay.mp4")) == 9
    assert (out / "maps.png").stat().st_size > 1000

    more = ("--granularity", "video", "--no-reasoning", "--keyframes", "3", "--stride", "2")
    assert run(*arguments, *more) == 0
    again = load_proposal(out)
    assert again.maps.frame is None
    assert again.attributes == ()
    assert len(again.maps.keyframes) == 3
    assert len(again.pts) == 5  # every other of nine frames


def test_progress_bar_takes_any_order_of_stages() -> None:
    with ProgressBar() as progress:
        for stage, fraction in [
            ("decode", 0.0),
            ("decode", 0.7),
            ("decode", 0.3),
            ("new stage", 2.0),
            ("decode", 1),
        ]:
            progress(stage, fraction)


def test_progress_is_written_as_lines_where_nobody_sees_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter((0.0, 1.0, 12.0, 13.0, 14.0))
    with ProgressBar(clock=lambda: next(seconds)) as progress:
        for stage, fraction in [
            ("load", 0.0),
            ("load", 0.5),
            ("load", 0.8),
            ("evaluate", 0.0),
            ("evaluate", 0.1),
        ]:
            progress(stage, fraction)
    assert capsys.readouterr().err.splitlines() == [
        "loading models",
        "loading models: 80% after 12 s",
        "evaluating",
    ]


@pytest.mark.parametrize(("confidence", "unsure"), [(0.93, False), (0.31, True)])
def test_summary_of_a_find_with_a_confidence(
    make_proposal: MakeProposal, confidence: float, unsure: bool
) -> None:
    preset = Preset(name="tiny", lvlm="lvlm", sam2="sam2", unsure_below=0.9, hint="The models know squares.")
    found = replace(make_proposal(), presence=Presence(0.9, confidence=confidence))
    lines = summary(found, Path("out"), preset).splitlines()
    assert lines[0] == f'found "the upper square" on 10 of 12 frames (confidence {confidence:.2f})'
    assert ("  unsure        it is more likely wrong than right" in lines) is unsure
