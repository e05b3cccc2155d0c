"""The database: what is kept, what happens once, and what is said when it cannot be used."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import JobState, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from tests.support.databases import EACH_DATABASE, ONLY_SQLITE

pytestmark = EACH_DATABASE

KEY = ProposalKey("digest", "the ball", "v1")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "data" / "store.sqlite")
    ProjectStore(made).save(1, uid="1.2", label_config="<View/>", hostname="http://ls", extra_params={"a": 1})
    return made


@ONLY_SQLITE
def test_it_is_in_wal_mode_and_checks_foreign_keys(database: Database) -> None:
    assert sqlite3.connect(database.address).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        ProposalStore(database).add(KEY, project_id=99, task_id=1, path="p", score=None)


def test_a_project_is_updated_in_place(database: Database) -> None:
    ProjectStore(database).save(1, uid="1.2", label_config="<New/>", hostname="http://ls", extra_params={})
    (project,) = ProjectStore(database).all()
    assert (project.label_config, project.extra_params) == ("<New/>", {})
    assert project.last_seen.tzinfo is not None
    assert ProjectStore(database).find(2) is None


def test_a_job_ends_once(database: Database) -> None:
    job = JobStore(database).add("propose", "key", project_id=1, task_id=2, priority=1)
    assert JobStore(database).newest()[0].state is JobState.QUEUED
    JobStore(database).update(job, stage="tracking", fraction=0.5, attempts=1)
    running = JobStore(database).newest()[0]
    assert (running.state, running.stage, running.fraction) == (JobState.RUNNING, "tracking", 0.5)
    JobStore(database).finish(job, JobState.DONE)
    JobStore(database).finish(job, JobState.FAILED, error="too late")
    JobStore(database).update(job, stage="grounding", fraction=0.1, attempts=2)
    done = JobStore(database).newest()[0]
    assert (done.state, done.error, done.stage, done.attempts) == (JobState.DONE, None, "tracking", 1)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.started_at <= done.finished_at


def test_jobs_that_a_stopped_server_left_are_failed(database: Database) -> None:
    JobStore(database).add("propose", "a", project_id=1, task_id=1, priority=1)
    done = JobStore(database).add("propose", "b", project_id=1, task_id=2, priority=1)
    JobStore(database).finish(done, JobState.DONE)
    assert JobStore(database).fail_unfinished("stopped") == 1
    counts = JobStore(database).count_by_state()
    assert (counts[JobState.FAILED], counts[JobState.DONE], counts[JobState.QUEUED]) == (1, 1, 0)


def test_a_proposal_is_found_by_content_words_and_version(database: Database) -> None:
    assert ProposalStore(database).find(KEY) is None
    for task in (1, 2, 2):
        ProposalStore(database).add(KEY, project_id=1, task_id=task, path="p.json.gz", score=0.5)
    assert ProposalStore(database).count() == 2
    assert ProposalStore(database).find(KEY) == "p.json.gz"
    assert ProposalStore(database).find(ProposalKey("digest", "the ball", "v2")) is None


def test_threads_write_without_losing_anything(database: Database) -> None:
    def write() -> None:
        for _ in range(20):
            EventStore(database).add("ANNOTATION_CREATED", 1, {"x": "ü"})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert EventStore(database).count() == 160


@ONLY_SQLITE
def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    script = """
        import os, signal, sys
        from pathlib import Path
        from ml_backend.database.database import Database
        from ml_backend.database.events import EventStore
        store = EventStore(Database(Path(sys.argv[1])))
        for number in range(10):
            store.add("X", None, {"number": number})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert EventStore(Database(path)).count() == 10


def test_it_opens_again_with_what_it_had(database: Database) -> None:
    EventStore(database).add("X", 1, {})
    database.close()
    assert EventStore(Database(database.address)).count() == 1


@ONLY_SQLITE
def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreError, match=r"store\.sqlite is damaged; restore a backup"):
        Database(path)


@ONLY_SQLITE
def test_a_database_of_a_newer_release_is_refused(database: Database) -> None:
    database.close()
    with sqlite3.connect(database.address) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(StoreError, match="layout 99"):
        Database(database.address)


@ONLY_SQLITE
def test_a_database_that_stays_locked_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.close()
    monkeypatch.setattr("ml_backend.database.errors.BUSY_TIMEOUT_MS", 50)
    other = sqlite3.connect(database.address, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="was locked"):
        EventStore(database).add("X", None, {})
    other.execute("ROLLBACK")
    EventStore(database).add("X", None, {})


@ONLY_SQLITE
def test_a_full_disk_says_so_and_loses_nothing_older(database: Database) -> None:
    EventStore(database).add("X", None, {})
    database.close()
    # SQLite's own page limit gives the very error of a full disk.
    from sqlalchemy import event

    pages = sqlite3.connect(database.address).execute("PRAGMA page_count").fetchone()[0]
    event.listen(database._engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(StoreError, match="the disk is full"):
        EventStore(database).add("X", None, {"long": "x" * 1_000_000})
    assert EventStore(database).count() >= 1


@ONLY_SQLITE
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="STEERSEG_DATA_DIR"):
        Database(tmp_path / "data" / "store.sqlite")


@ONLY_SQLITE
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="STEERSEG_DATA_DIR"):
        Database(tmp_path / "file" / "data" / "store.sqlite")


@ONLY_SQLITE
def test_what_need_not_last_waits_for_no_disk(tmp_path: Path) -> None:
    database = Database(tmp_path / "steerseg.sqlite")

    def synchronous(session: Session) -> int:
        return int(session.scalar(text("PRAGMA synchronous")))

    full, normal = 2, 1
    for _ in range(2):  # the connection is the same one
        with database.writing() as session:
            assert synchronous(session) == full
            with database.writing(durable=False) as inner:
                assert synchronous(inner) == full
        with database.writing(durable=False) as session:
            assert synchronous(session) == normal
            with pytest.raises(AssertionError), database.writing():
                pass
    database.close()
