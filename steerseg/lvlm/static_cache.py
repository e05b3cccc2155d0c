"""Keys and values in buffers that stay where they are, as captured passes need them."""

from __future__ import annotations

import torch
from transformers.cache_utils import CacheLayerMixin


class StaticCacheLayer(CacheLayerMixin):
    """One layer's keys and values. Subclasses define in ``update`` how a pass writes them.

    Passes bring their own mask and their own positions.

    Args:
        keys: (B, H_kv, M, d).
        values: The same.
    """

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers are there from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(M, 0); passes bring their own mask."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """0; passes bring their own positions."""
        return 0

    def get_max_length(self) -> int:
        """Length M of the buffers, in tokens."""
        return int(self.keys.shape[2])
