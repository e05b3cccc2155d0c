"""``steerseg evaluate`` with the real code path and small random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steerseg import SteerSeg, load_video
from steerseg.cli.main import main
from steerseg.evaluation import MAIN, Result, ResultFolder, read_ref_youtube_vos, score
from steerseg.evaluation.variants import STEERSEG
from steerseg.soft_prompts import SoftPrompts

KINDS = ("motion", "spatial")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short clips of a moving square, two expressions each, in Ref-YouTube-VOS layout."""
    root = tmp_path_factory.mktemp("squares")
    videos = {}
    rng = np.random.default_rng(0)
    for video in ("a", "b"):
        images, annotations = root / "train" / "JPEGImages" / video, root / "train" / "Annotations" / video
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for t in range(5):
            picture = rng.integers(0, 90, (42, 64, 3), dtype=np.uint8)
            mask = np.zeros((42, 64), dtype=np.uint8)
            mask[10:24, 8 + 4 * t : 22 + 4 * t] = 1
            picture[mask == 1] = (230, 40, 40)
            Image.fromarray(picture).save(images / f"{t:05d}.jpg")
            Image.fromarray(mask).save(annotations / f"{t:05d}.png")
        videos[video] = {
            "frames": [f"{t:05d}" for t in range(5)],
            "expressions": {
                str(k): {
                    "exp": f"the {kind} square",
                    "obj_id": "1",
                    "kind": kind,
                    "name": "square",
                    "twin": k == 0,
                }
                for k, kind in enumerate(KINDS)
            },
        }
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"videos": videos}))
    return root


@pytest.fixture
def command(dataset: Path, preset: Path, tmp_path: Path) -> list[str]:
    arguments = ["evaluate", "--dataset", str(dataset), "--split", "train", "-o", str(tmp_path / "out")]
    return [*arguments, "--preset", str(preset), "--device", "cpu"]


def kept(out: Path) -> dict[str, dict[str, Result]]:
    return {name: measured.results for name, measured in ResultFolder(out / "results").read().items()}


def compared(results: dict[str, dict[str, Result]]) -> list[tuple[object, ...]]:
    # Scores differ in their last digits with the number of threads.
    return [
        (name, r.id, r.j, r.f, round(r.score, 3), r.attributes, r.answer, r.pointing)
        for name, entry in sorted(results.items())
        for r in sorted(entry.values(), key=lambda r: r.id)
    ]


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "--limit", "1"]) == 0
    (first,) = (out / "results").iterdir()
    lines = first.read_text().splitlines()
    assert len(lines) == 2
    assert str(tmp_path) not in first.read_text()
    assert main(command) == 0
    assert first.read_text().splitlines() == lines  # what is there is not measured again
    assert len(kept(out)["steerseg"]) == 4
    table = (out / "table.md").read_text()
    assert "| **+ both (SteerSeg)** | 4 |" in table
    assert table.strip() in capsys.readouterr().out

    prompts = SoftPrompts(torch.zeros(4, 32), torch.zeros(4, 32))
    prompts.save(tmp_path / "other")
    assert main([*command, "--soft-prompts", str(tmp_path / "other")]) == 2
    assert "other settings (soft_prompts)" in capsys.readouterr().err


def test_all_variants_and_ablations_give_what_the_product_gives(
    command: list[str], preset: Path, dataset: Path, tmp_path: Path
) -> None:
    prompts = SoftPrompts(torch.ones(8, 32), torch.zeros(8, 32), placement="start")
    prompts.save(tmp_path / "other")
    names = [variant.name for variant in MAIN]
    command += ["--variants", *names, "--ablations", "--soft-prompts", f"tokens-8={tmp_path / 'other'}"]
    assert main(command) == 0
    out = tmp_path / "out"
    results = kept(out)
    assert set(results) > {*names, "frame-map", "heads-mean", "frame-weight-0.0", "tokens-8"}
    assert {len(entry) for entry in results.values()} == {4}

    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    sample = read_ref_youtube_vos(dataset, "train")[1]
    video = load_video(sample.folder, fps=sample.fps)
    for name, soft_prompts in (("raw", None), ("steerseg", None), ("tokens-8", prompts)):
        variant = next((v for v in MAIN if v.name == name), STEERSEG)
        proposal = steerseg.propose(
            video, sample.expression, config=variant.config(steerseg.config), soft_prompts=soft_prompts
        )
        masks = proposal.best.masks if proposal.tracklets else np.zeros(video.frames.shape[:3], dtype=bool)
        scores = score(masks, sample.masks())
        result = results[name][sample.id]
        assert (result.j, result.f) == (scores.j, scores.f)
        assert result.attributes == proposal.attributes
        assert result.score == pytest.approx(proposal.tracklets[0].score if proposal.tracklets else 0.0)
        assert result.answer is not None
        assert result.pointing is not None
    assert results["frame-map"][sample.id].pointing.video is None

    table = (out / "table.md").read_text()
    for part in (
        "upper bound",
        "with a namesake",
        "told apart by motion",
        "frame map only",
        "| frame weight | 0.0 |",
    ):
        assert part in table
    assert "tokens-8 (8 tokens, start)" in table
    for picture in ("steering.png", "kinds.png", "ablations.png", "frame-weight.png"):
        assert picture in table
        assert Image.open(out / picture).width > 300


def test_several_processes_give_the_same_and_folders_can_be_joined(
    command: list[str], tmp_path: Path
) -> None:
    command += ["--variants", "click", "raw", "cot"]
    assert main(command) == 0
    whole = kept(tmp_path / "out")
    elsewhere = [
        str(tmp_path / "elsewhere") if argument == str(tmp_path / "out") else argument for argument in command
    ]
    assert main([*elsewhere, "--processes", "2"]) == 0
    assert compared(kept(tmp_path / "elsewhere")) == compared(whole)

    joined = tmp_path / "joined" / "results"
    joined.mkdir(parents=True)
    for path in (tmp_path / "elsewhere" / "results").iterdir():
        lines = path.read_text().splitlines()
        (joined / f"1-{path.name}").write_text("\n".join(lines[:3]) + "\n")
        (joined / f"2-{path.name}").write_text("\n".join([lines[0], *lines[2:]]) + '\n{"half')
    assert compared(kept(tmp_path / "joined")) == compared(whole)
    assert main(["evaluate", "--report-only", "-o", str(tmp_path / "joined")]) == 0
    table = (tmp_path / "joined" / "table.md").read_text()
    assert "| raw attention | 4 |" in table
    assert "| + CoT | 4 |" in table


def test_what_needs_soft_prompts_is_left_out_or_refused(
    command: list[str], preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    card = json.loads((preset / "preset.json").read_text())
    del card["soft_prompts"]
    (plain / "preset.json").write_text(json.dumps(card))
    for part in ("lvlm", "sam2"):
        (plain / part).symlink_to(preset / part)
    command[command.index(str(preset))] = str(plain)
    assert main([*command, "--limit", "1", "--variants", "soft"]) == 2
    assert "--soft-prompts" in capsys.readouterr().err
    assert main([*command, "--limit", "1", "--variants", "raw", "--ablations"]) == 0
    assert "Left out for want of soft prompts: frame-map" in capsys.readouterr().out
    assert set(kept(tmp_path / "out")) == {"raw"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "best"], "unknown variant"),
        (["--report-only"], "holds no results"),
        (["--example", "c/0", "--limit", "1"], "choose an id of the split"),
    ],
)
def test_mistakes_are_told(
    command: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *more]) == 2
    assert message in capsys.readouterr().err
