"""PostgreSQL, for a fleet: one server writes, and a second one may stand by on another machine."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from ml_backend.database.address import ServerAddress
from ml_backend.database.errors import BUSY_TIMEOUT_MS, StoreError
from steerseg.errors import ConfigError

WRITERS = int.from_bytes(b"steerseg", "big")
"""Number of the advisory lock that each transaction holds while it writes, so that one writes at a time."""

TERMS = "steerseg_terms"
"""Name of the table that says whose term it is; see :mod:`ml_backend.database.leader_lock`."""

# A server whose machine or network fails is missed after some 10 s, on either end of the connection.
_KEEPALIVE = {"keepalives_idle": 4, "keepalives_interval": 2, "keepalives_count": 3}
_CONNECTION = {"connect_timeout": 5, "keepalives": 1, "tcp_user_timeout": 10_000, **_KEEPALIVE}
_SESSION = {
    "timezone": "UTC",
    "synchronous_commit": "on",  # a webhook that was acknowledged survives a power cut too
    "default_transaction_isolation": "read\\ committed",  # after the lock of all writers, each statement sees the last
    "tcp_user_timeout": "10s",
    **{f"tcp_{name}": value for name, value in _KEEPALIVE.items()},
}


class Postgresql:
    """A database of a PostgreSQL server; see :class:`~ml_backend.database.kinds.Kind`.

    Args:
        address: Where it is.
    """

    name = "postgresql"
    migrates_by_itself = False

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.reading: dict[str, object] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def create_engine(self, term: int | None) -> Engine:
        """Connections to the server; each is tried before it is used again, since servers start anew."""
        engine = _create_engine(self.address, pool_pre_ping=True, pool_size=8, max_overflow=40)

        def begin(connection: Connection) -> None:
            _begin(connection, term, self.address)

        event.listen(engine, "begin", begin)
        return engine

    def explain(self, error: DBAPIError) -> str:
        """What an error means, with advice."""
        return explain(str(error.orig), getattr(error.orig, "sqlstate", None), self.address)

    def back_up(self, connection: Connection, layout: int) -> Path | None:
        """Nothing: whoever asked for the migration was told to."""
        return None


def connect_alone(address: ServerAddress) -> Engine:
    """An engine whose connections are no pool's, and whose statements are transactions of their own."""
    return _create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def explain(reason: str, code: str | None, address: ServerAddress) -> str:
    """What an error of PostgreSQL means, with advice.

    Args:
        reason: Its message.
        code: Its five characters; ``None`` where the server did not answer.
        address: The database.
    """
    said = " ".join(reason.split())
    if address.url.password:
        said = said.replace(str(address.url.password), "***")
    if code is None:
        code = next(
            (code for words, code in _AT_THE_DOOR.items() if re.search(words, said, re.IGNORECASE)), ""
        )
    advice = next((advice for begin, advice in _ADVICE.items() if code.startswith(begin)), None)
    where = f"the database {address}"
    return f"{where} refused a request: {said}" if advice is None else f"{where} {advice} ({said})"


# Where no connection came about, only the message says why; in another language, the last of these finds it.
_AT_THE_DOOR = {
    "database .* does not exist": "3D000",
    "authentication failed|no password|role .* does not exist|pg_hba.conf": "28P01",
    "too many (clients|connections)|connection slots": "53300",
    "connect|closed|timeout|terminat": "08006",
}
_LOCKED = f"was locked for over {BUSY_TIMEOUT_MS // 1000} s; check that no other program holds it"
_GONE = "cannot be reached; check that the server runs, and STEERSEG_DATABASE_URL"
_ADVICE = {
    "08": _GONE,
    "57P": _GONE,  # it stops, or starts
    "28": "refuses the login; check user and password in STEERSEG_DATABASE_URL",
    "3D": "is not there; create it (createdb), or name another one by STEERSEG_DATABASE_URL",
    "42501": "does not let this user in; make it the owner of the database",
    "53300": "has too many connections; raise max_connections of the server",
    "53": "cannot grow: the disk is full; free some space",
    "55P03": _LOCKED,
    "57014": _LOCKED,
    "25006": "cannot be opened for writing; check that it is no replica",
    "58": "cannot be read or written: the disk reports an error",
    "XX001": "is damaged; restore a backup",
    "XX002": "is damaged; restore a backup",
}


def _create_engine(address: ServerAddress, **options: object) -> Engine:
    # What the address itself says comes first.
    given: dict[str, object] = {
        name: value for name, value in _CONNECTION.items() if name not in address.url.query
    }
    session = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    session += f" -c lock_timeout={BUSY_TIMEOUT_MS}"
    wanted = address.url.query.get("options", ())
    own = [wanted] if isinstance(wanted, str) else list(wanted)
    given["options"] = " ".join([session, *own])
    url = make_url(address.url).difference_update_query(["options"])
    try:
        return create_engine(url, connect_args=given, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"STEERSEG_DATABASE_URL names a PostgreSQL server, and {error.name} is not installed: "
            "pip install '.[postgresql]' in the source folder"
        ) from error


def _begin(connection: Connection, term: int | None, address: ServerAddress) -> None:
    options = connection.get_execution_options()
    if "patience" in options:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {options['patience']}")
    if not options.get("immediate", False):
        return
    relaxed = "" if options.get("durable", True) else ", set_config('synchronous_commit', 'off', true)"
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS}){relaxed}")
    if term is None:
        return
    newest = connection.exec_driver_sql(f"SELECT term FROM {TERMS}").scalar()
    if newest != term:
        raise StoreError(
            f"another server has taken over the database {address}: this one writes nothing any more, and stands by"
        )
