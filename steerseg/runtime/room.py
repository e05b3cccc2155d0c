"""Room on a GPU: where its memory runs out, what is kept is given up, budgets are halved, and the work is done again.

How much a proposal takes depends on the model, the video and the card, and on what else runs there. Estimates choose
the first budgets; this corrects them, for as long as the process lives.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

log = logging.getLogger(__name__)

MOST_HALVINGS = 4
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Room:
    """The memory of one device, and those who can give some of it up.

    Attributes:
        halvings: How often budgets were halved so far, at most :data:`MOST_HALVINGS`.
    """

    def __init__(self) -> None:
        self.halvings = 0
        self._givers: list[Callable[[bool], None]] = []

    def add(self, give: Callable[[bool], None]) -> None:
        """Have ``give`` called where memory ran out.

        Args:
            give: Drops what can be made again, and halves what it keeps for later. Where that did not suffice before,
                it is called with ``True``: then it works in smaller batches, too, or on the host.
        """
        self._givers.append(give)

    def work(self, doing: str, work: Callable[[], _R]) -> _R:
        """Do work that may be done again.

        Args:
            doing: Its name for the log.
            work: The work.

        Raises:
            torch.OutOfMemoryError: The memory does not suffice, whatever is given up.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.halvings == MOST_HALVINGS:
                    raise
            # Beyond the handler: until here the error held the tensors of the work.
            self._make(doing)

    def _make(self, doing: str) -> None:
        self.halvings += 1
        for give in self._givers:
            give(self.halvings > 1)
        gc.collect()
        torch.cuda.empty_cache()
        log.warning(
            "the GPU's memory ran out during %s. What was kept of videos was dropped, and budgets of memory are now "
            "1/%d of the first; proposals take longer. `steerseg doctor` names the preset that fits this machine",
            doing,
            2**self.halvings,
        )


class HasRoom(Protocol):
    """Whatever works on a device."""

    @property
    def room(self) -> Room:
        """The device's memory."""
        ...


_S = TypeVar("_S", bound=HasRoom)


def makes_room(
    doing: str,
) -> Callable[[Callable[Concatenate[_S, _P], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Decorate a method that may be called again after memory ran out; see :meth:`Room.work`.

    Args:
        doing: What it does, for the log.
    """

    def decorate(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @functools.wraps(method)
        def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            return self.room.work(doing, lambda: method(self, *args, **kwargs))

        return run

    return decorate
