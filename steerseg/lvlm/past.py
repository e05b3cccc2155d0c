"""What text layers keep of the tokens that they read, for those that follow.

Most layers attend to all earlier tokens and keep keys and values. The recurrent layers of a hybrid model, such as
Qwen3.5, keep a state of fixed size. Every further token overwrites it, so passes go on from a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache

Kept = tuple[Tensor, Tensor]
"""Of a layer that attends keys and values (B, H_kv, S, d). Of a recurrent layer the latest inputs of its convolution
(B, C, K) and its state (B, H, d_k, d_v) in float32."""

Past = Sequence[Kept]
"""Of each text layer, from the bottom on."""

_FLOAT32_BYTES = 4


def recurrent_layers(config: Any) -> frozenset[int]:
    """Indices of the layers that keep a state, by a text model's configuration; none of most models."""
    kinds = getattr(config, "layer_types", None) or ()
    return frozenset(index for index, kind in enumerate(kinds) if kind == "linear_attention")


def empty_cache(config: Any) -> DynamicCache:
    """A cache for a text model of this configuration."""
    return DynamicCache(config=config) if recurrent_layers(config) else DynamicCache()


def past_of(cache: Cache, layers: int) -> tuple[Kept, ...]:
    """What the lowest ``layers`` layers kept in a cache that a pass filled."""
    return tuple(
        (layer.conv_states[0], layer.recurrent_states[0])
        if hasattr(layer, "recurrent_states")
        else (layer.keys, layer.values)
        for layer in cache.layers[:layers]
    )


def masks_by_kind(config: Any, mask: Tensor) -> Tensor | dict[str, Tensor | None]:
    """A mask (B, 1, T, S) of attention as a text model takes it; recurrent layers need none where nothing is padded."""
    if not recurrent_layers(config):
        return mask
    return {"full_attention": mask, "linear_attention": None}


def state_bytes(config: Any, itemsize: int) -> int:
    """Bytes that a recurrent layer keeps of one chat, of whatever length.

    Args:
        config: Of a text model with such layers.
        itemsize: Bytes of a number in the precision of the weights.
    """
    heads, values = config.linear_num_value_heads, config.linear_value_head_dim
    keys = config.linear_key_head_dim
    channels = 2 * config.linear_num_key_heads * keys + heads * values
    return int(channels * config.linear_conv_kernel_dim * itemsize + heads * keys * values * _FLOAT32_BYTES)


def recurrent_width(config: Any) -> int:
    """Width of the values of a recurrent layer, all heads together; 0 for a model without."""
    if not recurrent_layers(config):
        return 0
    return int(config.linear_num_value_heads * config.linear_value_head_dim)
