"""A database of any earlier layout opens with everything in it, after a backup, and ends equal to the tables."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy import event as sqlalchemy_event

from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database import layout as layout_module
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.layout import LAYOUT, migrate
from ml_backend.database.tables import Base
from ml_backend.interactive.store import TaskStateKey, TaskStateStore
from ml_backend.jobs.store import JobStore
from ml_backend.refinement.store import RefinementStore
from ml_backend.refinement.version_store import VersionStore

FIXTURES = Path(__file__).parents[2] / "fixtures"
# Tables that came without a layout of their own: a database of that layout may lack them.
OLD = [(1, ()), (2, ()), (3, ()), (4, ()), (4, ("steering", "tasks")), (5, ()), (5, ("submitted_steering",))]
# Columns that each of these layouts has.
ROWS = """
INSERT INTO projects (id, uid, label_config, hostname, extra_params, last_seen)
VALUES (1, '1.2', '<View/>', 'http://ls', '{"a": 1}', '2026-11-22 15:00:00.000000');
INSERT INTO events (id, received_at, action, project_id, payload)
VALUES (3, '2026-11-22 15:00:00.000000', 'ANNOTATION_CREATED', 1, '{}');
INSERT INTO jobs (id, kind, key, state, priority, stage, fraction, attempts, created_at)
VALUES (4, 'propose', 'k', 'done', 1, 'tracking', 0.5, 1, '2026-11-22 15:00:00.000000');
INSERT INTO proposals (id, project_id, task_id, media_digest, expression, version, path, score, created_at)
VALUES (6, 1, 2, 'd', 'the ball', 'v1', 'p', 0.5, '2026-11-22 15:00:00.000000');
"""
VERSION_ROW = """
INSERT INTO prompt_versions (id, project_id, name, status, path, metrics, reason, created_at)
VALUES (5, 1, 'r1', 'champion', 'prompts/r1', '{}', '', '2026-11-22 15:00:00.000000');
"""
Rows = dict[str, list[dict[str, Any]]]


def made_by_release(path: Path, layout: int, without: Sequence[str] = ()) -> Path:
    """A database as the release of that layout left it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((FIXTURES / f"store-layout-{layout}.sql").read_text())
        if layout < 5:
            connection.executescript(ROWS)
        if layout < 3:
            connection.executescript(VERSION_ROW)
        for table in without:
            connection.execute(f"DROP TABLE {table}")
    return path


def rows_of(path: Path) -> Rows:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in tables
        }


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-layout-*"))


def differences(path: Path) -> list[Any]:
    """What Alembic would change to make a database equal to the tables."""
    with create_engine(f"sqlite:///{path}").connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


def described(path: Path) -> dict[str, Any]:
    """Columns, keys and indexes of every table, defaults of the database itself apart."""
    inspector = inspect(create_engine(f"sqlite:///{path}"))
    return {
        table: {
            "columns": {
                column["name"]: (repr(column["type"]), column["nullable"], column["primary_key"])
                for column in inspector.get_columns(table)
            },
            "foreign keys": sorted(
                str(key["constrained_columns"]) + key["referred_table"]
                for key in inspector.get_foreign_keys(table)
            ),
            "unique": sorted(str(key["column_names"]) for key in inspector.get_unique_constraints(table)),
            "indexes": sorted(
                (str(index["name"]), str(index["column_names"])) for index in inspector.get_indexes(table)
            ),
        }
        for table in inspector.get_table_names()
    }


# --- equal ends


def test_the_newest_migration_is_the_layout_of_this_release() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(layout_module.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == f"{LAYOUT:04d}"
    assert [script.revision for script in scripts.walk_revisions()] == [
        f"{n:04d}" for n in range(LAYOUT, 0, -1)
    ]


def test_migrations_from_nothing_lead_to_what_a_fresh_database_is(tmp_path: Path) -> None:
    fresh, migrated = tmp_path / "fresh.sqlite", tmp_path / "migrated.sqlite"
    Database(fresh).close()
    with create_engine(f"sqlite:///{migrated}").begin() as connection:
        migrate(connection)
    assert differences(fresh) == differences(migrated) == []
    assert described(fresh) == described(migrated)
    assert rows_of(fresh) == rows_of(migrated), (
        "the layout, for this release and for those before the migrations"
    )


@pytest.mark.parametrize(("layout", "without"), OLD)
def test_a_database_of_an_earlier_layout_opens_with_everything_in_it(
    tmp_path: Path, layout: int, without: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = made_by_release(tmp_path / "store.sqlite", layout, without)
    before = rows_of(path)
    kept = dict(before)
    if "annotations" in before:
        kept["annotations"] = [{**row, "digest": ""} for row in before["annotations"]]
    fresh = tmp_path / "fresh.sqlite"
    Database(fresh).close()
    with caplog.at_level(logging.INFO):
        Database(path).close()
    assert differences(path) == []
    assert described(path) == described(fresh)
    now = rows_of(path)
    assert now.pop("schema_version") == [{"version": 8}], "what earlier releases refuse"
    for table, rows in kept.items():  # annotations are read anew
        assert (
            table == "schema_version"
            or [{name: row[name] for name in old} for row, old in zip(now[table], rows, strict=True)] == rows
        ), table
    assert all(event["dispatched_at"] == event["received_at"] for event in now["events"])
    (backup,) = backups(path)
    assert backup.name.startswith(f"store-layout-{layout}-")
    assert backup.stat().st_mode & 0o777 == 0o600
    assert rows_of(backup) == before
    assert str(backup) in caplog.text
    Database(path).close()
    assert backups(path) == [backup], "there is nothing to migrate any more"


def test_what_the_release_before_stored_is_read_as_it_read_it(tmp_path: Path) -> None:
    database = Database(made_by_release(tmp_path / "store.sqlite", 5))
    corrections = CorrectionStore(database)
    expected = json.loads((FIXTURES / "store-layout-5.json").read_text())
    found = {
        "corrections": plain(corrections.corrections(1)),
        "pending": plain(CompletionStore(database).pending()),
        "set_aside": plain(corrections.list_set_aside()),
        "counts": plain(corrections.counts(1)),
    }
    assert known_then(found, expected) == expected
    assert [one.label for one in corrections.corrections(1)] == ["object 1", "object 1", "object 1"]
    steering = TaskStateStore(database)
    for held in (steering.get(TaskStateKey(1, 5, 3, "frames")), steering.submitted(70, "frames")):
        assert held is not None
        assert held.instances[0].expression == "the red ball"
        assert held.instances[0].painted == {1: None}
    assert [version.name for version in VersionStore(database).versions(1)] == ["r1-11111111", "r2-22222222"]
    assert [str(one.state) for one in RefinementStore(database).latest()] == ["waiting", "promoted"]
    assert [job.message for job in JobStore(database).newest()] == ["", "", "tracking, 6 of 12 frames"]
    assert [event.id for event in EventStore(database).unprocessed()] == [12]
    database.close()


def known_then(value: Any, then: Any) -> Any:
    """A value without the fields that an earlier release did not have."""
    if isinstance(value, dict) and isinstance(then, dict):
        return {name: known_then(item, then[name]) for name, item in value.items() if name in then}
    if isinstance(value, list) and isinstance(then, list):
        return [known_then(one, other) for one, other in zip(value, then, strict=True)]
    return value


def plain(value: Any) -> Any:
    """Dataclasses as JSON has them."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def test_opening_what_is_up_to_date_does_without_alembic(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from ml_backend.database.database import Database
for _ in range(2):
    Database(Path(sys.argv[1])).close()
assert not any(name.partition(".")[0] == "alembic" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "store.sqlite")], check=True)


# --- when it goes wrong


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = made_by_release(tmp_path / "store.sqlite", 5)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE events ADD COLUMN dispatched_at DATETIME")
    before = rows_of(path)
    with pytest.raises(StoreError, match="duplicate column name"):
        Database(path)
    assert rows_of(path) == before
    assert backups(path) == []


def test_without_a_backup_nothing_is_migrated(tmp_path: Path) -> None:
    path = made_by_release(tmp_path / "store.sqlite", 5)
    before = rows_of(path)
    assert path.stat().st_size > 65536

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))  # bytes of any one file
        with pytest.raises(StoreError, match=r"its backup .* could not be written .*; nothing was changed"):
            Database(path)

    assert in_child(no_room) == 0
    assert rows_of(path) == before
    assert backups(path) == []


def test_a_kill_in_the_middle_of_a_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    """SIGKILL before the n-th statement, for n spread over all of them."""
    killed = 0
    for number in range(8, 100, 8):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = made_by_release(folder / "store.sqlite", 1)

        def migrate_until() -> None:
            statements = 0

            def count(*_: Any) -> None:
                nonlocal statements
                statements += 1
                if statements == number:  # noqa: B023 - called before the next one
                    os.kill(os.getpid(), signal.SIGKILL)

            sqlalchemy_event.listen(Engine, "before_cursor_execute", count)
            Database(path)  # noqa: B023

        status = in_child(migrate_until)
        Database(path).close()
        assert differences(path) == []
        assert [event["id"] for event in rows_of(path)["events"]] == [3]
        if status == 0:
            break
        killed += 1
    assert killed >= 4


def test_of_several_processes_that_start_at_once_one_migrates(tmp_path: Path) -> None:
    path = made_by_release(tmp_path / "store.sqlite", 1)
    script = """
import sys
from pathlib import Path
from ml_backend.database.database import Database
Database(Path(sys.argv[1]))
"""
    starting = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]
    assert [process.wait() for process in starting] == [0, 0, 0]
    assert len(backups(path)) == 1
    assert differences(path) == []


def in_child(work: Any) -> int:
    """Do something in a process of its own; return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            logging.getLogger(__name__).exception("in the child")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status
