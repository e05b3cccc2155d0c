"""Errors of the database, with the advice that fits each."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from steerseg.errors import SteerSegError

BUSY_TIMEOUT_MS = 5000


class StoreError(SteerSegError):
    """The database cannot be opened, read or written."""


class ValueRefusedError(StoreError):
    """The database works, but it cannot hold a value, such as a number beyond 64 bits."""


class DamagedValueError(ValueRefusedError):
    """The database works, but one of its values is damaged."""


_SHOWN_CHARACTERS = 500


def is_of_value(error: Exception) -> bool:
    """Whether an error is about what was read or written. Otherwise the database is ill, and all else fails too."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError) or "binding parameter" in str(error.orig)
    return not isinstance(error, StoreError) or isinstance(error, ValueRefusedError)


def describe_error(error: Exception) -> str:
    """An error in a line that any database and page can hold: what was written for people, or its kind."""
    text = str(error) if isinstance(error, SteerSegError) else f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())[:_SHOWN_CHARACTERS]


def typed(error: SQLAlchemyError, path: Path) -> StoreError:
    """What an error of SQLAlchemy means for the database at ``path``."""
    if isinstance(error, DBAPIError):
        kind = ValueRefusedError if is_of_value(error) else StoreError
        return kind(explain(str(error.orig), path))
    if isinstance(error, StatementError):
        return ValueRefusedError(f"the database {path} cannot hold a value: {error.orig}")
    return StoreError(f"the database {path} refused a request: {type(error).__name__}")


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
