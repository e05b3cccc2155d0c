"""Answers of a GPU brought to the host in blocks, so that neither waits for the other at every frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from steerseg.host_memory import to_host

_BLOCK_BYTES = 2 << 20  # what the sinks do with the last two blocks is done while the device has no work left


class Sink(Protocol):
    """What takes an object's answers, each frame's once, in the order in which they are found."""

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Take one frame.

        Args:
            frame: Index in the video.
            logits: (h, w) float32 mask logits on the CPU; the grid covers the whole frame.
            presence: Probability in [0, 1] that the object is visible.
        """
        ...


@dataclass(frozen=True)
class _Block:
    """What is on its way: (n, h, w) logits and (n,) presence on the host, once the event is over."""

    places: tuple[tuple[int, int], ...]
    logits: Tensor
    presence: Tensor
    arrived: torch.cuda.Event | None


class Delivery:
    """Hands answers to their sinks, in the order in which they are added.

    One block travels while the next one is computed, and what the sinks do with a block is done meanwhile, too. So
    two blocks are on the device and two on the host at most.

    Args:
        sinks: By owner.
        block_bytes: Logits are brought over once they are so many; 0 brings each answer at once.
    """

    def __init__(self, sinks: Mapping[int, Sink], *, block_bytes: int = _BLOCK_BYTES) -> None:
        self._sinks = sinks
        self._limit = block_bytes
        self._bytes = 0
        self._places: list[tuple[int, int]] = []
        self._logits: list[Tensor] = []
        self._presence: list[Tensor] = []
        self._travelling: _Block | None = None

    def add(self, places: Sequence[tuple[int, int]], logits: Tensor, presence: Tensor) -> None:
        """Add the answers of one step.

        Args:
            places: The owner and the frame of each.
            logits: (n, h, w) float32, not changed any more.
            presence: (n,) float32.
        """
        self._places += places
        self._logits.append(logits)
        self._presence.append(presence)
        self._bytes += logits.nbytes
        if self._bytes >= self._limit:
            self._send()

    def close(self) -> None:
        """Wait for everything, and hand it over."""
        self._send()
        self._receive()

    def _send(self) -> None:
        if not self._places:
            return
        logits, presence = torch.cat(self._logits), torch.cat(self._presence)
        on_gpu = logits.device.type == "cuda"
        block = _Block(
            tuple(self._places),
            to_host(logits),
            to_host(presence),
            torch.cuda.Event() if on_gpu else None,
        )
        if block.arrived is not None:
            block.arrived.record(torch.cuda.current_stream(logits.device))
        self._places, self._logits, self._presence, self._bytes = [], [], [], 0
        self._receive()  # the one before: the device has work meanwhile
        self._travelling = block
        if self._limit == 0:
            self._receive()

    def _receive(self) -> None:
        block, self._travelling = self._travelling, None
        if block is None:
            return
        if block.arrived is not None:
            block.arrived.synchronize()
        for (owner, frame), logits, presence in zip(
            block.places, block.logits, block.presence.tolist(), strict=True
        ):
            self._sinks[owner].put(frame, logits, presence)
