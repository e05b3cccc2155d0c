"""The embedded SAM 2's definition, what it learns from, and a few steps of its training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from steerseg.demo.sam2 import Sam2Size, build_sam2, save_sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import video_from_frames
from tools.demo_models.sam2_objective import (
    LossWeights,
    Targets,
    boxes,
    choose_objects,
    correction,
    draw_prompts,
    image_losses,
    mask_iou,
    nearby,
    normalise_images,
    random_pixels,
    track,
    video_losses,
)
from tools.demo_models.train_sam2 import Recipe, Schedule, clip_indices, main

SMALL = Sam2Size(
    image_size=64,
    width=8,
    stages=(1, 1, 2, 1),
    windows=(8, 4, 4, 2),
    global_blocks=(),
    channels=32,
    memory_channels=16,
    memory_layers=1,
)


def discs(size: int = 64) -> torch.Tensor:
    """(3, S, S) bool: three discs of different size and place."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack(
        [(x - cx) ** 2 + (y - cy) ** 2 < r * r for cx, cy, r in ((16, 20, 10), (44, 40, 14), (50, 10, 6))]
    )


def ids_of(masks: torch.Tensor, frames: int = 1) -> torch.Tensor:
    """(1, T, S, S) uint8 ids of disjoint masks."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for i, mask in enumerate(masks):
        ids[mask] = i + 1
    return ids.expand(1, frames, -1, -1)


def test_the_shipped_size_fits_into_its_file(tmp_path: Path) -> None:
    model = build_sam2()
    assert 5e6 < sum(parameter.numel() for parameter in model.parameters()) < 8e6
    save_sam2(model.state_dict(), Sam2Size(), tmp_path, step=3)
    assert (tmp_path / "model.safetensors").stat().st_size < 15e6
    tracker = Tracker.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.allclose(tracker.segmenter.model.state_dict()[name], value, atol=2e-3), name


def test_features_have_the_scale_of_the_positions() -> None:
    model = build_sam2(SMALL)
    with torch.no_grad():
        features = model.forward_image(10 * torch.randn(2, 3, 64, 64))["backbone_fpn"][-1]
    assert features.square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=0.01)


def test_objects_are_chosen_once_and_padding_is_marked() -> None:
    ids = ids_of(discs(), frames=2)
    for _ in range(5):
        targets = choose_objects(ids, count=4, most=6)
        assert targets.masks.shape == (4, 2, 64, 64)
        assert targets.valid.sum() == 3
        real = targets.masks[targets.valid > 0, 0]
        assert sorted(real.flatten(1).sum(1).tolist()) == sorted(discs().flatten(1).sum(1).tolist())


def test_clicks_lie_where_they_should() -> None:
    torch.manual_seed(0)
    masks = discs()
    for _ in range(20):
        x, y = random_pixels(masks).long().unbind(-1)
        assert masks[torch.arange(3), y, x].all()
        points, labels = draw_prompts(masks, "clicks")
        inside = masks[torch.arange(3)[:, None], points[..., 1].long(), points[..., 0].long()]
        assert torch.equal(inside.int(), labels)
    ring = nearby(masks, reach=8)
    assert ring.any()
    assert not (ring & masks).any()


def test_boxes_hold_their_objects() -> None:
    masks = discs()
    corners = boxes(masks, jitter=0.0)
    assert corners[0].tolist() == [[7, 11], [25, 29]]
    points, labels = draw_prompts(masks, "box+click")
    assert points.shape == (3, 3, 2)
    assert labels[0].tolist() == [2, 3, 1]


def test_corrections_click_on_the_larger_error() -> None:
    masks = discs()
    nothing = torch.zeros_like(masks)
    points, labels = correction(nothing, masks)
    assert (labels == 1).all()
    assert all(masks[i, int(y), int(x)] for i, (x, y) in enumerate(points[:, 0].tolist()))
    points, labels = correction(~nothing, masks)
    assert (labels == 0).all()
    points, labels = correction(masks, masks)
    assert (labels == 1).all()


def test_overlap() -> None:
    masks = discs()
    assert mask_iou(masks, masks).tolist() == [1, 1, 1]
    assert mask_iou(masks, ~masks).tolist() == [0, 0, 0]
    assert mask_iou(torch.zeros_like(masks), torch.zeros_like(masks)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["box", "clicks", "box+click"])
def test_an_image_step_reaches_the_encoder_and_the_decoder(mode: str) -> None:
    torch.manual_seed(0)
    model = build_sam2(SMALL)
    targets = choose_objects(ids_of(discs()), count=4, most=6)
    losses, overlap = image_losses(model, torch.randn(1, 3, 64, 64), targets, mode, LossWeights())  # type: ignore[arg-type]
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert 0 <= overlap <= 1
    for part in (model.image_encoder.trunk.patch_embed, model.sam_mask_decoder, model.sam_prompt_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


@pytest.mark.parametrize("mode", ["click", "mask"])
def test_a_video_step_teaches_the_memory_and_the_presence(mode: str) -> None:
    torch.manual_seed(0)
    model = build_sam2(SMALL)
    masks = discs()[:, None].repeat(1, 4, 1, 1)
    masks[1, 2] = False  # hidden on one frame
    targets = Targets(picture=torch.zeros(3, dtype=torch.long), masks=masks, valid=torch.ones(3))
    losses, _ = video_losses(
        model,
        torch.randn(1, 4, 3, 64, 64),
        targets,
        mode,  # type: ignore[arg-type]
        LossWeights(),
        correct_at=2,
    )
    losses.total.backward()
    assert torch.isfinite(losses.total)
    for part in (model.memory_attention, model.memory_encoder, model.sam_mask_decoder.pred_obj_score_head):
        assert all(p.grad is not None for p in part.parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_training_tracks_as_the_tracker_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sam2(build_sam2(SMALL).state_dict(), SMALL, tmp_path)
    tracker = Tracker.from_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    masks = discs()[:2, None].expand(-1, 9, -1, -1)
    targets = Targets(picture=torch.zeros(2, dtype=torch.long), masks=masks, valid=torch.ones(2))
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        trained = torch.stack(
            track(tracker.segmenter.model, normalise_images(pictures)[None], targets, "mask"), dim=1
        )
    encoded = tracker.open(video_from_frames(frames, fps=8.0))
    started = [tracker.start(encoded, [Prompt(0, mask=mask.numpy())]) for mask in masks[:, 0]]
    assert torch.allclose(tracker.propagate(encoded, started).logits, trained, atol=1e-4)


def test_clips_stay_inside_their_scene() -> None:
    import random

    rng = random.Random(0)
    for length, count, stride in ((24, 8, 1), (24, 8, 6), (96, 8, 6), (8, 8, 3), (5, 1, 2)):
        for _ in range(20):
            frames = clip_indices(rng, length, count, stride)
            assert len(set(frames)) == count
            assert min(frames) >= 0
            assert max(frames) < length


def test_the_schedule_spans_all_runs() -> None:
    recipe = Recipe(warmup=10)
    early = Schedule(recipe, before=0, run=60, total=600)
    assert not early.video(1)
    assert early.learning_rate(0) == pytest.approx(recipe.peak_lr / 10, rel=1e-3)
    late = Schedule(recipe, before=599.9, run=60, total=600)
    assert late.video(1)
    assert not late.video(recipe.image_every)
    assert late.learning_rate(100) == pytest.approx(recipe.peak_lr * recipe.floor_lr, rel=0.05)


def test_a_run_exports_what_the_next_one_resumes_from(tmp_path: Path) -> None:
    common = [
        *(
            "--tiny",
            "--device",
            "cpu",
            "--workers",
            "0",
            "--images",
            "2",
            "--clips",
            "2",
            "--clip-frames",
            "3",
        ),
        *("--validation-scenes", "1", "--log-seconds", "0", "--minutes", "5", "--total-minutes", "10"),
    ]
    assert main([*common, "--out", str(tmp_path / "a"), "--max-steps", "1"]) == 0
    first = load_file(tmp_path / "a" / "model.safetensors")
    state = json.loads((tmp_path / "a" / "train_state.json").read_text())
    assert state["step"] == 1
    assert {"click_j", "track_j"} <= set(state)
    arguments = ["--resume", str(tmp_path / "a"), "--out", str(tmp_path / "b"), "--max-steps", "2"]
    assert main([*common, *arguments, "--video-from", "0"]) == 0
    state = json.loads((tmp_path / "b" / "train_state.json").read_text())
    assert state["step"] == 3
    second = load_file(tmp_path / "b" / "model.safetensors")
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert (tmp_path / "b" / "preview.png").exists()
    assert Tracker.from_pretrained(tmp_path / "b").segmenter.model.image_size == 128
