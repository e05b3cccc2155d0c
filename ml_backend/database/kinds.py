"""What differs between the two databases: how a connection is made, how a write begins, and what an error means."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ml_backend.database.address import Address
from ml_backend.database.postgresql import Postgresql
from ml_backend.database.sqlite import Sqlite


class Kind(Protocol):
    """SQLite or PostgreSQL, at one address.

    Both take these options of an engine. ``immediate``: the transaction writes, and takes the one lock of all writers
    at its start. ``durable``: whether it survives a power cut as soon as it is committed. ``patience``: milliseconds
    that it waits for other writers.

    Attributes:
        name: ``sqlite`` or ``postgresql``.
        reading: Options of the engine for a transaction that sees one state of the database.
        migrates_by_itself: Whether a server that starts brings it to today's layout without being asked.
    """

    name: str
    reading: dict[str, object]
    migrates_by_itself: bool

    @property
    def address(self) -> Address:
        """Where it is."""

    def create_engine(self, term: int | None) -> Engine:
        """Connections to it.

        Args:
            term: The term of the server that writes; see :class:`~ml_backend.database.leader_lock.LeaderLock`.
                ``None`` for whoever works beside a server.

        Raises:
            StoreError: There is no place for it, or its driver is not installed.
        """

    def explain(self, error: DBAPIError) -> str:
        """What an error means, with advice."""

    def back_up(self, connection: Connection, layout: int) -> Path | None:
        """Back it up before it is migrated; ``None`` where whoever asked for the migration has done so.

        Raises:
            StoreError: There is no room.
        """


def kind_of(address: Address) -> Kind:
    """The database at an address."""
    return Sqlite(address) if isinstance(address, Path) else Postgresql(address)
