"""Which layout a database has, and how it gets today's."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, func, insert, inspect, select

from ml_backend.database.errors import StoreError
from ml_backend.database.kinds import Kind
from ml_backend.database.tables import Base, SchemaRow

log = logging.getLogger(__name__)

LAYOUT = 12
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
                "name another STEERSEG_DATA_DIR or STEERSEG_DATABASE_URL"
            )
        return None if revision is None else int(revision)
    if SchemaRow.__tablename__ in tables:
        return connection.scalar(select(func.max(SchemaRow.version)))
    return None


def bring_up_to_date(connection: Connection, kind: Kind, *, asked: bool = False) -> None:
    """Give a database today's layout: its tables, or the migrations that it lacks, after a backup.

    Args:
        connection: In a transaction that keeps others from writing; it holds all changes.
        kind: The database.
        asked: Whether a person has asked for it, and has a backup where this makes none.

    Raises:
        StoreError: The database is of a newer release, of an older one that a person has to migrate, or there is no
            room for the backup.
    """
    layout = read_layout(connection)
    if layout == LAYOUT:
        return
    if layout is None:
        Base.metadata.create_all(connection)
        connection.execute(insert(SchemaRow).values(version=LAYOUT))
        _stamp(connection, LAYOUT)
        return
    where = kind.address
    if layout > LAYOUT:
        raise StoreError(
            f"the database {where} has layout {layout}, this release knows {LAYOUT}; "
            "it was written by a newer release: install that one, or name another STEERSEG_DATA_DIR or "
            "STEERSEG_DATABASE_URL"
        )
    if not (asked or kind.migrates_by_itself):
        raise StoreError(
            f"the database {where} has layout {layout}, this release needs {LAYOUT}; stop every server of it, back it "
            "up (pg_dump), and run `steerseg-backend database migrate`"
        )
    backup = kind.back_up(connection, layout)
    if backup is not None:
        log.info("the database %s has layout %d: a backup is at %s", where, layout, backup)
    try:
        if layout < _FIRST_WITH_ALEMBIC:
            _stamp(connection, layout)
        migrate(connection)
    except BaseException:
        if backup is not None:
            backup.unlink()  # nothing was changed
        raise
    log.info("the database %s was brought from layout %d to %d", where, layout, LAYOUT)


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
