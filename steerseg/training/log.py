"""The log of a training: lines of JSON always, TensorBoard where it is installed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

LOG_FILE = "log.jsonl"


class TrainingLog:
    """Writes numbers by step.

    Args:
        folder: Gets ``log.jsonl``, and ``tensorboard/`` where the package ``tensorboard`` is installed.
        step: Steps that were done before; TensorBoard drops what an interrupted run logged after them.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._begun = self._lap = time.monotonic()
        self._lines: TextIO = (folder / LOG_FILE).open("a", encoding="utf-8")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # an optional extra
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    @property
    def boards(self) -> bool:
        """Whether TensorBoard is written as well."""
        return self._board is not None

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self._lap = self._lap, time.monotonic()
        return self._lap - before

    def write(self, step: int, **values: float) -> None:
        """Add the numbers of a step. They are on disk when this returns."""
        seconds = round(time.monotonic() - self._begun, 1)
        self._lines.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
