"""How much memory a GPU has left."""

from __future__ import annotations

import torch

__all__ = ["free_bytes"]


def free_bytes(device: torch.device) -> int:
    """What this process may still take of a GPU: free there, or held by PyTorch and not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
