"""SQLite, in a file of its own: the default, with nothing to install."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from ml_backend.database.errors import BUSY_TIMEOUT_MS, StoreError
from ml_backend.database.private_files import make_private_file, make_private_folder


class Sqlite:
    """A file of SQLite in WAL mode; see :class:`~ml_backend.database.kinds.Kind`.

    Args:
        address: The file.
    """

    name = "sqlite"
    migrates_by_itself = True

    def __init__(self, address: Path) -> None:
        self.address = address
        self.reading: dict[str, object] = {}

    def create_engine(self, term: int | None) -> Engine:
        """Connections to the file, which is made if it is missing, for its owner's eyes only."""
        make_private_folder(self.address.parent)
        make_private_file(self.address)
        engine = create_engine(f"sqlite:///{self.address}", connect_args={"check_same_thread": False})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        return engine

    def explain(self, error: DBAPIError) -> str:
        """What an error means, with advice."""
        return explain(str(error.orig), self.address)

    def back_up(self, connection: Connection, layout: int) -> Path | None:
        """Copy the database as it was committed last, beside it, for its owner's eyes only."""
        path, now = self.address, datetime.now(UTC)
        backup = path.with_name(f"{path.stem}-layout-{layout}-{now:%Y%m%dT%H%M%S%fZ}{path.suffix}")
        try:
            copy_file(path, backup)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the database {path} has the older layout {layout}, and its backup {backup.name} could not be "
                f"written ({error}); nothing was changed: free some space, and start again"
            ) from error
        return backup


def copy_file(path: Path, copy: Path) -> None:
    """Copy a database as it was committed last, for its owner's eyes only; it is whole, or not there.

    Raises:
        OSError: It cannot be written.
        sqlite3.Error: It cannot be read or written.
    """
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(partial)) as target,
        ):
            source.backup(target)
        sync(partial)
        partial.rename(copy)
        sync(copy.parent)
    except (OSError, sqlite3.Error):
        partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _configure(connection: Any, _record: object) -> None:
    # Transactions are begun by `_begin`, not by the driver, which would begin them too late for `IMMEDIATE`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if "patience" in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={options['patience']}")
    if "durable" in options:
        # FULL: a webhook that was acknowledged survives a power cut too.
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options['durable'] else 'NORMAL'}")
    # A write takes its lock at the start: one that began by reading could not wait for another writer.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("immediate", False) else "BEGIN")


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
