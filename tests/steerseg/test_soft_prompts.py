from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg.errors import ConfigError
from steerseg.grounding import see
from steerseg.lvlm import LVLM
from steerseg.refine import RefineConfig, SoftPromptTrainer, TrainingSample
from steerseg.soft_prompts import WEIGHTS_FILE, SoftPrompts


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
        context = see(lvlm, frames, range(4), budget=16, seconds_per_slice=1.0, frame_batch=4)
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
        tiny_lvlm, (2, 3), start, RefineConfig(steps=40, learning_rate=0.05, warmup=2)
    )
    batch, rng = samples(tiny_lvlm), np.random.default_rng(0)
    losses = [trainer.step(batch, rng, frames_per_sample=4) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    assert model_hash(tiny_lvlm) == before
    assert not torch.equal(trainer.prompts.frame, start.frame)
    assert not torch.equal(trainer.prompts.video, start.video)


def test_a_put_down_training_goes_on_exactly_where_it_was(tiny_lvlm: LVLM, tmp_path: Path) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 6, seed=0)
    config = RefineConfig(steps=6, learning_rate=0.05, warmup=2)
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
    trainer = SoftPromptTrainer(tiny_lvlm, (2, 3), start, RefineConfig())
    frames = np.zeros((4, 56, 56, 3), dtype=np.uint8)
    context = see(tiny_lvlm, frames, range(4), budget=16, seconds_per_slice=1.0, frame_batch=4)
    empty = TrainingSample.from_masks(context, "where?", np.zeros((4, 56, 56), dtype=bool), temporal_merge=2)
    with pytest.raises(ConfigError, match="empty"):
        trainer.step([empty], np.random.default_rng(0))
