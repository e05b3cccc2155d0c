"""Gradients of text layers that are computed again in the backward pass, and what that saves."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from steerseg.config import TrainingConfig
from steerseg.grounding import encode_keyframes, rolled_map
from steerseg.lvlm import LVLM
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.trainer import SoftPromptTrainer, TrainingSample

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = (2, 3)


@pytest.fixture(scope="module")
def sample(tiny_lvlm: LVLM) -> TrainingSample:
    frames = np.random.default_rng(0).integers(0, 256, (4, 54, 96, 3), dtype=np.uint8)
    context = encode_keyframes(tiny_lvlm, frames, range(4), budget=8, seconds_per_slice=1.0, frame_batch=2)
    masks = np.zeros((4, 54, 96), dtype=bool)
    masks[:, 10:30, 20:50] = True
    return TrainingSample.from_masks(context, "where?", masks, 2)


def test_a_step_gives_the_same_prompts(tiny_lvlm: LVLM, sample: TrainingSample) -> None:
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 4, seed=0)
    trained = []
    for checkpointing in (False, True):
        config = TrainingConfig(steps=4, warmup=1)
        trainer = SoftPromptTrainer(tiny_lvlm, LAYERS, start, config, checkpointing=checkpointing)
        rng = np.random.default_rng(0)
        losses = [trainer.step([sample], rng) for _ in range(2)]
        trained.append((losses, trainer.prompts))
    (losses, kept), (again, recomputed) = trained
    assert again == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(recomputed.frame, kept.frame, atol=1e-5)
    assert torch.allclose(recomputed.video, kept.video, atol=1e-5)
    assert not any(module.training for module in tiny_lvlm.model.modules())


def saved_bytes(lvlm: LVLM, sample: TrainingSample, *, wanted: bool) -> int:
    """What a forward pass keeps for the backward pass, parameters aside."""
    owned = {parameter.data_ptr() for parameter in lvlm.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in owned:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    start = SoftPrompts.from_vocabulary(lvlm.embeddings.weight, 4, seed=0)
    steering = SoftPrompts(start.frame.requires_grad_(), start.video.requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with lvlm.activations.recomputing(wanted, up_to=max(LAYERS)):
            rolled = rolled_map(
                lvlm, ["where?"], sample.context.video, layers=LAYERS, heads="mean", soft_prompts=steering
            )
        del rolled
    return sum(kept.values())


def test_less_is_kept(tiny_lvlm: LVLM, sample: TrainingSample) -> None:
    whole, part = (saved_bytes(tiny_lvlm, sample, wanted=wanted) for wanted in (False, True))
    assert part < 0.6 * whole


def test_reentrant_checkpointing_would_lose_the_gradient(
    tiny_lvlm: LVLM, sample: TrainingSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the way of checkpointing is chosen for: queries and keys leave a layer by the side door."""
    start = SoftPrompts.from_vocabulary(tiny_lvlm.embeddings.weight, 4, seed=0)
    steering = SoftPrompts(start.frame.requires_grad_(), start.video.requires_grad_())

    def gradient() -> torch.Tensor | None:
        rolled = rolled_map(
            tiny_lvlm, ["where?"], sample.context.video, layers=(1,), heads="mean", soft_prompts=steering
        )
        if not rolled.requires_grad:
            return None
        (result,) = torch.autograd.grad((rolled**2).sum(), [steering.video], allow_unused=True)
        return result

    expected = gradient()
    assert expected is not None
    with tiny_lvlm.activations.recomputing(up_to=2):
        again = gradient()
        assert again is not None
        assert torch.allclose(again, expected, rtol=1e-4, atol=1e-9)
        for layer in tiny_lvlm.text_model.layers:
            reentrant = functools.partial(checkpoint, use_reentrant=True)
            monkeypatch.setattr(layer, "_gradient_checkpointing_func", reentrant, raising=False)
        lost = gradient()
    assert lost is None or not torch.allclose(lost, expected, rtol=1e-2, atol=1e-9)
