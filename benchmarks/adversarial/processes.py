"""Processes as Linux shows them in ``/proc``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def below(pid: int) -> set[int]:
    """Every process that a process has started, and those that they have."""
    found: set[int] = set()
    left = [pid]
    while left:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            for task in Path(f"/proc/{left.pop()}/task").iterdir():
                children = {int(child) for child in (task / "children").read_text().split()}
                left += children - found
                found |= children
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0
