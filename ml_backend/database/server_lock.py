"""The right of one server to work with a database."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ml_backend.database.address import Address
from ml_backend.database.folder_lock import FolderLock
from ml_backend.database.leader_lock import LeaderLock


class ServerLock(Protocol):
    """A lock that one server has, and that ends with it, however that ends.

    Attributes:
        what: What it is the right to work with, for a person.
        lasting: Whether it cannot be lost while this process lives.
        term: Number of the term that began with it; ``None`` where it is lasting, or another server has it.
    """

    what: str
    lasting: bool
    term: int | None

    def acquire(self) -> bool:
        """Take the lock unless another server has it; whether this one has it now.

        Raises:
            StoreError: It cannot be tried.
        """

    def held(self) -> bool:
        """Whether this server still has the right; ``False`` where another one has, or had it since.

        Raises:
            StoreError: Nobody knows, for the database cannot be reached.
        """

    def release(self) -> None:
        """Let another server have it. May be repeated."""


def server_lock(address: Address, data_dir: Path) -> ServerLock:
    """The lock of a database: of its folder for SQLite, in the database itself for PostgreSQL.

    Args:
        address: The database.
        data_dir: The data folder.
    """
    return FolderLock(data_dir) if isinstance(address, Path) else LeaderLock(address)
