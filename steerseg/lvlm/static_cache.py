"""Keys and values in room that stays where it is, as captured passes need it."""

from __future__ import annotations

import torch
from transformers.cache_utils import CacheLayerMixin


class RoomLayer(CacheLayerMixin):
    """One layer's keys and values. How a pass writes them is said by subclasses, in ``update``.

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
        """The room is there from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Not asked for."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """Not asked for."""
        return 0

    def get_max_length(self) -> int:
        """M."""
        return int(self.keys.shape[2])
