"""Rotary positions by one kernel give what the models' own give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steerseg.lvlm import rotations
from steerseg.lvlm.base import LVLM
from steerseg.lvlm.loading import accelerate
from steerseg.lvlm.rotations import fuse_rotations, separate_rotations
from tests.support.tiny_lvlms import TINY, save_tiny_lvlm


def built(family: str, device: str, dtype: torch.dtype) -> LVLM:
    """A model whose attention depends on what it sees, and so on how that is turned."""
    torch.manual_seed(0)
    model, processor = TINY[family].build(2)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight")):
            parameter.data.mul_(10)
    return LVLM(model.to(device, dtype), processor, family)


@pytest.fixture(params=sorted(TINY))
def lvlm(request: pytest.FixtureRequest) -> Iterator[LVLM]:
    made = built(request.param, "cpu", torch.float32)
    yield made
    separate_rotations(made.model)


def made(lvlm: LVLM) -> list[torch.Tensor]:
    """Visual tokens of a picture, and the output and gradients of the text layers."""
    generator = torch.Generator().manual_seed(0)
    sizes = lvlm.family.sizes(100, 150, video_tokens=24, frame_tokens=TINY[lvlm.name].frame_tokens)
    pixels = torch.randint(0, 256, (1, 3, *sizes.picture), generator=generator, dtype=torch.uint8)
    inputs = torch.randn(2, 12, lvlm.hidden_size, generator=generator).to(lvlm.device, lvlm.dtype)
    inputs.requires_grad_()
    output = lvlm.text_model(inputs_embeds=inputs).last_hidden_state
    given = torch.randn(output.shape, generator=generator).to(output)
    (gradient,) = torch.autograd.grad(output, inputs, given)
    return [lvlm.encode_vision(pixels, "image").tokens, output.detach(), gradient]


def replaced(lvlm: LVLM) -> bool:
    """Whether functions of the model's modelling files are replaced in this process."""
    return any(
        hasattr(getattr(module, name, None), "steerseg_own")
        for module in rotations._modelling(lvlm.model)
        for name in rotations._LAYOUTS
    )


def test_a_model_says_the_same(lvlm: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the functions that are put in place, with torch for kernels that work."""
    own = made(lvlm)
    calls = []

    def by_torch(*parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(parts[0].shape)
        return rotations._by_torch(*parts)

    # Qwen3.5 rotates a part of each head, by its own function.
    monkeypatch.setattr(rotations, "_supported", lambda q, k, cos, sin: cos.shape[-1] == q.shape[-1])
    monkeypatch.setattr(rotations, "rotated", by_torch)
    found = fuse_rotations(lvlm.model)
    assert found == (2 if lvlm.name.startswith("qwen") else 1)
    assert fuse_rotations(lvlm.model) == found  # once is enough
    for given, expected in zip(made(lvlm), own, strict=True):
        assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()
    count = len(calls)
    assert count >= lvlm.num_layers
    separate_rotations(lvlm.model)
    made(lvlm)
    assert len(calls) == count
    assert not replaced(lvlm)


def test_without_a_gpu_the_models_own_functions_do_it(lvlm: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    own = made(lvlm)
    fuse_rotations(lvlm.model)
    monkeypatch.delattr(rotations, "rotated")  # what is not called need not be there
    assert all(torch.equal(a, b) for a, b in zip(made(lvlm), own, strict=True))


def test_a_caller_may_leave_the_functions_of_transformers_alone(lvlm: LVLM) -> None:
    for rotations_too in (False, True):
        accelerate(lvlm.model, rotations=rotations_too)
        assert replaced(lvlm) == rotations_too


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_loading_replaces_functions_on_a_gpu_only_and_if_wanted(
    fused: bool, device: str, tmp_path: Path
) -> None:
    save_tiny_lvlm(tmp_path, "qwen2_5_vl")
    lvlm = LVLM.from_pretrained(
        str(tmp_path), device=torch.device(device), dtype=torch.float32, fuse_rotations=fused
    )
    assert replaced(lvlm) == (fused and device == "cuda")
    separate_rotations(lvlm.model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(TINY))
def test_a_model_on_a_gpu_says_the_same(family: str, dtype: torch.dtype) -> None:
    lvlm = built(family, "cuda", dtype)
    given = made(lvlm)
    separate_rotations(lvlm.model)
    most = 1e-4 if dtype == torch.float32 else 5e-2
    for ours, theirs in zip(given, made(lvlm), strict=True):
        assert float((ours - theirs).float().norm() / theirs.float().norm()) <= most
