"""The fused memory attention of video models of ``transformers``, against the library's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerseg.config import SegmenterConfig
from steerseg.segmenters import frozen
from steerseg.segmenters.base import AttendedMemories
from steerseg.segmenters.hf import EdgeTam, Sam3Tracker, VideoModel
from steerseg.segmenters.memory_attention import FusedMemoryAttention, of_sam2, of_transformers
from tests.support.tiny_video_models import tiny_video_model

SEGMENTERS = {"sam2": VideoModel, "edgetam": EdgeTam, "sam3": Sam3Tracker}


def segmenter_of(name: str, config: SegmenterConfig | None = None) -> VideoModel:
    """With weights of attention whose every part is heard."""
    model = tiny_video_model(name)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.memory_attention.parameters():
        if parameter.ndim == 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    for layer in model.memory_attention.layers:
        for part in (layer.self_attn, layer.cross_attn_image):
            for projection in (part.q_proj, part.k_proj):
                projection.weight.data.mul_(3)
    return SEGMENTERS[name](model, version="-", config=config or SegmenterConfig())


def step_arguments(
    segmenter: VideoModel, objects: int, memories: int, pointers: int, *, one_frame: bool | None = None
) -> Any:
    """Of frames of their own, or of one frame, whose features are shared or copied."""
    generator = torch.Generator().manual_seed(8)
    model, tokens = segmenter.model, len(segmenter._token_positions())

    def random(*shape: int) -> Tensor:
        return torch.randn(objects, *shape, generator=generator)

    shares = zip((8, 4, 1), segmenter._sizes, strict=True)
    levels = [random(model.hidden_dim // share, *size).to(segmenter._dtype) for share, size in shares]
    if one_frame is not None:
        levels = [level[:1].expand(objects, -1, -1, -1) for level in levels]
        levels = levels if one_frame else [level.contiguous() for level in levels]
    spatial = [random(tokens, model.mem_dim).to(segmenter._dtype) for _ in range(memories)]
    chosen = AttendedMemories(
        tuple((position, position) for position in range(memories)),
        tuple((distance, distance) for distance in range(pointers)),
        7,
    )
    given = [random(model.hidden_dim) for _ in range(pointers)]
    distances = torch.arange(pointers).float()
    return segmenter.tracking_step().arguments(chosen, levels, spatial, given, distances)


@torch.inference_mode()
def attended(segmenter: VideoModel, objects: int, memories: int, pointers: int) -> list[Tensor]:
    """(N, C, h, w) features that have attended to the same memories, by the library and in fewer passes."""
    answers = []
    for segmenter.fused in (False, True):
        step = segmenter.tracking_step()
        answers.append(step.attend(*step_arguments(segmenter, objects, memories, pointers)))
    return answers


@pytest.mark.parametrize(("objects", "memories", "pointers"), [(1, 1, 0), (3, 4, 5), (7, 5, 8), (2, 2, 1)])
@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_fewer_passes_give_what_the_library_gives(
    name: str, objects: int, memories: int, pointers: int
) -> None:
    segmenter = segmenter_of(name)
    assert segmenter.tracking_step()._memory_attention is not None
    expected, given = attended(segmenter, objects, memories, pointers)
    assert given.dtype == expected.dtype
    assert given.shape == expected.shape
    assert not torch.equal(given, expected)  # they were added in another order
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_objects_of_one_frame_share_its_features(name: str, fused: bool) -> None:
    segmenter = segmenter_of(name)
    segmenter.fused = fused
    step = segmenter.tracking_step()
    shared, copied = (step_arguments(segmenter, 5, 3, 4, one_frame=one_frame) for one_frame in (True, False))
    assert len(shared[2]) == len(copied[2]) + 3, "the features of each level"
    for given, expected in zip(step(*shared), step(*copied), strict=True):
        assert given.shape == expected.shape
        assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()
    conditioned, expected = step.attend(*shared), step.attend(*copied)
    assert (conditioned - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_half_precision_is_as_close_to_the_truth_as_the_librarys(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = attended(segmenter_of(name), 3, 4, 5)
    monkeypatch.setattr(frozen, "multiplies_bfloat16", lambda: True)  # torch imitates it where it is not so
    rounded, given = attended(segmenter_of(name, SegmenterConfig(cpu_precision="native")), 3, 4, 5)
    assert given.dtype == rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (given - exact).norm() <= 1.2 * (rounded - exact).norm()
    assert (given - rounded).norm() <= 2e-2 * rounded.norm()


@torch.inference_mode()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_a_step_in_half_precision_is_close(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of most objects: where two of three masks are about equally good, rounding decides which is taken."""
    answers = []
    for lower in (False, True):
        monkeypatch.setattr(frozen, "multiplies_bfloat16", lambda lower=lower: lower)
        config = SegmenterConfig(cpu_precision="native")
        segmenter = SEGMENTERS[name](tiny_video_model(name), version="-", config=config)
        segmenter.fused = fused
        answers.append(segmenter.tracking_step()(*step_arguments(segmenter, 9, 4, 5)))
    exact, rounded = answers
    for given, expected in zip(rounded[:3], exact[:3], strict=True):
        off = (given - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert 0 < off.median() <= 2e-2


def test_each_part_of_the_attention_counts() -> None:
    """Random weights that hear nothing would pass every comparison."""
    segmenter = segmenter_of("edgetam")
    whole, _ = attended(segmenter, 2, 3, 4)
    fused = segmenter.tracking_step()._memory_attention
    assert fused is not None
    rotation = fused.layers[0].across.key_rotation
    unrotated = segmenter.model.spatial_perceiver.num_latents_1d
    assert len(rotation.cos) == len(segmenter._token_positions())
    assert (rotation.cos[:unrotated] == 1).all()
    assert (rotation.sin[:unrotated] == 0).all()
    with torch.inference_mode():
        rotation.cos[unrotated + 1 :] *= -1
    _, other = attended(segmenter, 2, 3, 4)
    assert (other - whole).abs().max() > 1e-2 * whole.abs().max()


def compiled(module: Any) -> Any:
    module.forward = module.forward  # as torch.compile's answer is put there
    return module


def of_two_heads(module: Any) -> Any:
    module.config.memory_attention_num_attention_heads = 2
    return module


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_a_module_of_another_kind_is_left_to_the_library(name: str) -> None:
    def found(change: Any = lambda module: module, positions: int = 16, tokens: int = 16) -> Any:
        return of_transformers(change(tiny_video_model(name).memory_attention), positions, tokens)

    assert isinstance(found(), FusedMemoryAttention)
    assert found(compiled) is None
    assert found(of_two_heads) is None
    assert found(positions=25) is None
    assert found(tokens=1) is None
    assert found(lambda module: nn.Identity()) is None
    assert of_sam2(tiny_video_model(name).memory_attention, 16) is None
    model = tiny_video_model(name)
    compiled(model.memory_attention)
    segmenter = SEGMENTERS[name](model, version="-")
    assert segmenter.tracking_step()._memory_attention is None
    expected, given = attended(segmenter, 2, 2, 3)
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()
