"""Masks transferred from a GPU to the host in blocks, and handed on by a thread, so that neither side waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from steerseg.runtime.memory import to_host

_BLOCK_BYTES = 2 << 20  # small, since the device is idle while sinks receive the last block
_MOST_BLOCKS = 4  # on their way


class MaskSink(Protocol):
    """Receives an object's masks, each frame's once, in the order of tracking."""

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
    """Masks that are on their way.

    Attributes:
        targets: Owner and frame of each mask.
        logits: (n, h, w) on the host, complete once the event is over.
        presence: (n,), the same.
        arrived: The event; ``None`` on a CPU.
    """

    targets: tuple[tuple[int, int], ...]
    logits: Tensor
    presence: Tensor
    arrived: torch.cuda.Event | None


class HostTransfer:
    """Hands masks to their sinks, in the order in which they are added. A context: its end waits for everything.

    Blocks travel while later ones are computed, and a thread gives them to the sinks: these work on a mask about as
    long as the device takes to compute it. Without blocks, :meth:`add` gives each mask to its sink at once.

    Args:
        sinks: Receivers of the masks, by owner. Only one of their calls runs at a time.
        block_bytes: Logits are transferred once they are so many bytes; 0 transfers each mask at once.
    """

    def __init__(self, sinks: Mapping[int, MaskSink], *, block_bytes: int = _BLOCK_BYTES) -> None:
        self._sinks = sinks
        self._limit = block_bytes
        self._bytes = 0
        self._targets: list[tuple[int, int]] = []
        self._logits: list[Tensor] = []
        self._presence: list[Tensor] = []
        self._thread = ThreadPoolExecutor(1, "transfer") if block_bytes else None
        self._travelling: deque[Future[None]] = deque()

    def __enter__(self) -> HostTransfer:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the sinks have everything; after an error, drop what has not arrived."""
        try:
            if kind is None:
                self._send()
                self._wait(0)
        finally:
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)

    def add(self, targets: Sequence[tuple[int, int]], logits: Tensor, presence: Tensor) -> None:
        """Add the masks of one step.

        Args:
            targets: Owner and frame of each.
            logits: (n, h, w) float32, not changed any more.
            presence: (n,) float32.

        Raises:
            Exception: An error of a sink, now or before.
        """
        self._targets += targets
        self._logits.append(logits)
        self._presence.append(presence)
        self._bytes += logits.nbytes
        if self._bytes >= self._limit:
            self._send()

    def _send(self) -> None:
        if not self._targets:
            return
        logits, presence = torch.cat(self._logits), torch.cat(self._presence)
        on_gpu = logits.device.type == "cuda"
        block = _Block(
            tuple(self._targets),
            to_host(logits),
            to_host(presence),
            torch.cuda.Event() if on_gpu else None,  # type: ignore[no-untyped-call]
        )
        if block.arrived is not None:
            block.arrived.record(torch.cuda.current_stream(logits.device))
        self._targets, self._logits, self._presence, self._bytes = [], [], [], 0
        if self._thread is None:
            self._hand_over(block)
            return
        self._travelling.append(self._thread.submit(self._hand_over, block))
        self._wait(_MOST_BLOCKS)

    def _wait(self, most: int) -> None:
        """Wait until at most ``most`` blocks are on their way."""
        while len(self._travelling) > most:
            self._travelling.popleft().result()

    @torch.inference_mode()
    def _hand_over(self, block: _Block) -> None:
        if block.arrived is not None:
            block.arrived.synchronize()
        for (owner, frame), logits, presence in zip(
            block.targets, block.logits, block.presence.tolist(), strict=True
        ):
            self._sinks[owner].put(frame, logits, presence)
