"""Progress of a command on standard error."""

from __future__ import annotations

import sys
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
    "save": "writing files",
    "evaluate": "evaluating",
    "others": "waiting for others",
    "pack": "packing masks",
    "train": "training",
}
"""Stage → what a person reads."""


class ProgressBar:
    """One bar a stage on standard error; silent where that is not a terminal.

    Args:
        shown: Whether there is one at all: of several processes only one shows its progress.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown
        self._stage: str | None = None
        self._bar: Any = None

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
                disable=None if self._shown else True,
            )
        self._bar.update(max(0.0, min(1.0, fraction) - self._bar.n))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None
