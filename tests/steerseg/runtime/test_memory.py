"""What a process may still take of a GPU."""

from __future__ import annotations

import pytest
import torch

from steerseg.runtime.memory import free_bytes


def test_what_pytorch_holds_unused_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a full cache looks like a full card, and what fits goes to the host."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000, 24_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 23_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 17_000)
    assert free_bytes(torch.device("cuda")) == 7_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_freed_tensor_leaves_as_much_as_before() -> None:
    device = torch.device("cuda")
    torch.empty(1, device=device)
    before = free_bytes(device)
    kept = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    assert free_bytes(device) <= before - kept.nbytes
    del kept
    assert free_bytes(device) == before
