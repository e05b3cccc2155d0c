"""Which layout a database has, and how it gets today's."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, func, insert, inspect, select

from ml_backend.database.errors import StoreError
from ml_backend.database.tables import Base, SchemaRow

log = logging.getLogger(__name__)

LAYOUT = 10
"""Today's layout: the number of the newest migration."""

_FIRST_WITH_ALEMBIC = 6
_MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's own table, and none of ours: its revision is the layout with four digits.
_ALEMBIC_VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def read_layout(connection: Connection) -> int | None:
    """The layout that a database says it has; ``None`` for an empty one.

    Raises:
        StoreError: It names its layout as no release does.
    """
    tables = inspect(connection).get_table_names()
    if _ALEMBIC_VERSION.name in tables:
        revision = connection.scalar(select(_ALEMBIC_VERSION.c.version_num))
        if revision is not None and not revision.isdigit():
            raise StoreError(
                f"the database is at the migration {revision!r}, which no release of this backend has; "
                "name another STEERSEG_DATA_DIR"
            )
        return None if revision is None else int(revision)
    if SchemaRow.__tablename__ in tables:
        return connection.scalar(select(func.max(SchemaRow.version)))
    return None


def bring_up_to_date(connection: Connection, path: Path) -> None:
    """Give a database today's layout: its tables, or the migrations that it lacks, after a backup.

    Args:
        connection: In a transaction that keeps others from writing; it holds all changes.
        path: The database file. The backup is written beside it.

    Raises:
        StoreError: The database is of a newer release, or there is no room for the backup.
    """
    layout = read_layout(connection)
    if layout == LAYOUT:
        return
    if layout is None:
        Base.metadata.create_all(connection)
        connection.execute(insert(SchemaRow).values(version=LAYOUT))
        _stamp(connection, LAYOUT)
        return
    if layout > LAYOUT:
        raise StoreError(
            f"the database {path} has layout {layout}, this release knows {LAYOUT}; "
            "it was written by a newer release: install that one, or name another STEERSEG_DATA_DIR"
        )
    backup = _back_up(path, layout)
    log.info("the database %s has layout %d: a backup is at %s", path, layout, backup)
    try:
        if layout < _FIRST_WITH_ALEMBIC:
            _stamp(connection, layout)
        migrate(connection)
    except BaseException:
        backup.unlink()  # nothing was changed
        raise
    log.info("the database %s was brought from layout %d to %d", path, layout, LAYOUT)


def migrate(connection: Connection, layout: int = LAYOUT) -> None:
    """Run the migrations that a stamped database lacks, within the connection's transaction.

    Args:
        connection: To the database.
        layout: The layout to end at.
    """
    # Imported here: it takes its time, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, f"{layout:04d}")


def _stamp(connection: Connection, layout: int) -> None:
    _ALEMBIC_VERSION.create(connection, checkfirst=True)
    connection.execute(insert(_ALEMBIC_VERSION).values(version_num=f"{layout:04d}"))


def _back_up(path: Path, layout: int) -> Path:
    """Copy the database as it was committed last, for its owner's eyes only.

    Raises:
        StoreError: It cannot be written.
    """
    now = datetime.now(UTC)
    backup = path.with_name(f"{path.stem}-layout-{layout}-{now:%Y%m%dT%H%M%S%fZ}{path.suffix}")
    partial = path.with_name(f"{path.name}.backup-partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(partial)) as target,
        ):
            source.backup(target)
        _sync(partial)
        partial.rename(backup)
        _sync(backup.parent)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"the database {path} has the older layout {layout}, and its backup {backup.name} could not be written "
            f"({error}); nothing was changed: free some space, and start again"
        ) from error
    return backup


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
