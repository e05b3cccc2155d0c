"""Errors of the database, with the advice that fits each."""

from __future__ import annotations

from pathlib import Path

from steerseg.errors import SteerSegError

BUSY_TIMEOUT_MS = 5000


class StoreError(SteerSegError):
    """The database cannot be opened, read or written."""


def explain(reason: str, path: Path) -> str:
    """What SQLite's ``reason`` means for the database at ``path``, with advice.

    Args:
        reason: SQLite's own message.
        path: The database file.
    """
    text = reason.lower()
    if "malformed" in text or "not a database" in text:
        advice = "is damaged; restore a backup, or move it away to start afresh"
    elif "locked" in text or "busy" in text:
        advice = f"was locked for over {BUSY_TIMEOUT_MS // 1000} s; check that no other program holds it open"
    elif "full" in text:
        advice = "cannot grow: the disk is full; free some space"
    elif "readonly" in text or "unable to open" in text or "permission" in text:
        advice = "cannot be opened for writing; check who owns it and its folder (STEERSEG_DATA_DIR)"
    elif "disk i/o" in text:
        advice = "cannot be read or written: the disk reports an error"
    else:
        return f"the database {path} refused a request: {reason}"
    return f"the database {path} {advice} ({reason})"
