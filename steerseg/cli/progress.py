"""Progress of a command on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_STAGES = {
    "download": "downloading",
    "decode": "decoding",
    "load": "loading models",
    "keyframes": "encoding keyframes",
    "reasoning": "reasoning",
    "grounding": "grounding",
    "candidates": "trying candidates",
    "tracking": "tracking",
    "added keyframes": "looking at added keyframes",
    "save": "writing files",
    "evaluate": "evaluating",
    "others": "waiting for others",
    "pack": "packing masks",
    "train": "training",
}
"""Stage → what a person reads."""


_SILENCE = 10.0  # seconds between two lines about one stage


class ProgressBar:
    """A bar for each stage on standard error; lines where that is not a terminal.

    Args:
        shown: Whether there is any: of several processes only one shows its progress.
        clock: Seconds; decides when a stage gets another line.
    """

    def __init__(self, shown: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._shown = shown
        self._clock = clock
        self._stage: str | None = None
        self._bar: Any = None
        self._begun = self._last = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def __call__(self, stage: str, fraction: float) -> None:
        """Show that ``fraction`` in [0, 1] of ``stage`` is done."""
        if not self._shown:
            return
        fraction = max(0.0, min(1.0, fraction))
        if sys.stderr.isatty():
            self._move(stage, fraction)
        else:
            self._write(stage, fraction)

    def _move(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            from tqdm import tqdm

            self._close()
            self._stage = stage
            self._bar = tqdm(
                total=1.0,
                desc=_STAGES.get(stage, stage),
                bar_format="{desc:<22}{percentage:3.0f}% {bar:30} {elapsed}",
                ncols=72,  # given, since terminals in containers often claim to have no width
                nrows=24,
                file=sys.stderr,
            )
        self._bar.update(max(0.0, fraction - self._bar.n))

    def _write(self, stage: str, fraction: float) -> None:
        """A line when a stage begins, and while it lasts."""
        now = self._clock()
        name = _STAGES.get(stage, stage)
        if stage != self._stage:
            self._stage, self._begun, self._last = stage, now, now
            print(name, file=sys.stderr, flush=True)
        elif now - self._last >= _SILENCE:
            self._last = now
            print(f"{name}: {fraction:.0%} after {now - self._begun:.0f} s", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None
