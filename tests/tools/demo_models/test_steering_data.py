from __future__ import annotations

import numpy as np
import pytest
import torch

from steerseg.config import TrainingConfig
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, collate, render, sample_scene
from steerseg.grounding import encode_keyframes
from steerseg.lvlm import LVLM
from steerseg.presets import Preset, find_preset, load_preset
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.trainer import SoftPromptTrainer
from tools.demo_models.lvlm_data import at_frames
from tools.demo_models.steering_data import SampleFeed, by_turns


@pytest.fixture(scope="module")
def preset() -> Preset:
    return load_preset(find_preset("demo"))


@pytest.fixture(scope="module")
def lvlm(preset: Preset) -> LVLM:
    return LVLM.from_pretrained(preset.lvlm, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def feed(lvlm: LVLM, preset: Preset) -> SampleFeed:
    return SampleFeed(lvlm, preset, clips=2, expressions=2, pictures=1, seed=3, workers=0)


def test_batches_are_encoded_as_the_product_does(lvlm: LVLM, preset: Preset, feed: SampleFeed) -> None:
    whole = sample_scene(np.random.default_rng(5), WorldSpec(frames=(24, 24)))
    scene = at_frames(whole, np.linspace(0, 23, preset.keyframes).astype(np.intp))
    (context,), ids = feed.encode([scene], [[1, 4]])
    images, _ = render(collate([scene]), load_atlas(scene.styles))
    expected = encode_keyframes(
        lvlm,
        images[0].permute(0, 2, 3, 1).numpy(),
        range(preset.keyframes),
        budget=preset.video_tokens,
        seconds_per_slice=1.0,
        frame_batch=8,
        pictures=[1, 4],
    )
    assert context.video.layout == expected.video.layout
    assert context.frames.layout == expected.frames.layout
    # Resizing in whole numbers on a CPU rounds once more than resizing in floats.
    for made, wanted in ((context.video, expected.video), (context.frames, expected.frames)):
        assert made.tokens.shape == wanted.tokens.shape
        distance = (made.tokens - wanted.tokens).norm() / wanted.tokens.norm()
        assert distance < 0.03
    assert set(ids.unique().tolist()) <= set(range(scene.num_objects + 1))


def test_a_batch_teaches(lvlm: LVLM, feed: SampleFeed) -> None:
    samples = next(feed)
    assert 2 <= len(samples) <= 4
    assert len({sample.context.video.layout for sample in samples}) == 1
    assert all(len(sample.context.frames) == 1 for sample in samples)
    assert all("Expression: " in sample.question for sample in samples)
    start = SoftPrompts.from_embedding(lvlm.line_break, 4, seed=0)
    trainer = SoftPromptTrainer(lvlm, (6, 7), start, TrainingConfig(steps=2, warmup=0))
    assert np.isfinite(trainer.step(samples, np.random.default_rng(0), frames_per_sample=1))
    assert not torch.equal(trainer.prompts.frame, start.frame)


def test_kinds_take_turns(feed: SampleFeed) -> None:
    from steerseg.demo.language import referrals

    rng = np.random.default_rng(1)
    found = referrals(sample_scene(rng, WorldSpec(objects=(4, 4))), rng)
    order = by_turns(found, rng)
    kinds = [choice.kind for choice in order]
    assert "plural" not in kinds
    first = kinds[: len(set(kinds))]
    assert len(set(first)) == len(first)


def test_the_same_seed_gives_the_same_questions(lvlm: LVLM, preset: Preset) -> None:
    made = [
        next(SampleFeed(lvlm, preset, clips=1, expressions=2, pictures=1, seed=9, workers=0))
        for _ in range(2)
    ]
    assert [s.question for s in made[0]] == [s.question for s in made[1]]
    assert made[0][0].context.video.layout == made[1][0].context.video.layout
