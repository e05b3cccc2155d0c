"""What must outlive the process: events, projects, jobs, proposals, corrections, prompt versions (SQLite, WAL)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    create_engine,
    event,
    func,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from ml_backend.database.errors import BUSY_TIMEOUT_MS, StoreError, explain
from ml_backend.database.migrations import SCHEMA_VERSION, UPGRADES
from ml_backend.database.tables import (
    Base,
    SchemaRow,
)


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the data folder {path.parent} cannot be made: {error.strerror}; "
                "name a writable folder by STEERSEG_DATA_DIR"
            ) from error
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._errors():
            self._prepare()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # --- for stores of one subject, such as ml_backend.corrections.store

    def reading(self) -> AbstractContextManager[Session]:
        """A session that sees one state of the database; within :meth:`writing`, what is written there too.

        Raises:
            StoreError: On leaving too: the database cannot be used.
        """
        return self._read()

    def writing(self) -> AbstractContextManager[Session]:
        """A session that commits as a whole when it is left without an error, and not at all otherwise.

        Within another one of the same thread it is that one, so that several stores write in one transaction.

        Raises:
            StoreError: On leaving too: the database cannot be used, and nothing was written.
        """
        return self._write()

    # --- inside

    def _prepare(self) -> None:
        with self._engine.execution_options(immediate=True).begin() as connection:
            Base.metadata.create_all(connection)
            version = connection.scalar(select(func.max(SchemaRow.version)))
            if version is None:
                connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
                return
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"the database {self.path} has layout {version}, this release knows {SCHEMA_VERSION}; "
                    "it was written by a newer release: install that one, or name another STEERSEG_DATA_DIR"
                )
            for step in range(version, SCHEMA_VERSION):
                UPGRADES[step](connection)
            connection.execute(update(SchemaRow).values(version=SCHEMA_VERSION))

    @contextmanager
    def _read(self) -> Iterator[Session]:
        outer = self._outer
        with self._errors():
            if outer is not None:
                yield outer
                return
            with Session(self._engine) as session:
                yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        outer = self._outer
        if outer is not None:
            with self._errors():
                yield outer
                outer.flush()
            return
        engine = self._engine.execution_options(immediate=True)
        # SQLite lets writers that wait look again from time to time, and forgets nobody but by luck: under load
        # some wait for seconds. A lock of this process wakes the next one at once.
        with self._errors(), self._writing, Session(engine) as session, session.begin():
            self._transaction.session = session
            try:
                yield session
            finally:
                self._transaction.session = None

    @property
    def _outer(self) -> Session | None:
        """The session in which this thread is writing."""
        session: Session | None = getattr(self._transaction, "session", None)
        return session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise StoreError(explain(str(error.orig), self.path)) from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database {self.path} refused a request: {type(error).__name__}") from error


def _configure(connection: Any, _record: object) -> None:
    # Transactions are begun by `_begin`, not by the driver, which would begin them too late for `IMMEDIATE`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a webhook that was acknowledged survives a power cut too.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A write takes its lock at the start: one that began by reading could not wait for another writer.
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
