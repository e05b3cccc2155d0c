"""SAM 2's memory attention with fewer passes over memory: the package's own weights and arithmetic.

The package adds positions to all memories again in each layer, rotates keys as complex numbers in float32, and keeps
whatever autocast casts. Here memories are laid out once a step, keys are rotated in place, sums and norms are one
pass, and values are averaged before they are projected (:mod:`steerseg.segmenters.fused`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerseg.segmenters.fused import (
    add_and_norm,
    narrow_attention,
    narrow_attention_tiles,
    project_and_rectify,
    project_and_rotate,
    rotate,
)

Rotation = tuple[Tensor, Tensor]
"""(P, C / 2) float32 cosines and sines."""


class FusedMemoryAttention:
    """Lets image features attend to memories, with the result of the package's ``MemoryAttention``.

    Args:
        attention: A ``MemoryAttention``.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._known: dict[tuple[int, int], Rotation] = {}

    def supported(self) -> bool:
        """Whether it is of the package's kind with one head a layer, and nobody has compiled it."""
        attention = self._attention
        if type(attention) is not MemoryAttention or "forward" in attention.__dict__:
            return False
        return attention.batch_first and all(
            type(layer) is MemoryAttentionLayer
            and all(
                type(part) is RoPEAttention and part.num_heads == 1
                for part in (layer.self_attn, layer.cross_attn_image)
            )
            for layer in attention.layers
        )

    def __call__(
        self,
        features: Tensor,
        position: Tensor,
        memories: Sequence[Tensor],
        encodings: Sequence[Tensor],
        pointers: int,
        backend: SDPBackend | None = None,
    ) -> Tensor:
        """Let image features attend to memories.

        Args:
            features: (N, L, C) image features, or (1, L, C) where all rows are of one frame; any strides.
            position: (L, C) their position encoding.
            memories: (N, L or P, C_mem) each.
            encodings: (L or P, C_mem) position encoding of each memory.
            pointers: How many of the last vectors of all memories have no position in the picture.
            backend: Computes the attention to memories; torch's choice where ``None``.

        Returns:
            (N, L, C), of the final norm.
        """
        attention = self._attention
        dtype = attention.layers[0].linear1.weight.dtype
        tokens = features
        if attention.pos_enc_at_input:
            tokens = torch.add(features, position, alpha=0.1)
        tokens = tokens.contiguous()
        keys, values = _lay_out(memories, encodings, dtype)
        added: Tensor | None = None
        for layer in attention.layers:
            tokens, normed = add_and_norm(tokens, added, layer.norm1, dtype)
            positioned = (normed + position).to(dtype) if layer.pos_enc_at_attn else normed
            added = self._attend(layer.self_attn, positioned, positioned, normed, 0, None)

            tokens, normed = add_and_norm(tokens, added, layer.norm2, dtype)
            positioned = (normed + position).to(dtype) if layer.pos_enc_at_cross_attn_queries else normed
            cross_keys = keys if layer.pos_enc_at_cross_attn_keys else values
            added = self._attend(layer.cross_attn_image, positioned, cross_keys, values, pointers, backend)

            # What all objects share of a frame ends here, in the first layer.
            tokens, normed = add_and_norm(tokens.expand_as(added), added, layer.norm3, dtype)
            added = layer.linear2(_inner(layer, normed))
        return add_and_norm(tokens, added, attention.norm, torch.float32)[1]

    def _attend(
        self,
        part: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        unrotated: int,
        backend: SDPBackend | None,
    ) -> Tensor:
        """One attention of one head, (N, L, C) each; the last ``unrotated`` keys are not rotated.

        A single row of queries is that of every row of keys.
        """
        of_queries, of_keys = self._rotations(part, queries.shape[1], queries.device)
        query = rotate(part.q_proj(queries), *of_queries, queries.shape[1])
        query = query.expand(len(keys), -1, -1)
        key = project_and_rotate(part.k_proj, keys, *of_keys, keys.shape[1] - unrotated)
        tiles = narrow_attention_tiles(query.device, query.dtype, query.shape[-1], values.shape[-1])
        if backend is None and tiles is not None:
            mixed = part.v_proj(narrow_attention(query, key, values.to(query.dtype), tiles))
        else:
            value = part.v_proj(values)
            with attention_backend(backend):
                mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        projected: Tensor = part.out_proj(mixed)
        return projected

    def _rotations(self, part: Any, count: int, device: torch.device) -> tuple[Rotation, Rotation]:
        """The rotations of queries and of keys, at each position in the picture."""
        key = (id(part), count)
        if key not in self._known:
            angles = part.freqs_cis
            if len(angles) != count:
                side = int(count**0.5)
                angles = part.compute_cis(end_x=side, end_y=side)
            self._known[key] = (
                angles.real.float().contiguous().to(device),
                angles.imag.float().contiguous().to(device),
            )
        return self._known[key], self._known[key]


def _lay_out(
    memories: Sequence[Tensor], encodings: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """All memories one after the other, (N, L, C_mem): with their position encodings, and without."""
    count, _, width = memories[0].shape
    length = sum(memory.shape[1] for memory in memories)
    values = torch.empty((count, length, width), dtype=dtype, device=memories[0].device)
    keys = torch.empty_like(values)
    start = 0
    for memory, encoding in zip(memories, encodings, strict=True):
        end = start + memory.shape[1]
        values[:, start:end] = memory
        torch.add(memory, encoding, out=keys[:, start:end])
        start = end
    return keys, values


def _inner(layer: Any, normed: Tensor) -> Tensor:
    """The inner activation of a layer's two products."""
    if layer.activation is F.relu:
        return project_and_rectify(layer.linear1, normed)
    inner: Tensor = layer.activation(layer.linear1(normed))
    return inner


def attention_backend(backend: SDPBackend | None) -> AbstractContextManager[None]:
    """Inside, attention is computed by ``backend``; by torch's choice where ``None``."""
    return contextlib.nullcontext() if backend is None else sdpa_kernel(backend)
