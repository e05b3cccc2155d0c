"""The right of one server to work with a PostgreSQL database, and how it is lost.

The right is an advisory lock of a connection that does nothing else. It ends with that connection, so that another
server takes over where this one, its machine or its network fails. Whoever gets the lock begins a *term*, numbered in
a table of its own. A server's transactions look for its term after they have taken the lock of all writers: so nothing
is written in a term that has ended, however late its server hears of that.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ml_backend.database.address import ServerAddress
from ml_backend.database.errors import typed
from ml_backend.database.postgresql import TERMS, WRITERS, Postgresql, connect_alone

log = logging.getLogger(__name__)

LEADER = WRITERS + 1
"""Number of the advisory lock."""


class LeaderLock:
    """The lock of one server; see :class:`~ml_backend.database.server_lock.ServerLock`.

    Args:
        address: The database.
    """

    lasting = False

    def __init__(self, address: ServerAddress) -> None:
        self.what = f"the database {address}"
        self.term: int | None = None
        self._kind = Postgresql(address)
        self._engine = connect_alone(address)
        self._connection: Connection | None = None
        self._session = 0  # PostgreSQL's number of the connection

    def acquire(self) -> bool:
        """Take the lock unless another server has it, and begin a term; whether this server has it now.

        Raises:
            StoreError: The database cannot be reached.
        """
        with self._errors():
            connection = self._connected()
            if not self._lock(connection):
                return False
            self.term = _begin_term(connection)
            return True

    def held(self) -> bool:
        """Whether the term goes on. A lock that was lost with its connection is taken again, if nobody else has it.

        Raises:
            StoreError: The database cannot be reached. Then nothing can be written either.
        """
        with self._errors():
            before = self._session
            connection = self._connected()
            locked = self._session == before or self._lock(connection)
            if self.term is not None and _newest_term(connection) == self.term:
                if not locked:
                    # The connection that broke is this server's own, and PostgreSQL has not missed it yet.
                    connection.exec_driver_sql(_END_HOLDER, {"session": before})
                    self._disconnect()
                return True
            self._disconnect()
            self.term = None
            return False

    def release(self) -> None:
        """Let another server have it. May be repeated."""
        self.term = None
        if self._connection is not None:
            with contextlib.suppress(
                SQLAlchemyError
            ):  # it ends with the connection, though some moments later
                self._connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LEADER})")
        self._disconnect()

    def _connected(self) -> Connection:
        """The connection; a new one where it has broken."""
        if self._connection is not None:
            try:
                self._connection.exec_driver_sql("SELECT 1")
            except DBAPIError as error:
                log.warning("%s: the connection of the lock broke: %s", self.what, self._kind.explain(error))
                self._disconnect()
        if self._connection is None:
            self._connection = self._engine.connect()
            self._session = int(self._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        return self._connection

    def _lock(self, connection: Connection) -> bool:
        locked = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LEADER})").scalar_one()
        return bool(locked)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Its end is what releases the lock: whether PostgreSQL still answers is of no account.
            with contextlib.suppress(SQLAlchemyError):
                connection.invalidate()
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            self._disconnect()
            raise typed(error, self._kind) from error


_END_HOLDER = (
    "SELECT pg_terminate_backend(pid, 1000) FROM pg_locks WHERE locktype = 'advisory' AND granted "
    f"AND classid::bigint = {LEADER >> 32} AND objid::bigint = {LEADER & 0xFFFFFFFF} AND pid = %(session)s "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _begin_term(connection: Connection) -> int:
    """Begin the next term, once nobody writes who still believes in the one before."""
    connection.exec_driver_sql("BEGIN")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
        connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {TERMS} (term bigint NOT NULL)")
        newest = _newest_term(connection)
        if newest is None:
            connection.exec_driver_sql(f"INSERT INTO {TERMS} VALUES (0)")
        term = connection.exec_driver_sql(f"UPDATE {TERMS} SET term = term + 1 RETURNING term").scalar_one()
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.invalidate()
        raise
    return int(term)


def _newest_term(connection: Connection) -> int | None:
    term = connection.exec_driver_sql(f"SELECT max(term) FROM {TERMS}").scalar()
    return None if term is None else int(term)
