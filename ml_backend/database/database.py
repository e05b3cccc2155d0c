"""The database of one backend (SQLite, WAL), which the stores of each subject read and write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ml_backend.database.errors import BUSY_TIMEOUT_MS, typed
from ml_backend.database.layout import LAYOUT, bring_up_to_date, read_layout
from ml_backend.database.private_files import make_private_file, make_private_folder

_MIGRATION_TIMEOUT_MS = 600_000  # how long the first use waits for another process that migrates


class Database:
    """The database of one backend. Safe to share between threads.

    Args:
        path: The database file; it and its folder are made if missing.

    Raises:
        StoreError: The file is damaged, locked, on a full disk, not writable, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.RLock()
        self._transaction = threading.local()
        make_private_folder(path.parent)
        make_private_file(path)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._errors():
            self._prepare()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database; within :meth:`writing`, what is written there too.

        Raises:
            StoreError: On leaving too: the database cannot be used.
        """
        outer = self._outer
        with self._errors():
            if outer is not None:
                yield outer
                return
            with Session(self._engine) as session:
                yield session

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Session]:
        """A session that commits as a whole when it is left without an error, and not at all otherwise.

        Within another one of the same thread it is that one, so that several stores write in one transaction.

        Args:
            durable: Whether it survives a power cut as soon as it is left. Otherwise it does with the next one that
                does, or some seconds later; the death of this process alone never costs it. It waits for no disk.

        Raises:
            StoreError: On leaving too: the database cannot be used, and nothing was written.
        """
        outer = self._outer
        if outer is not None:
            assert self._transaction.durable or not durable, "what is to last is written within what need not"
            with self._errors():
                yield outer
                outer.flush()
            return
        engine = self._engine.execution_options(immediate=True, durable=durable)
        # SQLite lets waiting writers look again from time to time, so under load some wait for seconds. A lock of
        # this process wakes the next one at once.
        with self._errors(), self._writing, Session(engine) as session, session.begin():
            self._transaction.session, self._transaction.durable = session, durable
            try:
                yield session
            finally:
                self._transaction.session = None

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            up_to_date = read_layout(connection) == LAYOUT
        # Of several processes that start at once, one migrates, and the others wait for it.
        patience = {} if up_to_date else {"busy_timeout": _MIGRATION_TIMEOUT_MS}
        with self._engine.execution_options(immediate=True, **patience).begin() as connection:
            bring_up_to_date(connection, self.path)
        if not up_to_date:
            self._engine.dispose()  # no other connection waits so long

    @property
    def _outer(self) -> Session | None:
        """The session in which this thread is writing."""
        session: Session | None = getattr(self._transaction, "session", None)
        return session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise typed(error, self.path) from error


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
    if "busy_timeout" in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={options['busy_timeout']}")
    if "durable" in options:
        # FULL: a webhook that was acknowledged survives a power cut too.
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options['durable'] else 'NORMAL'}")
    # A write takes its lock at the start: one that began by reading could not wait for another writer.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("immediate", False) else "BEGIN")
