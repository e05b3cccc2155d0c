"""Quick starts of a process: no garbage collection while it imports and loads what it keeps for good."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Load without Python's garbage collector, which afterwards ignores the loaded objects.

    torch and transformers make three quarters of a million objects that live as long as the process. The collector
    would walk them over and over, while they are made and at every later full collection. For main programs only:
    garbage at the end of the block is never found.
    """
    with paused():
        try:
            yield
        finally:
            gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """Inside, no garbage is collected; objects without a reference are freed as always."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
