"""Keys, values and states in buffers that stay where they are, as captured passes need them."""

from __future__ import annotations

import torch
from transformers.cache_utils import CacheLayerMixin, LinearAttentionLayer


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


class StaticStateLayer(LinearAttentionLayer):
    """The state of a recurrent layer, from which a pass goes on and which it overwrites.

    Args:
        inputs: (B, C, K) latest inputs of the convolution.
        state: (B, H, d_k, d_v) float32.
    """

    def __init__(self, inputs: torch.Tensor, state: torch.Tensor) -> None:
        super().__init__()
        self.conv_states[0], self.recurrent_states[0] = inputs, state
        self.conv_kernel_size[0] = inputs.shape[-1]
        self.device, self.dtype = inputs.device, inputs.dtype
        for flags in (
            self.is_conv_states_initialized,
            self.is_recurrent_states_initialized,
            self.has_previous_state,
        ):
            flags[0] = True

    def hold(self, inputs: torch.Tensor, state: torch.Tensor, row: int) -> None:
        """Let the chat in one row go on from a copy of this state, of one chat."""
        self.conv_states[0][row].copy_(inputs[0])
        self.recurrent_states[0][row].copy_(state[0])
