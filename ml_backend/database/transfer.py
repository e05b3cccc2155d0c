"""Copies of a whole database, from either kind to either kind, with nothing lost: every row is compared."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Enum,
    MetaData,
    Row,
    String,
    Table,
    Text,
    func,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeEngine

from ml_backend.database.address import Address
from ml_backend.database.errors import StoreError, typed
from ml_backend.database.kinds import Kind, kind_of
from ml_backend.database.layout import LAYOUT, bring_up_to_date, read_layout
from ml_backend.database.sqlite import sync
from ml_backend.database.tables import Base, Json, SchemaRow, UtcDateTime

_ROWS = 200  # that are written at once: a correction may have megabytes of masks
_PATIENCE = 600_000  # milliseconds that a copy waits for other writers


@dataclass(frozen=True)
class _Contents:
    """What a table has, in no order.

    Attributes:
        rows: How many rows.
        digest: Sum of the hashes of its rows.
    """

    rows: int = 0
    digest: int = 0

    def plus(self, row: Sequence[object]) -> _Contents:
        hashed = hashlib.sha256(repr(tuple(row)).encode("utf-8", "backslashreplace")).digest()
        return _Contents(self.rows + 1, (self.digest + int.from_bytes(hashed, "big")) % 2**256)


def copy_database(source: Address, target: Address) -> Mapping[str, int]:
    """Copy all that a database has into an empty one, as one transaction, and compare both.

    One state of the source is copied. What it is given meanwhile is not in it: to move, stop its server first.

    Args:
        source: The database, of today's layout.
        target: Another one: a file that is not there, or a database without rows.

    Returns:
        How many rows each table has, by its name.

    Raises:
        StoreError: The source has another layout, the target has rows, a value cannot be held there, or one of them
            cannot be used. Then nothing was written.
    """
    there = isinstance(target, Path) and target.exists()
    try:
        return _copy_all(kind_of(source), kind_of(target))
    except BaseException:
        if isinstance(target, Path) and not there:
            target.unlink(missing_ok=True)
        raise


def back_up(source: Address, file: Path) -> Mapping[str, int]:
    """Copy a database into a new file of SQLite, which is whole or not there; a server may work with it meanwhile.

    Raises:
        StoreError: The file is there, or cannot be written; see :func:`copy_database` for more.
    """
    if file.exists():
        raise StoreError(f"{file} is there already; name a new file")
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    rows = copy_database(source, partial)
    sync(partial)
    partial.rename(file)
    sync(file.absolute().parent)
    return rows


def _copy_all(read: Kind, written: Kind) -> Mapping[str, int]:
    reading, writing = read.create_engine(None), written.create_engine(None)
    options = {"immediate": True, "durable": True, "patience": _PATIENCE}
    try:
        with (
            _errors(written),
            writing.execution_options(**options).begin() as target,
            _errors(read),
            reading.execution_options(**read.reading).begin() as source,
        ):
            _require_today(source, read)
            with _errors(written):
                _require_empty(target, written)
            rows = {}
            for table in _TABLES:
                contents = _copy(source, target, table, written)
                with _errors(written):
                    _number_on(target, table)
                    if _contents(target, table) != contents:
                        raise StoreError(
                            f"the table {table.name} of {written.address} differs from that of {read.address} after "
                            "the copy; nothing was written"
                        )
                rows[table.name] = contents.rows
            return rows
    finally:
        reading.dispose()
        writing.dispose()


@contextlib.contextmanager
def _errors(kind: Kind) -> Iterator[None]:
    """Errors of SQLAlchemy within are those of one database."""
    try:
        yield
    except SQLAlchemyError as error:
        raise typed(error, kind) from error


def _require_today(source: Connection, kind: Kind) -> None:
    layout = read_layout(source)
    if layout is None:
        raise StoreError(f"the database {kind.address} is empty: there is nothing to copy")
    if layout != LAYOUT:
        raise StoreError(
            f"the database {kind.address} has layout {layout}, this release copies layout {LAYOUT}; bring it up to "
            "date first: `steerseg-backend database migrate`"
        )


def _require_empty(target: Connection, kind: Kind) -> None:
    """Make today's tables where there are none, and refuse what has rows."""
    layout = read_layout(target)
    if layout is None:
        bring_up_to_date(target, kind)
    elif layout != LAYOUT:
        raise StoreError(
            f"the database {kind.address} is not empty: it has layout {layout}; name an empty one"
        )
    rows = {table.name: _count(target, table) for table in _TABLES}
    filled = [f"{number} in {name}" for name, number in rows.items() if number]
    if filled:
        raise StoreError(
            f"the database {kind.address} is not empty: it has {', '.join(filled)}; name an empty one. Nothing was "
            "written"
        )


def _copy(source: Connection, target: Connection, table: Table, written: Kind) -> _Contents:
    contents = _Contents()
    for rows in _read(source, table).partitions():
        for row in rows:
            contents = contents.plus(row)
            _require_text(row, table, written)
        with _errors(written):
            target.execute(insert(table), [dict(row._mapping) for row in rows])
    return contents


def _contents(connection: Connection, table: Table) -> _Contents:
    contents = _Contents()
    for row in _read(connection, table):
        contents = contents.plus(row)
    return contents


def _read(connection: Connection, table: Table) -> Any:
    """The rows by their numbers, so that those that others refer to come first."""
    query = select(table).order_by(*table.primary_key.columns)
    return connection.execute(query, execution_options={"yield_per": _ROWS})


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _require_text(row: Row[Any], table: Table, written: Kind) -> None:
    """Name the row that PostgreSQL would refuse: its texts hold no NUL, and SQLite's may."""
    if written.name != "postgresql":
        return
    for name, value in row._mapping.items():
        if isinstance(value, str) and "\0" in value:
            key = ", ".join(f"{column.name} {row._mapping[column.name]}" for column in table.primary_key)
            raise StoreError(
                f"the row of {key} of the table {table.name} holds a NUL in its {name}, which PostgreSQL cannot hold; "
                "nothing was written: mend that row, and copy again"
            )


def _number_on(target: Connection, table: Table) -> None:
    """Have the next row numbered after the last one that was copied; SQLite does so by itself."""
    if target.dialect.name != "postgresql":
        return
    for column in table.primary_key:
        sequence = target.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
        last = None if sequence is None else target.scalar(select(func.max(column)))
        if last is not None:
            target.execute(select(func.setval(sequence, last)))


# --- the tables as databases hold them


def _held(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type in which both databases hold a value, so that what cannot be read is copied as well."""
    if isinstance(kind, Json):
        return Text()
    if isinstance(kind, UtcDateTime):
        return DateTime()
    return String() if isinstance(kind, Enum) else kind


def _as_held(table: Any, plain: MetaData) -> Table:
    columns = [
        Column(one.name, _held(one.type), primary_key=one.primary_key, autoincrement=False)
        for one in table.columns
    ]
    return Table(table.name, plain, *columns)


_PLAIN = MetaData()
_TABLES = tuple(
    _as_held(table, _PLAIN) for table in Base.metadata.sorted_tables if table.name != SchemaRow.__tablename__
)
"""All but the layout's own, those first that others refer to."""
