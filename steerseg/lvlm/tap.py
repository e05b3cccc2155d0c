"""Queries and keys of chosen text layers, recorded by a registered attention function.

No modelling file is forked: the function records q and k and hands them on to SDPA. It is registered with the
mask interface too, since masks are silently dropped otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from steerseg.errors import ModelError
from steerseg.lvlm.one_query import attend_one_query

TAP_ATTENTION = "steerseg_tap"


class PassEnded(Exception):  # noqa: N818 (not an error)
    """Ends a forward pass once the last layer that is needed was recorded."""


class QueryKeyTap:
    """Queries and keys of one forward pass.

    Attributes:
        queries: Layer index -> (B, H, S, d) after rotary embedding.
        keys: Layer index -> (B, H_kv, S, d) after rotary embedding.
        scaling: Layer index -> the factor on the logits.
        layers: Text layers whose queries and keys are recorded.
        last: The layer after whose queries and keys the pass ends by :class:`PassEnded`; ``None`` for all.
        continued: Whether queries belong to the last tokens only, after a prefix of keys, without padding.
    """

    def __init__(self, layers: Sequence[int], *, last: int | None = None, continued: bool = False) -> None:
        self.layers = frozenset(layers)
        self.last = last
        self.continued = continued
        self.queries: dict[int, torch.Tensor] = {}
        self.keys: dict[int, torch.Tensor] = {}
        self.scaling: dict[int, float] = {}

    def note(self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """Keep the first write of a layer: decoding steps and the replay of gradient checkpointing come later."""
        if layer in self.layers and layer not in self.queries:
            self.queries[layer], self.keys[layer], self.scaling[layer] = query, key, scaling


@dataclass(frozen=True)
class RolloutInputs:
    """Inputs of a rollout from one forward pass: queries and keys, and which tokens are visual.

    Attributes:
        tap: Queries and keys by layer.
        token_indices: (B, t * h * w) index in the chat of each visual token of the grid, in grid order.
        visual: (B, S) bool, those tokens. Visual tokens off the grid, such as newlines, are not among them.
        live: (B, S) bool, ``False`` on padding.
        padded: Whether there may be padding.
        response: Index of the response token: the last prompt position, where the answer begins.
    """

    tap: QueryKeyTap
    token_indices: torch.Tensor
    visual: torch.Tensor
    live: torch.Tensor
    padded: bool
    response: int


_open_taps: list[QueryKeyTap] = []


@contextmanager
def tapped(
    layers: Sequence[int], *, last: int | None = None, continued: bool = False
) -> Iterator[QueryKeyTap]:
    """Record queries and keys of ``layers`` from the forward passes made inside the block.

    Args:
        layers: Which text layers.
        last: Where given, a pass and with it the block ends once this layer has its queries and keys: neither its
            attention nor anything above is computed.
        continued: See :class:`QueryKeyTap`.
    """
    tap = QueryKeyTap(layers, last=last, continued=continued)
    _open_taps.append(tap)
    try:
        yield tap
    except PassEnded as ended:
        ended.__traceback__ = None  # which holds all frames of the pass, and with them what these hold
    finally:
        _open_taps.remove(tap)


def _tap_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    layer = getattr(module, "layer_idx", None)  # layers of a vision tower have none
    if _open_taps and layer is not None:
        window = kwargs.get("sliding_window")
        if window is not None and window < key.shape[2]:
            raise ModelError(
                f"text layer {layer} attends to the last {window} of {key.shape[2]} tokens only, but the rollout is "
                "made for layers that attend to all; choose a checkpoint without sliding windows, or fewer "
                "keyframes or visual tokens."
            )
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        tap = _open_taps[-1]
        tap.note(layer, query, key, factor)
        if layer == tap.last:
            raise PassEnded
        if tap.continued and query.device.type == "cuda":
            return _attend_last_queries(query, key, value, factor), None
    if query.shape[2] == 1 and key.shape[1] < query.shape[1] and not query.requires_grad:
        return attend_one_query(query, key, value, attention_mask, scaling), None
    attended: tuple[torch.Tensor, torch.Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return attended


def _attend_last_queries(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Causal attention of the last T of S tokens, (B, H, T, d) -> (B, T, H, d).

    It goes to torch's fastest kernel, which takes no mask, and keys that heads share as they are.
    """
    hidden = causal_lower_right(query.shape[2], key.shape[2])
    shared = key.shape[1] < query.shape[1]
    mixed: torch.Tensor = F.scaled_dot_product_attention(
        query, key, value, attn_mask=hidden, scale=scaling, enable_gqa=shared
    )
    return mixed.transpose(1, 2)


AttentionInterface.register(TAP_ATTENTION, _tap_attention)
AttentionMaskInterface.register(TAP_ATTENTION, sdpa_mask)
