"""SAM 2's encoder in few passes against the package's own, and the kernels behind it, interpreted on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from steerseg.demo.sam2 import Sam2Size, build_sam2
from steerseg.segmenters import fused
from steerseg.segmenters.frozen import round_multiplied_weights
from steerseg.segmenters.fused import (
    ATTENTION_TILES,
    AttentionTiles,
    kernels_work,
    largest_difference,
    narrow_attention_difference,
    narrow_attention_tiles,
)
from steerseg.segmenters.sam2 import Sam2
from steerseg.segmenters.sam2_image_encoder import FusedImageEncoder
from steerseg.tracking import EncodedVideo
from steerseg.tracking.frame_encoder import full_batches
from steerseg.video import video_from_frames
from tests.support.interpreted_kernels import numbers_printed
from tests.support.tiny_sam2 import SMALL_SAM2

_LONGER = replace(SMALL_SAM2, image_size=128, stages=(1, 2, 3, 2), global_blocks=(5,))


def random_sam2(size: Sam2Size) -> Any:
    torch.manual_seed(0)
    model = build_sam2(size).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("size", [SMALL_SAM2, _LONGER])
@torch.inference_mode()
def test_features_are_those_of_the_package(size: Sam2Size) -> None:
    """With windows that stay, windows that change between stages, pooling, and attention over the picture."""
    model = random_sam2(size)
    encoding = FusedImageEncoder(model)
    assert encoding.supported()
    pixels = torch.randn(2, 3, size.image_size, size.image_size)
    for rounded, most in ((False, 1e-5), (True, 2e-2)):
        if rounded:
            round_multiplied_weights(model, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            given, expected = encoding(pixels), model.forward_image(pixels)["backbone_fpn"]
        for a, b in zip(given, expected, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert float((a.float() - b.float()).abs().max()) <= most * float(b.float().abs().max())


def test_windows_that_do_not_fill_a_picture_are_left_to_the_package() -> None:
    model = random_sam2(replace(SMALL_SAM2, windows=(8, 4, 3, 2)))
    assert not FusedImageEncoder(model).supported()
    compiled = random_sam2(SMALL_SAM2)
    compiled.image_encoder.forward = compiled.image_encoder.forward  # as torch.compile's answer is put there
    assert not FusedImageEncoder(compiled).supported()


def test_a_segmenter_gives_the_same_features_either_way() -> None:
    sam2 = Sam2(random_sam2(SMALL_SAM2), version="random")
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    answers = []
    for sam2.fused in (False, True):
        answers.append(sam2.encode_frames(frames))
    for given, expected in zip(*answers, strict=True):
        for a, b in zip(given, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_batches_that_are_encoded_ahead_are_full() -> None:
    video = video_from_frames(np.zeros((40, 8, 8, 3), dtype=np.uint8), fps=8)
    encoded = EncodedVideo(video, torch.device("cpu"), 1 << 20)
    for frame in range(0, 40, 5):
        encoded.store(frame, (torch.zeros(1),), wanted=())

    def missing(paths: Sequence[Sequence[int]], index: int) -> list[int]:
        return encoded.missing(full_batches(encoded, paths, index, 8))

    onwards, back = tuple(range(12, 40)), tuple(range(12, -1, -1))
    assert missing([onwards], 0) == [frame for frame in range(12, 22) if frame % 5]
    assert len(missing([onwards, back], 0)) == 16
    assert missing([onwards], 24) == [36, 37, 38, 39]  # the path ends


_INTERPRETED = """
import torch
from steerseg.segmenters.fused import ATTENTION_TILES, largest_difference, narrow_attention_difference
for dtype in (torch.float32, torch.bfloat16):
    print(largest_difference(torch.device("cpu"), dtype))
for tiles in ATTENTION_TILES:  # products of bfloat16 cannot be interpreted
    print(narrow_attention_difference(torch.device("cpu"), torch.float32, width=32, narrow=16, tiles=tiles))
"""


def test_kernels_are_right_when_interpreted() -> None:
    exact, rounded, *mixed = numbers_printed(_INTERPRETED)
    assert exact <= 1e-5
    assert len(mixed) == 3
    assert max(mixed) <= 1e-5
    assert rounded <= 1.6e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_uses_the_kernels(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    assert largest_difference(device, dtype) < (1e-5 if dtype == torch.float32 else 1.6e-2)
    assert kernels_work(device, dtype)
    assert (narrow_attention_tiles(device, dtype, 256, 64) is None) == (dtype == torch.float32)
    sam2 = Sam2(random_sam2(SMALL_SAM2).to(device), version="random", dtype=dtype)
    frames = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), dtype=np.uint8)
    sam2.fused = False
    expected = sam2.encode_frames(frames)
    sam2.fused = True
    for given, kept in zip(sam2.encode_frames(frames), expected, strict=True):
        for a, b in zip(given, kept, strict=True):
            off = float((a.float() - b.float()).norm() / b.float().norm())
            assert off < (1e-3 if dtype == torch.float32 else 5e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tiles", ATTENTION_TILES)
def test_memories_are_mixed_by_tiles_of_every_size(tiles: AttentionTiles) -> None:
    off = narrow_attention_difference(torch.device("cuda"), torch.bfloat16, width=256, narrow=64, tiles=tiles)
    assert off < 1.6e-2


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_memories_are_mixed_by_the_largest_tiles_that_a_card_has_room_for(
    room: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def tried(*_: object, tiles: AttentionTiles, **__: object) -> float:
        if tiles not in ATTENTION_TILES[len(ATTENTION_TILES) - room :]:
            raise RuntimeError("out of resource: shared memory")
        return 0.0

    monkeypatch.setattr(fused, "narrow_attention_difference", tried)
    narrow_attention_tiles.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = narrow_attention_tiles(torch.device("cuda"), torch.bfloat16, 256, 64)
    narrow_attention_tiles.cache_clear()
    assert found == (ATTENTION_TILES[-room] if room else None)
    assert caplog.text.count("out of resource: shared memory") == len(ATTENTION_TILES) - room
    assert ("projects its memories before they are mixed" in caplog.text) == (room == 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("activation", [torch.nn.GELU(), torch.nn.ReLU()])
@torch.inference_mode()
def test_an_activation_within_a_product_is_no_further_off_than_after_it(activation: torch.nn.Module) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    layer = torch.nn.Linear(576, 2304, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(4096, 576, device="cuda", dtype=torch.bfloat16, generator=generator)
    exact = activation(torch.nn.functional.linear(x.float(), layer.weight.float(), layer.bias.float()))
    assert fused.activation_is_fused(x.device, x.dtype, type(activation) is torch.nn.GELU)
    within, after = fused.project_and_activate(x, layer, activation), activation(layer(x))
    errors = [float((given.float() - exact).abs().mean()) for given in (within, after)]
    assert errors[0] <= 1.02 * errors[1]
