"""EdgeTAM's perceiver for many memories at once: weights and arithmetic are the library's own.

Some latents read a whole memory, the others one window of it each. The library lets them go through the same layers
twice, and norms and projects each memory for both. Here tokens lie in their windows from the start, which attention
over the whole memory does not notice. So each memory is normed and projected once, and so are all latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steerseg.segmenters.fused import add_and_norm, add_in_precision


class Perceiver:
    """Condenses memories to the tokens that the library's perceiver gives for each.

    Args:
        perceiver: An ``EdgeTamVideoPerceiverResampler`` with both kinds of latents.
        position: (1, C_mem, h, w) position encoding of a memory; h and w are multiples of the windows in a row.
    """

    def __init__(self, perceiver: Any, position: Tensor) -> None:
        self._perceiver = perceiver
        self._side = math.isqrt(perceiver.num_latents_2d)
        self._position = self._in_windows(position)[0]

    def __call__(self, memory: Tensor) -> Tensor:
        """(N, C_mem, h, w) -> (N, L, C_mem) float32: tokens of the whole picture, then one of each window."""
        perceiver = self._perceiver
        dtype = perceiver.layers[0].cross_attention.k_proj.weight.dtype
        tokens = self._in_windows(memory)
        latents = torch.cat([perceiver.latents_1d, perceiver.latents_2d]).repeat(len(memory), 1, 1)
        added: Tensor | None = None
        for layer in perceiver.layers:
            latents, normed = add_and_norm(latents, added, layer.layer_norm_latents, dtype)
            given = add_and_norm(tokens, None, layer.layer_norm_input, dtype)[1]
            added = self._across(layer.cross_attention, normed, given)
            latents, added = _mlp(layer.mlp, latents, added, dtype)
            latents, normed = add_and_norm(latents, added, layer.layer_norm_self, dtype)
            added = self._within(layer.self_attention, normed)
            latents, added = _mlp(layer.self_mlp, latents, added, dtype)
        return add_and_norm(latents, added, perceiver.layer_norm, torch.float32)[1]

    def _in_windows(self, memory: Tensor) -> Tensor:
        """(N, C_mem, h, w) -> (N, h * w, C_mem), contiguous, window after window."""
        side, (height, width) = self._side, memory.shape[-2:]
        cut = memory.reshape(*memory.shape[:2], side, height // side, side, width // side)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(memory), height * width, -1)

    def _across(self, part: Any, latents: Tensor, tokens: Tensor) -> Tensor:
        """Latents (N, L, C_mem) attend to tokens (N, h * w, C_mem), or to those of their window."""
        whole, windows = self._perceiver.num_latents_1d, self._perceiver.num_latents_2d
        query, key, value = part.q_proj(latents), part.k_proj(tokens), part.v_proj(tokens)
        heads = part.num_attention_heads
        of_whole = _mixed(
            query[:, :whole],
            add_in_precision(key, self._position, key.dtype),
            add_in_precision(value, self._position, value.dtype),
            heads,
        )
        # (N * windows, 1 or tokens of a window, C)
        query, key, value = (
            each.reshape(len(each) * windows, -1, each.shape[-1]) for each in (query[:, whole:], key, value)
        )
        of_windows = _mixed(query, key, value, heads).view(len(latents), windows, -1)
        projected: Tensor = part.o_proj(torch.cat([of_whole, of_windows], dim=1))
        return projected

    def _within(self, part: Any, latents: Tensor) -> Tensor:
        """Latents (N, L, C_mem) of the whole attend to each other, and that of a window to itself alone."""
        whole = self._perceiver.num_latents_1d
        query, key, value = (project(latents) for project in (part.q_proj, part.k_proj, part.v_proj))
        mixed = _mixed(query[:, :whole], key[:, :whole], value[:, :whole], part.num_attention_heads)
        projected: Tensor = part.o_proj(torch.cat([mixed, value[:, whole:]], dim=1))
        return projected


def _mlp(part: Any, latents: Tensor, added: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The residual stream, and what the MLP adds to it."""
    latents, normed = add_and_norm(latents, added, part.layer_norm, dtype)
    return latents, part.down_proj(part.act_fn(part.up_proj(normed)))


def _mixed(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of some heads: (N, L, C), (N, S, C) and (N, S, C) -> (N, L, C)."""
    query, key, value = (
        torch.unflatten(each, -1, (heads, -1)).transpose(1, 2) for each in (query, key, value)
    )
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
