"""What PostgreSQL does otherwise than SQLite: its layout, its limits, its errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect

from ml_backend.database.address import ServerAddress
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError, ValueRefusedError, describe_error
from ml_backend.database.events import EventStore
from ml_backend.database.kinds import kind_of
from ml_backend.database.layout import LAYOUT, migrate
from ml_backend.database.postgresql import connect_alone, explain
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import Base, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from steerseg.errors import ConfigError
from tests.support.postgresql import Databases


@pytest.fixture
def address(postgresql: Databases) -> Iterator[ServerAddress]:
    yield postgresql.make(empty=True)
    postgresql.drop()


@pytest.fixture
def database(postgresql: Databases) -> Iterator[Database]:
    made = Database(postgresql.make())
    ProjectStore(made).save(1, uid="1.2", label_config="<View/>", hostname="http://ls", extra_params={"a": 1})
    yield made
    made.close()
    postgresql.drop()


def engine_of(address: ServerAddress) -> Engine:
    return kind_of(address).create_engine(None)


def described(connection: Connection) -> dict[str, Any]:
    """Columns, keys and indexes of every table, defaults of the database itself apart."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": {
                column["name"]: (repr(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            },
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "foreign keys": sorted(
                str(key["constrained_columns"]) + key["referred_table"]
                for key in inspector.get_foreign_keys(table)
            ),
            "unique": sorted(str(key["column_names"]) for key in inspector.get_unique_constraints(table)),
            "indexes": sorted(
                (str(one["name"]), str(one["column_names"])) for one in inspector.get_indexes(table)
            ),
        }
        for table in inspector.get_table_names()
    }


# --- the layout


def test_migrations_from_nothing_lead_to_what_a_fresh_database_is(
    address: ServerAddress, postgresql: Databases
) -> None:
    with engine_of(address).begin() as connection:
        migrate(connection)
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        migrated = described(connection)
    with engine_of(postgresql.make()).begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert described(connection) == migrated


def test_an_older_layout_is_migrated_when_a_person_asks_for_it(address: ServerAddress) -> None:
    with engine_of(address).begin() as connection:
        migrate(connection, LAYOUT - 1)
    with pytest.raises(
        StoreError, match=rf"has layout {LAYOUT - 1}, this release needs {LAYOUT}; .*database migrate"
    ):
        Database(address)
    Database(address, migrate=True).close()
    database = Database(address)
    assert EventStore(database).add("X", 1, {}) == 1
    database.close()


def test_a_migration_that_fails_changes_nothing(address: ServerAddress) -> None:
    with engine_of(address).begin() as connection:
        migrate(connection, 1)
        connection.exec_driver_sql("ALTER TABLE events ADD COLUMN dispatched_at TIMESTAMP")
        before = described(connection)
    with pytest.raises(StoreError, match="already exists"):
        Database(address, migrate=True)
    with engine_of(address).begin() as connection:
        assert described(connection) == before


def test_a_newer_layout_is_refused(database: Database) -> None:
    with database.writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(StoreError, match=r"has layout 99.*install that one, or name another"):
        Database(database.address)


def test_of_several_that_start_at_once_on_an_empty_database_one_makes_it(address: ServerAddress) -> None:
    opened: list[Database] = []
    threads = [threading.Thread(target=lambda: opened.append(Database(address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for one in opened:
        one.close()


# --- transactions


def test_what_was_committed_survives_a_kill(postgresql: Databases) -> None:
    address = postgresql.make()
    script = """
        import os, signal, sys
        from ml_backend.database.address import ServerAddress
        from ml_backend.database.database import Database
        from ml_backend.database.events import EventStore
        store = EventStore(Database(ServerAddress.parse(sys.argv[1])))
        for number in range(10):
            store.add("X", None, {"number": number})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    text = address.url.render_as_string(hide_password=False)
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script), text], check=False)
    assert ended.returncode == -signal.SIGKILL
    database = Database(address)
    assert EventStore(database).count() == 10
    database.close()
    postgresql.drop()


def test_a_reader_sees_one_state_and_a_writer_the_last_one(database: Database) -> None:
    events = EventStore(database)
    events.add("X", None, {})
    count = "SELECT count(*) FROM events"
    with database.reading() as session:
        assert session.connection().exec_driver_sql(count).scalar() == 1
        adding = threading.Thread(target=lambda: events.add("X", None, {}))
        adding.start()
        adding.join()
        assert session.connection().exec_driver_sql(count).scalar() == 1
    with database.writing() as session:
        assert session.connection().exec_driver_sql(count).scalar() == 2


def test_what_need_not_last_waits_for_no_disk(database: Database) -> None:
    def synchronous() -> str:
        return str(session.connection().exec_driver_sql("SHOW synchronous_commit").scalar())

    for _ in range(2):
        with database.writing() as session:
            assert synchronous() == "on"
        with database.writing(durable=False) as session:
            assert synchronous() == "off"


def test_processes_that_write_wait_for_each_other_and_say_so_when_it_takes_too_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.database.postgresql.BUSY_TIMEOUT_MS", 100)
    other = Database(database.address)
    with database.writing() as session:
        session.connection()
        with pytest.raises(StoreError, match="was locked for over"):
            EventStore(other).add("X", None, {})
    EventStore(other).add("X", None, {})
    other.close()


# --- values


def test_numbers_of_64_bits_and_more(database: Database) -> None:
    events = EventStore(database)
    events.add("X", 2**63 - 1, {})
    with pytest.raises(ValueRefusedError):
        events.add("X", 2**63, {})
    assert events.count() == 1


def test_what_a_text_cannot_hold_is_of_the_value(database: Database) -> None:
    jobs = JobStore(database)
    with pytest.raises(ValueRefusedError, match="NUL"):
        jobs.add("propose", "a\0b", project_id=1, task_id=1, priority=1)
    long = os.urandom(4000).hex()  # more than an index takes, and nothing to compress
    with pytest.raises(ValueRefusedError, match="index row"):
        ProposalStore(database).add(ProposalKey("d", long, "v"), project_id=1, task_id=1, path="p", score=0.5)
    assert "\0" not in describe_error(ValueError("a\0b"))
    job = jobs.add("propose", "key", project_id=1, task_id=1, priority=1)
    assert [one.id for one in jobs.newest()] == [job]


def test_json_is_what_python_writes(database: Database) -> None:
    odd = {"nan": float("nan"), "inf": float("inf"), "nul": "a\0b", "big": 2**80, "text": "ü\U0001f3a5"}
    ProjectStore(database).save(2, uid="2", label_config="", hostname="", extra_params=odd)
    found = ProjectStore(database).find(2)
    assert found is not None
    assert repr(found.extra_params) == repr(odd)


# --- errors


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("53100", "the disk is full"),
        ("25006", "cannot be opened for writing"),
        ("55P03", "was locked for over"),
        ("57P03", "cannot be reached"),
        ("08006", "cannot be reached"),
        ("28P01", "refuses the login"),
        ("3D000", "is not there; create it"),
        ("42501", "owner of the database"),
        ("53300", "raise max_connections"),
        ("XX001", "is damaged; restore a backup"),
        ("42601", "refused a request: what PostgreSQL said"),
    ],
)
def test_each_error_has_its_advice(code: str, said: str) -> None:
    address = ServerAddress.parse("postgresql://me:secret@db:5432/steerseg")
    meant = explain("what PostgreSQL said", code, address)
    assert meant.startswith("the database postgresql://me@db:5432/steerseg ")
    assert said in meant


@pytest.mark.parametrize(
    "said",
    [
        "consuming input failed: could not receive data from server: Connection timed out",
        "consuming input failed: server closed the connection unexpectedly",
        "the connection is lost",
        "connection timeout expired",
    ],
)
def test_a_network_that_fails_is_out_of_reach(said: str) -> None:
    address = ServerAddress.parse("postgresql://me@db:5432/steerseg")
    assert "cannot be reached; check that the server runs" in explain(said, None, address)


def test_what_cannot_be_reached_or_is_not_there_says_so(postgresql: Databases) -> None:
    nowhere = ServerAddress.parse("postgresql://me:secret@127.0.0.1:9/steerseg")
    with pytest.raises(StoreError, match="cannot be reached; check that the server runs"):
        Database(nowhere)
    with pytest.raises(StoreError, match="is not there; create it"):
        Database(postgresql.named("steerseg_not_there"))


def test_a_replica_is_named(database: Database) -> None:
    with connect_alone(database.address).connect() as connection:  # type: ignore[arg-type]
        name = connection.exec_driver_sql("SELECT current_database()").scalar()
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.close()
    with pytest.raises(StoreError, match="cannot be opened for writing; check that it is no replica"):
        EventStore(database).add("X", None, {})
    assert EventStore(database).count() == 0


def test_without_its_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[postgresql\]'"):
        Database(ServerAddress.parse("postgresql://me@127.0.0.1/steerseg"))


@pytest.mark.parametrize(
    "text", ["", "steerseg", "mysql://host/db", "postgresql://host", "postgresql+asyncpg://h/d"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address such as postgresql"):
        ServerAddress.parse(text)


def test_the_options_of_an_address_come_first(database: Database) -> None:
    address = database.address
    assert isinstance(address, ServerAddress)
    url = address.url.update_query_dict({"connect_timeout": "7", "options": "-c lock_timeout=1234"})
    own = Database(ServerAddress(url))
    with own.reading() as session:
        assert session.connection().exec_driver_sql("SHOW lock_timeout").scalar() == "1234ms"
        assert session.connection().exec_driver_sql("SHOW timezone").scalar() == "UTC"
    own.close()
    assert Path(str(address)).name.startswith("steerseg_")
