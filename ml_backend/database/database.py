"""The database of one backend, which the stores of each subject read and write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ml_backend.database.address import Address
from ml_backend.database.errors import typed
from ml_backend.database.kinds import kind_of
from ml_backend.database.layout import LAYOUT, bring_up_to_date, read_layout

_MIGRATION_TIMEOUT_MS = 600_000  # how long the first use waits for another process that migrates


class Database:
    """The database of one backend. Safe to share between threads.

    Args:
        address: A file of SQLite, made with its folder if it is missing; or a database of a PostgreSQL server.
        term: The term of the server that works with it; once another server's has begun, nothing is written any more.
            ``None`` for whoever works beside a server, and for a file.
        migrate: Whether a person has asked that an older layout be brought up to date.

    Attributes:
        address: Where it is.
        problem: Why it cannot be used at present, as whoever watches it has found; empty where it can.

    Raises:
        StoreError: It is damaged, locked, on a full disk, not writable, not reachable, or of another release.
    """

    def __init__(self, address: Address, *, term: int | None = None, migrate: bool = False) -> None:
        self.address = address
        self.problem = ""
        self._kind = kind_of(address)
        self._writing = threading.RLock()
        self._transaction = threading.local()
        self._engine = self._kind.create_engine(term)
        self._reading = (
            self._engine.execution_options(**self._kind.reading) if self._kind.reading else self._engine
        )
        with self._errors():
            self._prepare(asked=migrate)

    @property
    def kind(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._kind.name

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
            with Session(self._reading) as session:
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
        # One writes at a time, so that what a transaction has read stays true until it is committed. SQLite lets those
        # who wait look again from time to time, so under load some wait for seconds. A lock of this process wakes the
        # next one at once.
        with self._errors(), self._writing, Session(engine) as session, session.begin():
            self._transaction.session, self._transaction.durable = session, durable
            try:
                yield session
            finally:
                self._transaction.session = None

    def _prepare(self, *, asked: bool) -> None:
        with self._engine.connect() as connection:
            up_to_date = read_layout(connection) == LAYOUT
        if up_to_date:
            return
        # Of several processes that start at once, one migrates, and the others wait for it.
        options = {"immediate": True, "patience": _MIGRATION_TIMEOUT_MS}
        with self._engine.execution_options(**options).begin() as connection:
            bring_up_to_date(connection, self._kind, asked=asked)
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
            raise typed(error, self._kind) from error
