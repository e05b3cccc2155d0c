"""Errors of the database, with the advice that fits each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from steerseg.errors import SteerSegError

if TYPE_CHECKING:
    from ml_backend.database.kinds import Kind

BUSY_TIMEOUT_MS = 5000


class StoreError(SteerSegError):
    """The database cannot be opened, read or written."""


class ValueRefusedError(StoreError):
    """The database works, but it cannot hold a value, such as a number beyond 64 bits."""


class DamagedValueError(ValueRefusedError):
    """The database works, but one of its values is damaged."""


_SHOWN_CHARACTERS = 500
_BEYOND_LIMITS = "54"  # class of PostgreSQL's codes: a text is too long for an index, for one


def is_of_value(error: Exception) -> bool:
    """Whether an error is about what was read or written. Otherwise the database is ill, and all else fails too."""
    if isinstance(error, DBAPIError):
        return (
            isinstance(error, DataError | IntegrityError)
            or "binding parameter" in str(error.orig)
            or str(getattr(error.orig, "sqlstate", "")).startswith(_BEYOND_LIMITS)
        )
    return not isinstance(error, StoreError) or isinstance(error, ValueRefusedError)


def describe_error(error: Exception) -> str:
    """An error in a line that any database and page can hold: what was written for people, or its kind."""
    text = str(error) if isinstance(error, SteerSegError) else f"unexpected {type(error).__name__}: {error}"
    kept = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return " ".join(kept.split())[:_SHOWN_CHARACTERS]


def typed(error: SQLAlchemyError, kind: Kind) -> StoreError:
    """What an error of SQLAlchemy means for a database."""
    if isinstance(error, DBAPIError):
        meaning = ValueRefusedError if is_of_value(error) else StoreError
        return meaning(kind.explain(error))
    if isinstance(error, StatementError):
        return ValueRefusedError(f"the database {kind.address} cannot hold a value: {error.orig}")
    return StoreError(f"the database {kind.address} refused a request: {type(error).__name__}")
