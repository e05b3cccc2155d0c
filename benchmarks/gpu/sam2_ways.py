"""Ways to run the parts of SAM 2 that take longest: its image encoder, and the attention to memories."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.records import Records
from steerseg.segmenters.fused import (
    ATTENTION_TILES,
    AttentionTiles,
    narrow_attention,
    narrow_attention_tiles,
)
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import EncodedVideo, Tracker
from steerseg.video import Video

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
_CALLS = 20  # of one attention; a single one is too short to be timed


def encoded_whole(tracker: Tracker, video: Video) -> EncodedVideo:
    """All frames of a video encoded, as of one that comes for the first time."""
    encoded = tracker.open(video)
    tracker.encode(encoded)
    return encoded


_ENCODINGS = {"": True, "the package's own passes": False}


def measure_encoding(
    records: Records, tracker: Tracker, video: Video, ways: Mapping[str, bool] = _ENCODINGS
) -> None:
    """Frames a second by each way, which says whether passes are fused."""
    for name, fused in ways.items():
        with tracker_that(tracker, fused=fused):
            for _ in range(3):  # memory is found, and what comes often is planned
                encoded_whole(tracker, video)
            label = f"changes, encode{': ' if name else ''}{name}"
            _, seconds = records.timed(label, functools.partial(encoded_whole, tracker, video), repeat=5)
            records.put(f"{label}, rate", frames_a_second=len(video.frames) / seconds)


def measure_memory_attention(records: Records, tracker: Tracker, *, rows: int = 2) -> None:
    """One attention to seven memories and sixteen pointers, by each back end that takes it, and by our own kernel.

    The kernel mixes memories before they are projected: fewer channels, so its numbers are others.
    """
    model = tracker.segmenter.model
    part = model.memory_attention.layers[0].cross_attn_image
    places = model.sam_image_embedding_size**2
    pointers = model.max_obj_ptrs_in_encoder * model.hidden_dim // model.mem_dim
    dtype = part.q_proj.weight.dtype
    query, key, value = (
        torch.randn(rows, 1, count, part.internal_dim, device=records.device, dtype=dtype)
        for count in (places, *[model.num_maskmem * places + pointers] * 2)
    )

    def several(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            for _ in range(_CALLS):
                mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed

    expected: torch.Tensor | None = None
    for name, backend in BACKENDS.items():
        if backend is not SDPBackend.FLASH_ATTENTION and records.device.type != "cuda":
            continue

        def one(name: str = name, backend: SDPBackend = backend) -> None:
            nonlocal expected
            several(backend)
            mixed, seconds = records.timed(
                f"changes, memory attention: {name}, {_CALLS} calls", lambda: several(backend), repeat=3
            )
            expected = mixed if expected is None else expected
            records.put(
                f"changes, memory attention: {name}",
                milliseconds=1000 * seconds / _CALLS,
                largest_difference=float((mixed.float() - expected.float()).abs().max()),
            )

        records.attempt(f"changes, memory attention: {name}", one)
    narrow = value[..., : model.mem_dim].contiguous()
    if narrow_attention_tiles(records.device, dtype, part.internal_dim, model.mem_dim) is not None:
        for tiles in ATTENTION_TILES:
            name = "changes, memory attention: narrow values, tiles of {} x {}".format(*tiles)
            work = functools.partial(
                _measure_narrow, records, name, query[:, 0], key[:, 0], narrow[:, 0], tiles
            )
            records.attempt(name, work)


def _measure_narrow(
    records: Records,
    name: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tiles: AttentionTiles,
) -> None:
    def several() -> torch.Tensor:
        for _ in range(_CALLS):
            mixed = narrow_attention(query, key, value, tiles)
        return mixed

    several()
    mixed, seconds = records.timed(f"{name}, {_CALLS} calls", several, repeat=3)
    wide = F.pad(value, (0, query.shape[-1] - value.shape[-1]))
    expected = F.scaled_dot_product_attention(query[:, None], key[:, None], wide[:, None])
    records.put(
        name,
        milliseconds=1000 * seconds / _CALLS,
        largest_difference=float((mixed - expected[:, 0, :, : value.shape[-1]]).float().abs().max()),
    )


@contextmanager
def tracker_that(
    tracker: Tracker,
    *,
    fused: bool = True,
    captures: bool = True,
    in_blocks: bool = True,
    backend: SDPBackend | None = None,
) -> Iterator[None]:
    """Inside, a tracker works in another way; on a CPU, too."""
    sam2, propagator = tracker.segmenter, tracker.propagator
    assert isinstance(sam2, Sam2)
    before = sam2.fused, sam2.captures, propagator.in_blocks, sam2.memory_backend
    sam2.fused, sam2.captures, propagator.in_blocks, sam2.memory_backend = fused, captures, in_blocks, backend
    try:
        yield
    finally:
        sam2.fused, sam2.captures, propagator.in_blocks, sam2.memory_backend = before
