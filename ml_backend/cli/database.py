"""``steerseg-backend database``: move between SQLite and PostgreSQL, back up, migrate to a newer layout."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_backend.cli.options import add_setting, read_settings, require_database
from ml_backend.database.address import Address
from ml_backend.database.database import Database
from ml_backend.database.layout import LAYOUT
from ml_backend.database.server_lock import server_lock
from ml_backend.database.transfer import back_up, copy_database
from ml_backend.settings import Settings
from steerseg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_setting(parser, "data_dir")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    copy = actions.add_parser("copy", help="copy everything into an empty database, and compare both")
    direction = copy.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        "--to-postgresql",
        action="store_true",
        help="from the file of SQLite to the database of STEERSEG_DATABASE_URL",
    )
    direction.add_argument("--to-sqlite", action="store_true", help="the other way round")
    copy.add_argument(
        "--file", type=Path, default=None, help="the file of SQLite; that of the data folder where left out"
    )
    backup = actions.add_parser("backup", help="write a copy as a file of SQLite, also while a server works")
    backup.add_argument("file", type=Path, help="a file that is not there yet")
    actions.add_parser("migrate", help="bring a database of an older release up to date")


def run(options: argparse.Namespace) -> int:
    """Carry the action out.

    Raises:
        SteerSegError: It cannot be done; nothing was changed then.
    """
    settings = read_settings(options)
    if options.action == "copy":
        _copy(settings, options.file or settings.database_file, to_postgresql=options.to_postgresql)
    elif options.action == "backup":
        require_database(settings)
        _report(settings.database, options.file, back_up(settings.database, options.file))
    else:
        require_database(settings)
        with _alone(settings, settings.database):
            Database(settings.database, migrate=True).close()
        print(f"the database {settings.database} has layout {LAYOUT}, as this release needs")
    return 0


def _copy(settings: Settings, file: Path, *, to_postgresql: bool) -> None:
    server = settings.database
    if isinstance(server, Path):
        raise ConfigError(
            "STEERSEG_DATABASE_URL is not set; it names the database of PostgreSQL, such as "
            "postgresql+psycopg://user:password@host:5432/steerseg"
        )
    source, target = (file, server) if to_postgresql else (server, file)
    if isinstance(source, Path) and not source.exists():
        raise ConfigError(
            f"there is no database at {source}; name the file by --file or its folder by --data-dir"
        )
    with _alone(settings, source), _alone(settings, target):
        rows = copy_database(source, target)
    _report(source, target, rows)
    wanted = "with" if to_postgresql else "without"
    print(
        f"Start the server {wanted} STEERSEG_DATABASE_URL now. The data folder with its files stays as it is."
    )


def _report(source: Address, target: Address, rows: Mapping[str, int]) -> None:
    print(f"{source} -> {target}")
    for table, number in rows.items():
        print(f"{number:>9} {table}")
    print(f"{sum(rows.values()):>9} rows in all, each compared")


@contextlib.contextmanager
def _alone(settings: Settings, address: Address) -> Iterator[None]:
    """Keep every server from working with a database; a file elsewhere than in the data folder has none.

    Raises:
        ConfigError: A server works with it.
    """
    if isinstance(address, Path) and address.absolute() != settings.database_file.absolute():
        yield
        return
    lock = server_lock(address, settings.data_dir)
    if not lock.acquire():
        raise ConfigError(f"a server works with {lock.what}; stop it first")
    try:
        yield
    finally:
        lock.release()
