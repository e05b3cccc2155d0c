"""A database that is full, read-only, locked or damaged: the server says so at once, and keeps what it acknowledged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from ml_backend.database import sqlite as sqlite_module
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from tests.support.annotation_samples import annotation, event_body
from tests.support.backend import Backend, MakeBackend, recorded

pytestmark = pytest.mark.timeout(120)
PROJECT = int(recorded("setup")["project"].partition(".")[0])
PAGES = (
    "/",
    "/pages/jobs",
    f"/pages/projects/{PROJECT}",
    f"/pages/projects/{PROJECT}/versions",
    "/jobs",
    "/metrics",
)

Storm = Callable[[Backend], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _every_connection(backend: Backend, statement: str, undo: str) -> Iterator[None]:
    """Run a statement on each connection that is opened from now on, and its opposite on each one afterwards."""
    engine = backend.database._engine

    def run(text: str) -> Callable[[Any, object], None]:
        return lambda connection, _: void(connection.execute(text))

    during, after = run(statement), run(undo)
    sqlalchemy_event.listen(engine, "connect", during)
    backend.database.close()
    yield
    sqlalchemy_event.remove(engine, "connect", during)
    sqlalchemy_event.listen(engine, "connect", after)
    backend.database.close()


def void(_: object) -> None:
    """Return nothing."""


@contextlib.contextmanager
def full(backend: Backend) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(backend.database.address)) as connection:
        # What is free within the file does not count.
        connection.execute("VACUUM")
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    with _every_connection(backend, f"PRAGMA max_page_count={pages}", "PRAGMA max_page_count=1000000000"):
        yield


@contextlib.contextmanager
def read_only(backend: Backend) -> Iterator[None]:
    with _every_connection(backend, "PRAGMA query_only=ON", "PRAGMA query_only=OFF"):
        yield


@contextlib.contextmanager
def locked(backend: Backend) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(backend.database.address, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


STORMS: dict[str, tuple[Storm, str]] = {
    "full": (full, "the disk is full"),
    "read-only": (read_only, "cannot be opened for writing"),
    "locked": (locked, "was locked for over"),
}


def ask_health(backend: Backend) -> dict[str, Any]:
    answer = backend.client.get("/health")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def big(number: int) -> dict[str, Any]:
    """An event that finds no room in what a database has left over."""
    return event_body("ANNOTATION_CREATED", {**annotation([], number), "note": "x" * 200_000})


@pytest.mark.parametrize(("storm", "said"), STORMS.values(), ids=STORMS)
def test_a_server_says_what_ails_its_database_and_goes_on_afterwards(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, storm: Storm, said: str
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_MS", 100)
    backend = make_backend()
    backend.post("/setup", recorded("setup"))
    backend.post("/webhook", big(1))
    backend.database.close()
    with storm(backend):
        for number in range(2, 12):
            refused = backend.client.post("/webhook", json=big(number))
            assert refused.status_code == 503, "what is not on disk is not acknowledged"
            assert said in refused.get_json()["error"]
            assert refused.headers["Retry-After"]
            assert ask_health(backend)["status"] == "UP"
        for page in PAGES:
            assert backend.client.get(page).status_code == 200, "reading goes on"
        with pytest.raises(StoreError, match=said):
            backend.service.ingestor.catch_up()
        assert EventStore(backend.database).count() == 1
    backend.post("/webhook", big(12))
    assert backend.service.ingestor.catch_up() == 2
    assert EventStore(backend.database).count() == 2
    with backend.database.reading() as session:
        found = session.connection().exec_driver_sql("SELECT id FROM annotations ORDER BY id").all()
    assert [number for (number,) in found] == [1, 12]


def read_all(path: Path) -> None:
    """Take up what a database holds, as a server does that starts."""
    database = Database(path)
    try:
        EventStore(database).dispatch([])
        EventStore(database).unprocessed(1000)
    finally:
        database.close()


@pytest.mark.parametrize("start", [0, 4096, 8192])
def test_a_damaged_database_is_named_and_is_not_made_worse(
    make_backend: MakeBackend, tmp_path: Path, start: int
) -> None:
    backend = make_backend()
    backend.post("/setup", recorded("setup"))
    for number in range(20):
        backend.post("/webhook", big(number))
    path = backend.database.address
    backend.service.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (size - start if start else 4096))
    damaged = path.read_bytes()

    with pytest.raises(StoreError, match="is damaged; restore a backup, or move it away"):
        read_all(path)
    assert path.read_bytes()[start : start + 4096] == damaged[start : start + 4096]


def test_a_database_that_is_damaged_under_a_running_server_loses_no_acknowledged_event(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend()
    backend.post("/setup", recorded("setup"))
    for number in range(1, 9):
        backend.post("/webhook", big(number))
    backend.database.close()  # with the last connection, all is written to the file
    path = backend.database.address
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (len(whole) - 4096))
    answer = backend.client.post("/webhook", json=big(9))
    assert answer.status_code == 503
    assert "is damaged" in answer.get_json()["error"]
    for page in PAGES[:4]:
        assert backend.client.get(page).status_code == 503
    assert ask_health(backend)["status"] == "UP"
    backend.database.close()
    path.write_bytes(whole)  # the backup
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    backend.post("/webhook", big(10))
    assert backend.service.ingestor.catch_up() == 9
