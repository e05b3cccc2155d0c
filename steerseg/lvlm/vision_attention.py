"""Attention of vision towers that pack many pictures, or windows of them, into one sequence.

Qwen's towers attend within pieces of a packed sequence: frames, and in Qwen2.5-VL windows of 8 x 8 patches. Without a
kernel for pieces of several lengths, transformers calls SDPA for one piece after the other, a hundred times a picture
and layer. But there are few lengths, and all pieces of one length are a batch here.
"""

from __future__ import annotations

import inspect
import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from steerseg.runtime.lru import LruCache
from steerseg.runtime.window_attention import attend_within

# Towers hand the ends of pieces to attentions named "flash"; others get the pieces one by one.
PACKED_ATTENTION = "steerseg_packed_flash"

_KEPT = 8


def vision_attention_of(model: nn.Module) -> str:
    """Name of the attention for a model's vision tower: packed where the tower's modules take the ends of pieces."""
    kinds = {type(module) for module in model.modules()}
    packs = any("cu_seqlens" in inspect.signature(kind.forward).parameters for kind in kinds)
    return PACKED_ATTENTION if packs else "sdpa"


@dataclass(frozen=True)
class _Pieces:
    """How a sequence of S tokens falls into pieces.

    Attributes:
        batches: (number of pieces, length) of each length that occurs.
        order: (S,) indices of the tokens, pieces of one length together; ``None`` where they are so already.
        back: (S,) index of each token in ``order``.
    """

    batches: tuple[tuple[int, int], ...]
    order: torch.Tensor | None
    back: torch.Tensor | None


_by_ends: deque[tuple[torch.Tensor, _Pieces]] = deque(maxlen=_KEPT)
"""By tensor of ends, compared by identity: the layers of one pass share it, so that only one waits for the device."""

_by_lengths: LruCache[tuple[object, ...], _Pieces] = LruCache(_KEPT)


def _pieces(ends: torch.Tensor, device: torch.device) -> _Pieces:
    """The pieces whose ends (pieces + 1,) are given, on ``device``."""
    for known, pieces in _by_ends:
        if known is ends:
            return pieces
    borders = ends.tolist()
    lengths = tuple(after - before for before, after in itertools.pairwise(borders))
    key = (device, lengths)
    found = _by_lengths.get(key)
    if found is None:
        found = _sorted_pieces(borders, lengths, device)
        _by_lengths.put(key, found)
    _by_ends.append((ends, found))
    return found


def _sorted_pieces(borders: list[int], lengths: tuple[int, ...], device: torch.device) -> _Pieces:
    kinds = sorted(set(lengths), reverse=True)
    batches = tuple((lengths.count(length), length) for length in kinds)
    if len(kinds) == 1:
        return _Pieces(batches, None, None)
    tokens = torch.arange(borders[-1])
    parts = [
        tokens[start : start + length]
        for kind in kinds
        for start, length in zip(borders, lengths, strict=False)
        if length == kind
    ]
    order = torch.cat(parts)
    return _Pieces(batches, order.to(device), order.argsort().to(device))


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of (1, H, S, d) within the pieces that ``cu_seq_lens_q`` (pieces + 1,) delimits: (1, S, H, d)."""
    if cu_seq_lens_q is None:
        whole: tuple[torch.Tensor, torch.Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return whole
    pieces = _pieces(cu_seq_lens_q, query.device)
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]  # (S, H, d)
    if pieces.order is not None:
        parts = [part.index_select(0, pieces.order) for part in parts]
    results = []
    start = 0
    for count, length in pieces.batches:
        q, k, v = (
            torch.unflatten(part[start : start + count * length], 0, (count, length)) for part in parts
        )
        results.append(attend_within(q, k, v, scaling).flatten(0, 1))
        start += count * length
    output = torch.cat(results) if len(results) > 1 else results[0]
    if pieces.back is not None:
        output = output.index_select(0, pieces.back)
    return output[None], None


AttentionInterface.register(PACKED_ATTENTION, _packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
