"""Answers of a GPU brought to the host in blocks and taken there by a thread, so that neither waits for the other."""

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

_BLOCK_BYTES = 2 << 20  # what the sinks do with the last block is done while the device has no work left
_MOST_BLOCKS = 4  # on their way


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
    """Hands answers to their sinks, in the order in which they are added. A context: its end waits for everything.

    Blocks travel while later ones are computed, and a thread gives them to the sinks: what these do with a mask takes
    the host about as long as the device takes to find it. Without blocks it is done in turn by who adds.

    Args:
        sinks: By owner. Only one of their calls runs at a time.
        block_bytes: Logits are brought over once they are so many; 0 brings each answer at once.
    """

    def __init__(self, sinks: Mapping[int, Sink], *, block_bytes: int = _BLOCK_BYTES) -> None:
        self._sinks = sinks
        self._limit = block_bytes
        self._bytes = 0
        self._places: list[tuple[int, int]] = []
        self._logits: list[Tensor] = []
        self._presence: list[Tensor] = []
        self._thread = ThreadPoolExecutor(1, "deliver") if block_bytes else None
        self._travelling: deque[Future[None]] = deque()

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._send()
                self._wait(0)
        finally:
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)

    def add(self, places: Sequence[tuple[int, int]], logits: Tensor, presence: Tensor) -> None:
        """Add the answers of one step.

        Args:
            places: The owner and the frame of each.
            logits: (n, h, w) float32, not changed any more.
            presence: (n,) float32.

        Raises:
            Exception: What a sink raised, now or before.
        """
        self._places += places
        self._logits.append(logits)
        self._presence.append(presence)
        self._bytes += logits.nbytes
        if self._bytes >= self._limit:
            self._send()

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
        if self._thread is None:
            self._hand_over(block)
            return
        self._travelling.append(self._thread.submit(self._hand_over, block))
        self._wait(_MOST_BLOCKS)

    def _wait(self, most: int) -> None:
        """Until no more than so many blocks are on their way."""
        while len(self._travelling) > most:
            self._travelling.popleft().result()

    @torch.inference_mode()
    def _hand_over(self, block: _Block) -> None:
        if block.arrived is not None:
            block.arrived.synchronize()
        for (owner, frame), logits, presence in zip(
            block.places, block.logits, block.presence.tolist(), strict=True
        ):
            self._sinks[owner].put(frame, logits, presence)
