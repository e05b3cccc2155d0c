"""Where the database of a backend is: a file of SQLite, or a database of a PostgreSQL server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = frozenset({"postgresql", "postgresql+psycopg"})
_EXPECTED = "expected an address such as postgresql+psycopg://user:password@host:5432/steerseg"


@dataclass(frozen=True)
class ServerAddress:
    """A database of a PostgreSQL server. As text it has neither password nor options.

    Attributes:
        url: The address with its password.
    """

    url: URL = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Read an address.

        Raises:
            ValueError: It is none, or of another database; the message does not repeat it.
        """
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            raise ValueError(_EXPECTED) from None
        if url.drivername not in _DRIVERS or not url.database:
            raise ValueError(_EXPECTED)
        return cls(url.set(drivername="postgresql+psycopg"))

    def __str__(self) -> str:
        plain = URL.create(
            "postgresql", self.url.username, None, self.url.host, self.url.port, self.url.database
        )
        return plain.render_as_string()


Address: TypeAlias = Path | ServerAddress
"""A file of SQLite, or a database of a PostgreSQL server."""
