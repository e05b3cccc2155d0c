from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg.config import TrainingConfig
from steerseg.errors import ConfigError
from steerseg.grounding import encode_keyframes
from steerseg.lvlm import LVLM
from steerseg.soft_prompts import WEIGHTS_FILE, SoftPrompts
from steerseg.training.trainer import SoftPromptTrainer, TrainingSample, map_loss, ranking_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def prompts(seed: int = 0) -> SoftPrompts:
    generator = torch.Generator().manual_seed(seed)
    return SoftPrompts(torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator))


def test_saved_prompts_come_back(tmp_path: Path) -> None:
    saved = SoftPrompts(prompts().frame, prompts().video, "start", {"data": "twelve clips"})
    saved.save(tmp_path)
    loaded = SoftPrompts.load(tmp_path)
    assert torch.equal(loaded.frame, saved.frame)
    assert loaded.placement == "start"
    assert loaded.card == {"data": "twelve clips"}
    assert loaded.digest == saved.digest


def test_prompts_may_start_from_one_embedding_with_a_little_noise(tiny_lvlm: LVLM) -> None:
    row = tiny_lvlm.line_break
    start = SoftPrompts.from_embedding(row, 6, seed=0)
    assert start.frame.shape == start.video.shape == (6, tiny_lvlm.hidden_size)
    assert not torch.equal(start.frame, start.video)
    away = torch.cat([start.frame, start.video]) - row
    assert away.std() == pytest.approx(0.05 * float(row.std()), rel=0.3)
    assert SoftPrompts.from_embedding(row, 6, seed=0).digest == start.digest


def test_a_mixed_up_pair_is_refused(tmp_path: Path) -> None:
    prompts(0).save(tmp_path / "a")
    prompts(1).save(tmp_path / "b")
    (tmp_path / "b" / WEIGHTS_FILE).replace(tmp_path / "a" / WEIGHTS_FILE)
    with pytest.raises(ConfigError, match="do not belong together"):
        SoftPrompts.load(tmp_path / "a")


def test_missing_or_damaged_files_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no soft prompts"):
        SoftPrompts.load(tmp_path)
    prompts().save(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="no soft prompts"):
        SoftPrompts.load(tmp_path)


def samples(lvlm: LVLM) -> list[TrainingSample]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(2):
        frames = rng.integers(0, 60, (4, 56, 56, 3), dtype=np.uint8)
        masks = np.zeros((4, 56, 56), dtype=bool)
        masks[:, 10 + 20 * index : 30 + 20 * index, 8:30] = True
        frames[masks] = 250
        context = encode_keyframes(lvlm, frames, range(4), budget=16, seconds_per_slice=1.0, frame_batch=4)
        made.append(TrainingSample.from_masks(context, "where is it?", masks, temporal_merge=2))
    return made


def model_hash(lvlm: LVLM) -> str:
    state = hashlib.sha256()
    for _, tensor in sorted(lvlm.model.state_dict().items()):
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def test_training_lowers_the_loss_and_touches_nothing_but_the_prompts(tiny_lvlm: LVLM) -> None:
    before = model_hash(tiny_lvlm)
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)
    trainer = SoftPromptTrainer(
        tiny_lvlm, (2, 3), start, TrainingConfig(steps=40, learning_rate=0.05, warmup=2)
    )
    batch, rng = samples(tiny_lvlm), np.random.default_rng(0)
    losses = [trainer.step(batch, rng, frames_per_sample=4) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    assert model_hash(tiny_lvlm) == before
    assert not torch.equal(trainer.prompts.frame, start.frame)
    assert not torch.equal(trainer.prompts.video, start.video)


def test_a_put_down_training_goes_on_exactly_where_it_was(tiny_lvlm: LVLM, tmp_path: Path) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)
    config = TrainingConfig(steps=6, learning_rate=0.05, warmup=2)
    batch = samples(tiny_lvlm)

    def run(trainer: SoftPromptTrainer, steps: range) -> None:
        for step in steps:
            trainer.step(batch, np.random.default_rng(step))

    through = SoftPromptTrainer(tiny_lvlm, (2, 3), start, config)
    run(through, range(6))
    first = SoftPromptTrainer(tiny_lvlm, (2, 3), start, config)
    run(first, range(3))
    first.save_state(tmp_path)
    second = SoftPromptTrainer(tiny_lvlm, (2, 3), start, config)
    second.load_state(tmp_path)
    run(second, range(3, 6))
    assert torch.equal(second.prompts.frame, through.prompts.frame)
    assert torch.equal(second.prompts.video, through.prompts.video)


def test_empty_masks_alone_are_refused(tiny_lvlm: LVLM) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 4, seed=0)
    trainer = SoftPromptTrainer(tiny_lvlm, (2, 3), start, TrainingConfig())
    frames = np.zeros((4, 56, 56, 3), dtype=np.uint8)
    context = encode_keyframes(tiny_lvlm, frames, range(4), budget=16, seconds_per_slice=1.0, frame_batch=4)
    empty = TrainingSample.from_masks(context, "where?", np.zeros((4, 56, 56), dtype=bool), temporal_merge=2)
    with pytest.raises(ConfigError, match="empty"):
        trainer.step([empty], np.random.default_rng(0))


def test_what_is_unknown_does_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 2, 3, 4, generator=generator)
    targets = (torch.rand(1, 2, 3, 4, generator=generator) > 0.5).float()
    known = torch.ones(1, 2, 3, 4)
    assert torch.allclose(map_loss(maps, targets, known), map_loss(maps, targets))
    known[:, 1] = 0
    elsewhere = targets.clone()
    elsewhere[:, 1] = 1 - elsewhere[:, 1]
    assert torch.equal(map_loss(maps, targets, known), map_loss(maps, elsewhere, known))
    assert torch.allclose(map_loss(maps, targets, known), map_loss(maps[:, :1], targets[:, :1]))


def test_a_slice_is_known_no_better_than_its_frames(tiny_lvlm: LVLM) -> None:
    frames, masks = np.zeros((5, 56, 56, 3), dtype=np.uint8), np.ones((5, 56, 56), dtype=bool)
    context = encode_keyframes(
        tiny_lvlm, frames, range(5), budget=16, seconds_per_slice=1.0, frame_batch=4, pictures=[0, 3]
    )
    sample = TrainingSample.from_masks(
        context,
        "where?",
        masks,
        2,
        pictures=[0, 3],
        shares=np.array([1, 0.5, 1, 0, 0.25], dtype=np.float32),
        rejected=~masks[None],
    )
    assert sample.frame_share is not None
    assert sample.video_share is not None
    assert sample.frame_rejected is not None
    assert sample.video_rejected is not None
    assert sample.frame_share.tolist() == [1, 0]
    assert sample.video_share.tolist() == [0.5, 0, 0.25]
    assert sample.frame_rejected.shape == (1, *sample.frame_target.shape)
    assert sample.video_rejected.shape == (1, *sample.video_target.shape)


def test_the_ranking_term_is_zero_once_wrong_answers_rank_below_the_right_one() -> None:
    right, wrong = torch.zeros(4, 6), torch.zeros(1, 4, 6)
    right[:, :2], wrong[:, :, 4:] = 1, 1
    assert ranking_loss(right, right, wrong, margin=0.2) == 0
    assert ranking_loss(wrong[0], right, wrong, margin=0.2) > 1
    assert ranking_loss(right, torch.zeros(4, 6), wrong, margin=0.2) == 0
    assert ranking_loss(wrong[0], torch.zeros(4, 6), wrong, margin=0.2) == 1


def test_a_rejected_mask_ranks_lower_after_training(tiny_lvlm: LVLM) -> None:
    """A rejected proposal is no mask to learn: only its agreement with the maps falls."""
    (sample, _) = samples(tiny_lvlm)
    rejected = replace(
        sample,
        frame_target=torch.zeros_like(sample.frame_target),
        video_target=torch.zeros_like(sample.video_target),
        frame_rejected=sample.frame_target[None],
        video_rejected=sample.video_target[None],
    )
    config = TrainingConfig(steps=30, learning_rate=0.05, warmup=2, ranking_weight=1.0)
    trainer = SoftPromptTrainer(
        tiny_lvlm, (2, 3), SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0), config
    )
    for step in range(30):
        trainer.step([rejected], np.random.default_rng(step), frames_per_sample=4)
    assert trainer.losses[0] > 0.1
    assert trainer.losses[-1] < 0.5 * trainer.losses[0]


def test_samples_of_different_sizes_share_a_step(tiny_lvlm: LVLM) -> None:
    small, _ = samples(tiny_lvlm)
    frames = np.random.default_rng(1).integers(0, 255, (6, 28, 84, 3), dtype=np.uint8)
    masks = np.zeros((6, 28, 84), dtype=bool)
    masks[:, :, 40:] = True
    context = encode_keyframes(tiny_lvlm, frames, range(6), budget=16, seconds_per_slice=0.5, frame_batch=4)
    wide = TrainingSample.from_masks(context, "and where is this one?", masks, temporal_merge=2)
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)

    def first_loss(batch: list[TrainingSample], rows: int) -> float:
        trainer = SoftPromptTrainer(tiny_lvlm, (2, 3), start, TrainingConfig(rows=rows))
        return trainer.step(batch, np.random.default_rng(0), frames_per_sample=8)

    alone = [first_loss([sample], 32) for sample in (small, wide)]
    assert first_loss([small, small], 32) == pytest.approx(alone[0], rel=1e-4)
    # Means over passes: one video each, and four and six pictures.
    pictures = (4 * _frame_part(tiny_lvlm, small, start) + 6 * _frame_part(tiny_lvlm, wide, start)) / 10
    films = sum(alone) - _frame_part(tiny_lvlm, small, start) - _frame_part(tiny_lvlm, wide, start)
    for rows in (1, 3, 32):
        assert first_loss([small, wide], rows) == pytest.approx(films / 2 + pictures, rel=1e-4)


def _frame_part(lvlm: LVLM, sample: TrainingSample, start: SoftPrompts) -> float:
    blind = replace(sample, video_target=torch.zeros_like(sample.video_target))
    trainer = SoftPromptTrainer(lvlm, (2, 3), start, TrainingConfig())
    return trainer.step([blind], np.random.default_rng(0), frames_per_sample=8)


def test_an_anchor_holds_the_prompts_near_their_start(tiny_lvlm: LVLM) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)

    def distance(anchor: float) -> float:
        config = TrainingConfig(steps=20, learning_rate=0.05, warmup=2, anchor=anchor)
        trainer = SoftPromptTrainer(tiny_lvlm, (2, 3), start, config)
        for step in range(20):
            trainer.step(samples(tiny_lvlm), np.random.default_rng(step))
        return float((trainer.prompts.frame - start.frame).norm())

    assert distance(100.0) < 0.5 * distance(0.0)


def test_a_state_of_another_schedule_or_a_damaged_one_is_refused(tiny_lvlm: LVLM, tmp_path: Path) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)
    SoftPromptTrainer(tiny_lvlm, (2, 3), start, TrainingConfig(steps=6)).save_state(tmp_path)
    other = SoftPromptTrainer(tiny_lvlm, (2, 3), start, TrainingConfig(steps=7))
    with pytest.raises(ConfigError, match="another schedule"):
        other.load_state(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        other.load_state(tmp_path)
