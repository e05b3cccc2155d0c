"""The memory attention of ``transformers``' video models in fewer passes over memory, as that of the ``sam2`` package.

Their layers are SAM 2's under other names. EdgeTAM's memories begin with tokens that have no place in the picture, and
are not rotated: their angles are zero here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerseg.segmenters.sam2_memory_attention import FusedMemoryAttention, Rotation


class FusedVideoMemoryAttention(FusedMemoryAttention):
    """See :class:`FusedMemoryAttention`.

    Args:
        attention: A video model's ``memory_attention``.
        tokens: Tokens of a spatial memory, some of which may have no place in the picture.
    """

    def __init__(self, attention: Any, tokens: int) -> None:
        super().__init__(_by_other_names(attention))
        self._own = attention
        self._tokens = tokens
        self._tables: dict[torch.device, tuple[Rotation, Rotation]] = {}

    def supported(self) -> bool:
        """Whether its layers are SAM 2's with one head and rectified inner vectors."""
        return hasattr(self._own, "position_ids") and all(
            part.num_attention_heads == 1
            for layer in self._own.layers
            for part in (layer.self_attn, layer.cross_attn_image)
        )

    def _rotations(self, part: Any, count: int, device: torch.device) -> tuple[Rotation, Rotation]:
        if device not in self._tables:
            query = self._angles(self._own.position_ids, device)
            key = query
            if hasattr(self._own, "position_ids_k"):
                key = self._angles(self._own.position_ids_k, device)
            nowhere = self._tokens - len(key[0])
            cos = F.pad(key[0], (0, 0, nowhere, 0), value=1.0)
            self._tables[device] = query, (cos, F.pad(key[1], (0, 0, nowhere, 0)))
        query, key = self._tables[device]
        return query, key if part.of_memories else query

    def _angles(self, positions: Tensor, device: torch.device) -> Rotation:
        """(P, C / 2) cosines and sines; the library repeats each for both channels of a pair."""
        cos, sin = self._own.rotary_emb(positions, positions)
        cos, sin = (
            part.reshape(-1, part.shape[-1])[:, ::2].float().contiguous().to(device) for part in (cos, sin)
        )
        return cos, sin


def _by_other_names(attention: Any) -> Any:
    """The library's modules by the names of the ``sam2`` package."""
    return SimpleNamespace(
        layers=[_layer(layer) for layer in attention.layers], norm=attention.layer_norm, pos_enc_at_input=True
    )


def _layer(layer: Any) -> Any:
    inner = getattr(layer, "mlp", None)
    activation = layer.activation if inner is None else inner.act_fn
    return SimpleNamespace(
        norm1=layer.layer_norm1,
        norm2=layer.layer_norm2,
        norm3=layer.layer_norm3,
        self_attn=_part(layer.self_attn, of_memories=False),
        cross_attn_image=_part(layer.cross_attn_image, of_memories=True),
        linear1=layer.linear1 if inner is None else inner.up_proj,
        linear2=layer.linear2 if inner is None else inner.down_proj,
        activation=F.relu if isinstance(activation, nn.ReLU) else activation,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_queries=False,
        pos_enc_at_cross_attn_keys=True,
    )


def _part(attention: Any, *, of_memories: bool) -> Any:
    return SimpleNamespace(
        q_proj=attention.q_proj,
        k_proj=attention.k_proj,
        v_proj=attention.v_proj,
        out_proj=attention.o_proj,
        of_memories=of_memories,
    )
