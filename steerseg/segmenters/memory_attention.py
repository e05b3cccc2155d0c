"""Attention to memories with fewer passes over memory: weights and arithmetic are a library's own.

The libraries add positions to all memories again in each layer, rotate keys in float32 in many passes, and keep
whatever autocast casts. Here memories are laid out once a step, keys are rotated in place, sums and norms are one
pass, and values are averaged before they are projected (:mod:`steerseg.segmenters.fused`).

The ``sam2`` package and ``transformers`` have the same layers under other names. :func:`of_sam2` and
:func:`of_transformers` find them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from steerseg.segmenters.fused import (
    add_and_norm,
    add_in_precision,
    narrow_attention,
    narrow_attention_tiles,
    one_head_attention,
    project_and_activate,
    rotate,
    self_attention,
)

_OF_TRANSFORMERS = (
    "EdgeTamVideoMemoryAttention",
    "Sam2VideoMemoryAttention",
    "Sam3TrackerVideoMemoryAttention",
)


@dataclass(frozen=True)
class Rotation:
    """Angles by which the channels of each position are rotated, in pairs of neighbours.

    Attributes:
        cos: (P, C / 2) float32.
        sin: The same.
    """

    cos: Tensor
    sin: Tensor

    def behind(self, count: int) -> Rotation:
        """The same behind ``count`` positions that are not rotated."""
        return Rotation(F.pad(self.cos, (0, 0, count, 0), value=1.0), F.pad(self.sin, (0, 0, count, 0)))


@dataclass(frozen=True)
class Attention:
    """One attention of one head.

    Attributes:
        query: Projects queries.
        key: Projects keys.
        value: Projects values.
        out: Projects the average of the values.
        query_rotation: Of the L positions of the picture.
        key_rotation: Of the positions of one memory; each memory begins anew.
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    query_rotation: Rotation
    key_rotation: Rotation


@dataclass(frozen=True)
class Layer:
    """One layer: image features attend to each other, then to memories, and each goes through an MLP.

    Attributes:
        norms: Before each of the three.
        within: The attention of image features to each other.
        across: The attention to memories.
        up: First product of the MLP.
        activation: Of the MLP.
        down: Second product of the MLP.
        position_within: Whether positions are added to queries and keys of the picture.
        position_at_queries: Whether they are added to the queries of memories.
        position_at_keys: Whether they are added to the keys of memories.
    """

    norms: tuple[nn.LayerNorm, nn.LayerNorm, nn.LayerNorm]
    within: Attention
    across: Attention
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Module
    position_within: bool = False
    position_at_queries: bool = False
    position_at_keys: bool = True


@dataclass(frozen=True)
class FusedMemoryAttention:
    """Lets image features attend to memories, with the result of the library's module.

    Attributes:
        layers: In their order.
        norm: Of the result.
        position_at_input: Whether a tenth of the positions is added to the image features.
    """

    layers: tuple[Layer, ...]
    norm: nn.LayerNorm
    position_at_input: bool = True

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
            features: (N or 1, L, C) image features; any strides. What does not depend on memories is computed once
                for those that all objects share.
            position: (L, C) their position encoding.
            memories: (N, M or P, C_mem) each.
            encodings: (M or P, C_mem) position encoding of each memory.
            pointers: How many of the last vectors of all memories have no position in the picture.
            backend: Computes the attention to memories; torch's choice where ``None``.

        Returns:
            (N, L, C) float32, of the final norm.
        """
        dtype = self.layers[0].up.weight.dtype
        if self.position_at_input:
            tokens = add_in_precision(features, position, torch.result_type(features, position), alpha=0.1)
        else:
            tokens = features.contiguous()
        memory = torch.cat(list(memories), dim=1)
        keys = add_in_precision(memory, torch.cat(list(encodings)), dtype)
        values = memory.to(dtype)
        added: Tensor | None = None
        for layer in self.layers:
            tokens, normed = add_and_norm(tokens, added, layer.norms[0], dtype)
            positioned = add_in_precision(normed, position, dtype) if layer.position_within else normed
            added = _attend(layer.within, positioned, positioned, normed, 0, None)

            tokens, normed = add_and_norm(tokens, added, layer.norms[1], dtype)
            positioned = add_in_precision(normed, position, dtype) if layer.position_at_queries else normed
            positioned_keys = keys if layer.position_at_keys else values
            added = _attend(layer.across, positioned, positioned_keys, values, pointers, backend)

            tokens = tokens.expand(len(added), -1, -1)
            tokens, normed = add_and_norm(tokens, added, layer.norms[2], dtype)
            added = layer.down(project_and_activate(normed, layer.up, layer.activation))
        return add_and_norm(tokens, added, self.norm, torch.float32)[1]


def of_sam2(module: Any, positions: int) -> FusedMemoryAttention | None:
    """The fused form of the ``sam2`` package's module.

    Args:
        module: A ``MemoryAttention``.
        positions: L, how many the picture has; each memory has as many.

    Returns:
        ``None`` where the module is of another kind, has several heads in a layer, or was compiled.
    """
    if type(module) is not MemoryAttention or "forward" in module.__dict__ or not module.batch_first:
        return None
    if not all(type(layer) is MemoryAttentionLayer for layer in module.layers):
        return None
    parts = [part for layer in module.layers for part in (layer.self_attn, layer.cross_attn_image)]
    if not all(type(part) is RoPEAttention and part.num_heads == 1 for part in parts):
        return None

    def attention(part: Any) -> Attention:
        rotation = _rotation_of_sam2(part, positions)
        return Attention(part.q_proj, part.k_proj, part.v_proj, part.out_proj, rotation, rotation)

    layers = tuple(
        Layer(
            (layer.norm1, layer.norm2, layer.norm3),
            attention(layer.self_attn),
            attention(layer.cross_attn_image),
            layer.linear1,
            layer.activation,
            layer.linear2,
            layer.pos_enc_at_attn,
            layer.pos_enc_at_cross_attn_queries,
            layer.pos_enc_at_cross_attn_keys,
        )
        for layer in module.layers
    )
    return FusedMemoryAttention(layers, module.norm, module.pos_enc_at_input)


def of_transformers(module: Any, positions: int, tokens: int) -> FusedMemoryAttention | None:
    """The fused form of the memory attention of a video model of ``transformers``.

    Args:
        module: Of EdgeTAM, SAM 2 or the tracker of SAM 3.
        positions: L, how many the picture has.
        tokens: M, how many each memory has. Those of a grid are its last ones, and only they are rotated.

    Returns:
        ``None`` where the module is of another kind or for other sizes, has several heads, or was compiled.
    """
    if type(module).__name__ not in _OF_TRANSFORMERS or "forward" in module.__dict__:
        return None
    if module.config.memory_attention_num_attention_heads != 1:
        return None
    picture = _rotation_of_transformers(module, module.position_ids)
    grid = picture
    if hasattr(module, "position_ids_k"):
        grid = _rotation_of_transformers(module, module.position_ids_k)
    elsewhere = tokens - len(grid.cos)
    if len(picture.cos) != positions or elsewhere < 0:
        return None
    memory = grid.behind(elsewhere)

    def attention(part: Any, keys: Rotation) -> Attention:
        return Attention(part.q_proj, part.k_proj, part.v_proj, part.o_proj, picture, keys)

    layers = tuple(
        Layer(
            (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3),
            attention(layer.self_attn, picture),
            attention(layer.cross_attn_image, memory),
            *_mlp_of_transformers(layer),
        )
        for layer in module.layers
    )
    return FusedMemoryAttention(layers, module.layer_norm)


def _rotation_of_sam2(part: Any, positions: int) -> Rotation:
    angles = part.freqs_cis
    if len(angles) != positions:
        side = math.isqrt(positions)
        angles = part.compute_cis(end_x=side, end_y=side)
    device = part.q_proj.weight.device
    return Rotation(*(each.float().contiguous().to(device) for each in (angles.real, angles.imag)))


def _rotation_of_transformers(module: Any, positions: Tensor) -> Rotation:
    """The library has each angle twice, for both channels of a pair."""
    tables = module.rotary_emb(positions, positions)
    return Rotation(*(table[0, :, ::2].float().contiguous() for table in tables))


def _mlp_of_transformers(layer: Any) -> tuple[nn.Linear, Callable[[Tensor], Tensor], nn.Module]:
    """EdgeTAM keeps it in a module of its own."""
    if hasattr(layer, "mlp"):
        return layer.mlp.up_proj, layer.mlp.act_fn, layer.mlp.down_proj
    return layer.linear1, layer.activation, layer.linear2


def _attend(
    part: Attention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    unrotated: int,
    backend: SDPBackend | None,
) -> Tensor:
    """One attention, queries (N or 1, L, C) and (N, L, C) each; the last ``unrotated`` keys are not rotated."""
    query, key = part.query(queries), part.key(keys)
    rotate(query, part.query_rotation.cos, part.query_rotation.sin, query.shape[1])
    rotate(key, part.key_rotation.cos, part.key_rotation.sin, key.shape[1] - unrotated)
    query = query.expand(len(key), -1, -1)
    tiles = narrow_attention_tiles(query.device, query.dtype, query.shape[-1], values.shape[-1])
    if backend is None and tiles is not None:
        mixed = part.value(narrow_attention(query, key, values.to(query.dtype), tiles))
    elif backend is None:
        mixed = self_attention(query, key, part.value(values))
    else:
        mixed = one_head_attention(query, key, part.value(values), backend)
    projected: Tensor = part.out(mixed)
    return projected
