"""The whole way over small random models saved in the real layouts, from a folder and by hub ids."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerseg import SteerSeg
from steerseg.errors import Cancelled, ConfigError, ExpressionError
from steerseg.soft_prompts import SoftPrompts
from steerseg.video import Video, video_from_frames
from tests.conftest import save_tiny_lvlm


@pytest.fixture(scope="module")
def steerseg(preset: Path) -> SteerSeg:
    return SteerSeg.from_pretrained(preset, device="cpu")


def clip(frames: int = 9, height: int = 45, width: int = 70) -> Video:
    pixels = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    return video_from_frames(pixels, fps=10)


def test_a_proposal_holds_what_it_promises(steerseg: SteerSeg) -> None:
    video = clip()
    stages: list[str] = []
    proposal = steerseg.propose(
        video, "  the  red car ", progress=lambda stage, fraction: stages.append(stage)
    )
    assert proposal.expression == "the red car"
    assert 1 <= len(proposal.tracklets) <= 2
    assert proposal.best.masks.shape == (9, 45, 70)
    assert proposal.best.frame_scores.shape == (9,)
    assert proposal.tracklets == tuple(sorted(proposal.tracklets, key=lambda t: -t.score))
    assert proposal.maps.keyframes == (0, 2, 4, 6, 8)
    assert set(stages) >= {"keyframes", "reasoning", "grounding", "tracking"}
    assert {"steerseg", "preset", "lvlm", "tracker", "soft_prompts"} <= set(proposal.versions)
    assert proposal.versions["soft_prompts"] == steerseg.soft_prompts.digest


def test_the_same_request_gives_the_same_answer_whether_the_video_is_remembered_or_not(preset: Path) -> None:
    fresh = SteerSeg.from_pretrained(preset, device="cpu")
    first = fresh.propose(clip(), "the red car")
    fresh.propose(clip(), "another thing")
    again = fresh.propose(clip(), "the red car")
    assert [t.rles for t in first.tracklets] == [t.rles for t in again.tracklets]
    assert [t.score for t in first.tracklets] == [t.score for t in again.tracklets]


def test_an_answer_ends_where_the_work_is_cancelled(steerseg: SteerSeg) -> None:
    """A person who waits for the models does not wait for the rest of an answer."""
    steerseg.forget()
    told: list[str] = []

    def stop(stage: str, fraction: float) -> None:
        told.append(stage)
        if told.count("reasoning") == 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        steerseg.propose(clip(), "the red car", progress=stop)
    assert told[-4:] == ["reasoning"] * 4, "after one token or more, and before the last"


def test_a_chain_of_thought_is_decoded_once_for_the_same_question(
    preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = SteerSeg.from_pretrained(preset, device="cpu")
    asked: list[str] = []
    answer = fresh.lvlm.answer

    def noted(text: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(text)
        return answer(text, *args, **kwargs)

    monkeypatch.setattr(fresh.lvlm, "answer", noted)
    for expression in ("the red car", "another thing", "the red car"):
        fresh.propose(clip(), expression)
    assert len(asked) == 2
    fresh.texts = replace(fresh.texts, reasoning="Look again. " + fresh.texts.reasoning)
    fresh.propose(clip(), "the red car")
    fresh.propose(clip(), "the red car", config=replace(fresh.config, max_new_tokens=7))
    fresh.propose(clip(frames=7), "the red car")
    fresh.forget()
    fresh.propose(clip(), "the red car")
    assert len(asked) == 6


def test_a_further_expression_encodes_no_frame_again(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = SteerSeg.from_pretrained(preset, device="cpu")
    fresh.propose(clip(), "the red car")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("features that do not depend on the expression were made twice")

    monkeypatch.setattr(fresh.lvlm, "encode_vision", refuse)
    monkeypatch.setattr(fresh.tracker.segmenter, "encode_frames", refuse)
    fresh.propose(clip(), "the other car")


@pytest.mark.parametrize(
    "change",
    [
        {"reasoning": False},
        {"soft_prompts": False},
        {"granularity": "frame"},
        {"granularity": "video"},
        {"heads": "mean"},
    ],
)
def test_every_ablation_runs_and_says_so(steerseg: SteerSeg, change: dict[str, object]) -> None:
    proposal = steerseg.propose(clip(), "the red car", config=replace(steerseg.config, **change))
    if change.get("reasoning") is False:
        assert proposal.attributes == ()
    if change.get("soft_prompts") is False:
        assert proposal.versions["soft_prompts"] == "none"
    assert (proposal.maps.video is None) == (change.get("granularity") == "frame")


def test_a_projects_own_prompts_steer_differently(steerseg: SteerSeg) -> None:
    generator = torch.Generator().manual_seed(9)
    other = SoftPrompts(torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator))
    plain = steerseg.propose(clip(), "the red car")
    steered = steerseg.propose(clip(), "the red car", soft_prompts=other)
    assert steered.versions["soft_prompts"] == other.digest
    assert not torch.allclose(plain.maps.fused, steered.maps.fused, atol=1e-3)


def test_prompts_of_another_model_are_refused(steerseg: SteerSeg) -> None:
    with pytest.raises(ConfigError, match="wide"):
        steerseg.propose(clip(), "the car", soft_prompts=SoftPrompts(torch.zeros(4, 8), torch.zeros(4, 8)))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_very_short_video_works(steerseg: SteerSeg, frames: int) -> None:
    assert len(steerseg.propose(clip(frames, 37, 51), "the red car").pts) == frames


@pytest.mark.parametrize("expression", ["", "   ", "x" * 10_000])
def test_a_bad_expression_is_refused_before_any_work(steerseg: SteerSeg, expression: str) -> None:
    with pytest.raises(ExpressionError):
        steerseg.propose(clip(), expression)


@pytest.mark.parametrize("stage", ["reasoning", "grounding", "tracking"])
def test_a_cancelled_proposal_stops_and_the_next_one_works(steerseg: SteerSeg, stage: str) -> None:
    def stop(now: str, fraction: float) -> None:
        if now == stage:
            raise Cancelled("enough")

    steerseg.forget()  # a chain of thought that is known is not decoded again
    with pytest.raises(Cancelled):
        steerseg.propose(clip(), "the red car", progress=stop)
    assert steerseg.propose(clip(), "the red car").tracklets


def test_a_proposal_crosses_a_process_border(steerseg: SteerSeg) -> None:
    proposal = replace(steerseg.propose(clip(), "the red car"), video=None)
    again = pickle.loads(pickle.dumps(proposal))
    assert [t.rles for t in again.tracklets] == [t.rles for t in proposal.tracklets]


def test_models_stay_frozen(steerseg: SteerSeg) -> None:
    steerseg.propose(clip(), "the red car")
    weights = [*steerseg.lvlm.model.parameters(), *steerseg.tracker.segmenter.model.parameters()]
    assert not any(weight.requires_grad for weight in weights)


def hub_folder(cache: Path, repository: str) -> Path:
    """A model folder in the hub's cache layout, as a machine has it that downloaded the model once."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def test_models_load_by_their_hub_ids(tmp_path: Path) -> None:
    """The 7B preset's way: both ids come from the hub's cache, without a network."""
    cache = tmp_path / "hub"
    save_tiny_lvlm(hub_folder(cache, "Qwen/Qwen2.5-VL-7B-Instruct"))
    code = """
import sys, torch
from pathlib import Path
from sam2.build_sam import build_sam2_video_predictor
model = build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_t.yaml", ckpt_path=None, device="cpu")
torch.save({"model": model.state_dict()}, Path(sys.argv[1]) / "sam2.1_hiera_tiny.pt")
from steerseg.presets import find_preset, load_preset
from steerseg.pipeline import SteerSeg
import json
card = json.loads((find_preset("qwen2.5-vl-7b") / "preset.json").read_text())
card |= {"sam2": "facebook/sam2.1-hiera-tiny", "layers": [2, 3], "video_tokens": 8, "keyframes": 2}
card |= {"pipeline": {"max_new_tokens": 4, "alternatives": 1, "max_points": 1, "max_candidates": 1}}
folder = Path(sys.argv[2])
(folder / "preset.json").write_text(json.dumps(card))
import numpy as np
from steerseg.video import video_from_frames
steerseg = SteerSeg.from_pretrained(folder, device="cpu")
frames = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
proposal = steerseg.propose(video_from_frames(frames, fps=5), "the dog")
assert proposal.versions["lvlm"] == "Qwen/Qwen2.5-VL-7B-Instruct", proposal.versions
assert proposal.versions["soft_prompts"] == "none"
"""
    checkpoint = hub_folder(cache, "facebook/sam2.1-hiera-tiny")
    run = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint), str(tmp_path)],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
