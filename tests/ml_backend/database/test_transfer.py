"""A database moves between SQLite and PostgreSQL and back, and is the same to the last row."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Boolean, Double, Enum, Integer, LargeBinary, String

from ml_backend.cli.main import main
from ml_backend.database import transfer
from ml_backend.database.address import Address, ServerAddress
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.folder_lock import FolderLock
from ml_backend.database.layout import LAYOUT
from ml_backend.database.leader_lock import LeaderLock
from ml_backend.database.tables import Base, JobRow, Json, SchemaRow, UtcDateTime
from ml_backend.database.transfer import back_up, copy_database
from tests.support.postgresql import Databases

FIXTURES = Path(__file__).parents[2] / "fixtures"
BIG = 2**62


def full_database(path: Path) -> Path:
    """A database with rows in every table, of which some are odd: what the release of layout 5 left, and more."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((FIXTURES / "store-layout-5.sql").read_text())
    database = Database(path)
    with database.writing() as session:
        for table in Base.metadata.sorted_tables:
            if table.name != SchemaRow.__tablename__:
                session.execute(table.insert(), {one.name: odd(one) for one in table.columns})
        session.add(
            JobRow(id=BIG - 1, kind="propose", key="Ü\U0001f3a5" * 40, priority=1, fraction=0.1 + 0.2)
        )
    EventStore(database).add("X", BIG, {"text": "a\nb\t\\u0000 ü \U0001f3a5"})
    database.close()
    return path


def odd(column: Any) -> Any:
    """A value of a column's type that is easily changed on the way."""
    if column.foreign_keys:
        table = next(iter(column.foreign_keys)).column.table.name
        return {"projects": 1, "annotations": BIG, "refinements": BIG}.get(table)
    values: dict[type, Any] = {
        Enum: lambda: column.type.python_type(column.type.enums[-1]),
        Boolean: lambda: True,
        Integer: lambda: BIG,
        BigInteger: lambda: BIG,
        String: lambda: 'it\'s 100 % \\ "odd"\r\n\u2028',
        Double: lambda: 1e-300,
        LargeBinary: lambda: bytes(range(256)),
        UtcDateTime: lambda: datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        Json: lambda: {"nan": float("nan"), "deep": [1, [2.5, None]]},
    }
    return next(value() for kind, value in values.items() if isinstance(column.type, kind))


def rows_of(address: Address) -> dict[str, list[Any]]:
    """All rows of all tables, as the stores read them."""
    database = Database(address)
    with database.reading() as session:
        found = {
            table.name: sorted(repr(tuple(row)) for row in session.execute(table.select()))
            for table in Base.metadata.sorted_tables
        }
    database.close()
    return found


@pytest.fixture
def server(postgresql: Databases) -> ServerAddress:
    made = postgresql.make(empty=True)
    yield made
    postgresql.drop()


def test_a_database_moves_to_postgresql_and_back_with_nothing_lost(
    tmp_path: Path, server: ServerAddress
) -> None:
    there = full_database(tmp_path / "there.sqlite")
    before = rows_of(there)
    assert all(before.values()), "every table has rows"
    counted = copy_database(there, server)
    assert rows_of(server) == before
    assert counted == {name: len(rows) for name, rows in before.items() if name != SchemaRow.__tablename__}
    database = Database(server)
    assert EventStore(database).add("X", None, {}) == BIG + 2, "the numbers go on"
    database.close()


def test_and_back(tmp_path: Path, server: ServerAddress) -> None:
    there, again = full_database(tmp_path / "there.sqlite"), tmp_path / "again.sqlite"
    copy_database(there, server)
    copy_database(server, again)
    assert rows_of(again) == rows_of(there)
    assert again.stat().st_mode & 0o777 == 0o600


def test_a_target_with_rows_is_refused(tmp_path: Path, server: ServerAddress) -> None:
    there = full_database(tmp_path / "there.sqlite")
    copy_database(there, server)
    before = rows_of(server)
    with pytest.raises(StoreError, match=r"is not empty: it has .*\d in events.*Nothing was written"):
        copy_database(there, server)
    assert rows_of(server) == before
    other = full_database(tmp_path / "other.sqlite")
    with pytest.raises(StoreError, match="is not empty"):
        copy_database(server, other)


def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path, server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, back = full_database(tmp_path / "there.sqlite"), tmp_path / "back.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_contents", lambda *_: transfer._Contents())  # as if something were lost
        with pytest.raises(StoreError, match="differs from that of"):
            copy_database(there, server)
    copy_database(there, server)  # it is still empty
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_contents", lambda *_: transfer._Contents())
        with pytest.raises(StoreError, match="differs from that of"):
            copy_database(server, back)
    assert not back.exists()


def test_a_nul_is_named_with_its_row(tmp_path: Path, server: ServerAddress) -> None:
    there = full_database(tmp_path / "there.sqlite")
    with contextlib.closing(sqlite3.connect(there)) as connection:
        connection.execute("UPDATE jobs SET message = 'a' || char(0) WHERE id = (SELECT min(id) FROM jobs)")
        connection.commit()
        (number,) = connection.execute("SELECT min(id) FROM jobs").fetchone()
    with pytest.raises(
        StoreError, match=rf"the row of id {number} of the table jobs holds a NUL in its message"
    ):
        copy_database(there, server)


def test_what_cannot_be_read_is_copied_as_it_is(tmp_path: Path, server: ServerAddress) -> None:
    there, back = full_database(tmp_path / "there.sqlite"), tmp_path / "back.sqlite"
    with contextlib.closing(sqlite3.connect(there)) as connection:
        connection.execute("UPDATE tasks SET data = '{damaged'")
        connection.execute("UPDATE jobs SET state = 'of a newer release'")
        connection.commit()
    copy_database(there, server)
    copy_database(server, back)
    with contextlib.closing(sqlite3.connect(back)) as connection:
        assert set(connection.execute("SELECT data FROM tasks")) == {("{damaged",)}
        assert set(connection.execute("SELECT state FROM jobs")) == {("of a newer release",)}


# --- the command


def run(*arguments: str) -> int:
    return main(["database", *arguments])


@pytest.fixture
def at_server(server: ServerAddress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder with a database, and the variable that names the server."""
    monkeypatch.setenv("STEERSEG_DATABASE_URL", server.url.render_as_string(hide_password=False))
    monkeypatch.setenv("STEERSEG_DATA_DIR", str(tmp_path))
    return full_database(tmp_path / "steerseg.sqlite")


def test_the_command_copies_both_ways_and_backs_up(
    at_server: Path, server: ServerAddress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of(at_server)
    assert run("copy", "--to-postgresql") == 0
    said = capsys.readouterr().out
    assert f"{sum(map(len, before.values())) - 1:>9} rows in all, each compared" in said
    assert "Start the server with STEERSEG_DATABASE_URL now." in said
    assert run("copy", "--to-postgresql") == 2
    assert "is not empty" in capsys.readouterr().err
    assert run("copy", "--to-sqlite", "--file", str(tmp_path / "back.sqlite")) == 0
    assert run("backup", str(tmp_path / "backup.sqlite")) == 0
    assert (
        rows_of(server) == rows_of(tmp_path / "back.sqlite") == rows_of(tmp_path / "backup.sqlite") == before
    )
    assert run("backup", str(tmp_path / "backup.sqlite")) == 2
    assert "is there already" in capsys.readouterr().err
    assert run("migrate") == 0
    assert f"has layout {LAYOUT}" in capsys.readouterr().out


def test_nothing_is_moved_while_a_server_works(
    at_server: Path, server: ServerAddress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lock in (FolderLock(tmp_path), LeaderLock(server)):
        assert lock.acquire()
        assert run("copy", "--to-postgresql") == 2
        assert f"a server works with {lock.what}; stop it first" in capsys.readouterr().err
        lock.release()
    lock = LeaderLock(server)
    assert lock.acquire()
    assert run("migrate") == 2
    assert "stop it first" in capsys.readouterr().err
    lock.release()


def test_a_file_of_sqlite_is_backed_up_while_its_server_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSEG_DATA_DIR", str(tmp_path))
    database = Database(full_database(tmp_path / "steerseg.sqlite"))
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    assert run("backup", str(tmp_path / "backup.sqlite")) == 0
    assert rows_of(tmp_path / "backup.sqlite") == rows_of(tmp_path / "steerseg.sqlite")
    lock.release()
    database.close()


def test_a_command_without_its_address_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEERSEG_DATA_DIR", str(tmp_path))
    assert run("copy", "--to-postgresql") == 2
    assert "STEERSEG_DATABASE_URL is not set" in capsys.readouterr().err
    assert run("backup", str(tmp_path / "backup.sqlite")) == 2
    assert "there is no database" in capsys.readouterr().err


def test_backing_up_an_older_layout_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((FIXTURES / "store-layout-5.sql").read_text())
    with pytest.raises(StoreError, match="has layout 5, this release copies layout"):
        back_up(path, tmp_path / "backup.sqlite")
    assert sorted(file.name for file in tmp_path.iterdir() if "backup" in file.name) == []
