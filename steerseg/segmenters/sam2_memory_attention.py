"""SAM 2's memory attention with fewer passes over memory: the package's own weights and arithmetic.

The package adds positions to all memories again in each layer, rotates keys as complex numbers in float32, and keeps
whatever autocast casts. Here memories are laid out once a step, keys are rotated in place, sums and norms are one
pass, and values are averaged before they are projected (:mod:`steerseg.segmenters.fused`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor
from torch.nn.attention import SDPBackend

from steerseg.segmenters.fused import (
    add_and_norm,
    narrow_attention,
    narrow_attention_tiles,
    one_head_attention,
    rotate,
    self_attention,
)


class FusedMemoryAttention:
    """Lets image features attend to memories, with the result of the package's ``MemoryAttention``.

    Args:
        attention: A ``MemoryAttention``.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._rotations: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

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
            features: (N, L, C) image features; any strides.
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
        memory = torch.cat(list(memories), dim=1)
        keys = (memory + torch.cat(list(encodings))).to(dtype)
        values = memory.to(dtype)
        added: Tensor | None = None
        for layer in attention.layers:
            tokens, normed = add_and_norm(tokens, added, layer.norm1, dtype)
            positioned = (normed + position).to(dtype) if layer.pos_enc_at_attn else normed
            added = self._attend(layer.self_attn, positioned, positioned, normed, 0, None)

            tokens, normed = add_and_norm(tokens, added, layer.norm2, dtype)
            positioned = (normed + position).to(dtype) if layer.pos_enc_at_cross_attn_queries else normed
            cross_keys = keys if layer.pos_enc_at_cross_attn_keys else values
            added = self._attend(layer.cross_attn_image, positioned, cross_keys, values, pointers, backend)

            tokens, normed = add_and_norm(tokens, added, layer.norm3, dtype)
            added = layer.linear2(layer.activation(layer.linear1(normed)))
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
        """One attention of one head, (N, L, C) each; the last ``unrotated`` keys are not rotated."""
        query, key = part.q_proj(queries), part.k_proj(keys)
        cos, sin = self._rotation(part, query.shape[1], query.device)
        query = rotate(query, cos, sin, query.shape[1])
        key = rotate(key, cos, sin, key.shape[1] - unrotated)
        tiles = narrow_attention_tiles(query.device, query.dtype, query.shape[-1], values.shape[-1])
        if backend is None and tiles is not None:
            mixed = part.v_proj(narrow_attention(query, key, values.to(query.dtype), tiles))
        elif backend is None:
            mixed = self_attention(query, key, part.v_proj(values))
        else:
            mixed = one_head_attention(query, key, part.v_proj(values), backend)
        projected: Tensor = part.out_proj(mixed)
        return projected

    def _rotation(self, part: Any, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(L, C / 2) cosines and sines of each position in the picture."""
        key = (id(part), count)
        if key not in self._rotations:
            angles = part.freqs_cis
            if len(angles) != count:
                side = int(count**0.5)
                angles = part.compute_cis(end_x=side, end_y=side)
            self._rotations[key] = (
                angles.real.float().contiguous().to(device),
                angles.imag.float().contiguous().to(device),
            )
        return self._rotations[key]
