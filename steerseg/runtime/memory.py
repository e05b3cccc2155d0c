"""Copies between a device and page-locked memory of the host, which neither side waits for."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["free_bytes"]


def to_host(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory, which is complete once the device has come so far."""
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, or of that device, on a device whose further work finds it complete."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int:
    """What this process may still take of a GPU: free there, or held by PyTorch and not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
